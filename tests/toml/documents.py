"""TOML documents made at random: what IoT Edge's config.toml may look like and far beyond, and what is not quite TOML."""
import re

KEYS = ["a", "b", "name", "source", "image", "uri", "-", "_", "3", "1e3", "true", "id_scope", "method"]
ODD_KEYS = ["", " ", "a.b", "provisioning", "provisioning ", "Provisioning", "é", "#", "]", "[", "=", "\"", "'", "\\",
            "\t", "\u001f", "provisioning\u001fsource", "\u0000"]
TEXTS = ["", "x", "dps", "tpm", "[provisioning]", "\n[provisioning]\nsource = \"manual\"\n", "# no comment", "\"",
         "'", "\"\"", "''", "\\", "a\\", "]", "}", "=", "\t", "é€😀", "\u0000", "\u0001", "unix:///var/run/x.sock",
         "\n", "\n\n", "[[provisioning]]", "HostName=h;SharedAccessKey=YXppb3Q="]
BARE = ["true", "false", "0", "-1", "+1_000", "0x1_00", "0o17", "0b1", "1.5", "-0.0", "1e6", "6.6e-34", "inf", "-inf",
        "nan", "1979-05-27T07:32:00Z", "1979-05-27 07:32:00", "1979-05-27T00:32:00.999-07:00", "1979-05-27", "07:32:00"]
BARE_11 = ["07:32", "1979-05-27T07:32", "1979-05-27 07:32Z", "1979-05-27t07:32+01:00"]
NOT_BARE = ["01", "-01", "1__0", "_1", "1_", "0x", "0xg", "0o8", "0b2", "0b", "+0x1", "-0b1", "0X1", "1.", ".5", "1._5", "1_.5",
            "1.5_", "1e", "1e+", "1e_1", "1e1.5", "--1", "+", "-", "infinity", "Inf", "nan0", "+true", "True", "truefalse",
            "yes", "x", "1 2", "1979-13-27", "1979-00-27", "1979-05-32", "1979-02-29", "1900-02-29", "1979-5-27",
            "79-05-27", "19790-05-27", "1979-05-27T", "1979-05-27T7:32:00", "1979-05-27T24:00:00", "1979-05-27T07:60:00",
            "1979-05-27T07:32:61", "1979-05-27T07:32:00.", "1979-05-27T07:32:00+24:00", "1979-05-27T07:32:00+0100",
            "1979-05-27T07:32:00ZZ", "1979-05-27  07:32:00", "07:32:00Z", "07:32:", "7:32", "07", "07:3", "2000-02-29",
            "07:32:00+01:00", "1979-05-27T07:32.5", "1979-05-27_07:32"]
CHARACTERS = ["\"", "'", "[", "]", "{", "}", "#", "\n", "\r", ".", ",", "=", "\\", " ", "0", "1", "_", "-", "+", "e", ":", "T",
              "\\x", "\\u", "\\e", "\\U00110000", "\\ud800", "\t", "\x00", "\x08", "\x1f", "\x7f", "\x80", "é", "\ufeff",
              "\udc80", "\udcc3(", "\udce0\udc80\udc80", "\udced\udca0\udc80", "\udcf4\udc90\udc80\udc80", "\udcc3"]
BLANKS = [""] * 8 + [" "] * 3 + ["\t", "  "]
BARE_KEY = re.compile("[A-Za-z0-9_-]+")
MUTANTS = 4  # of a document; to make one takes longer than to mutate it
TEMPLATE = """\
# This file is used to configure the IoT Edge runtime.
# hostname = "my-device"
# parent_hostname = "my-parent-device"
# trust_bundle_cert = "file:///var/aziot/certs/trust-bundle.pem"

# [provisioning]
# source = "manual"
# connection_string = "HostName=example.azure-devices.net;DeviceId=my-device;SharedAccessKey=YXppb3Q="
#
# [provisioning.attestation]
# method = "tpm"
# registration_id = "my-device"
@PROVISIONING@
# auto_reprovisioning_mode = "Dynamic"

# [cert_issuance.est]
# trusted_certs = [
#     "file:///var/aziot/certs/est-ca.pem",
# ]

[aziot_keys]
# pkcs11_lib_path = "/usr/lib/libmypkcs11.so"

[agent]
name = "edgeAgent"
type = "docker"
imagePullPolicy = "on-create"

[agent.config]
image = "mcr.microsoft.com/azureiotedge-agent:1.5"
createOptions = { HostConfig = { Binds = ["/iotedge/storage:/iotedge/storage"] } }

[agent.config.auth]
# serveraddress = "example.azurecr.io"

[agent.env]
# "Backwards.Compat" = "1"
"storageFolder" = '/iotedge/storage'

[edge_ca]
# auto_renew.rotate_key = true
auto_renew = { rotate_key = true, threshold = "80%", retry = "4%" }

[watchdog]
max_retries = "infinite"

[connect]
workload_uri = "unix:///var/run/iotedge/workload.sock"
management_uri = "unix:///var/run/iotedge/mgmt.sock"

[listen]
workload_uri = "fd://aziot-edged.workload.socket"
management_uri = "fd://aziot-edged.mgmt.socket"
min_tls_version = "tls1.2"

[image_garbage_collection]
enabled = true

[moby_runtime]
uri = "unix:///var/run/docker.sock"
network = "azure-iot-edge"
allow_elevated_docker_permissions = true

[[principal]]
uid = 0
name = "local"

[tpm]
auth_key_index = 0x0001_00
hierarchy_authorization = { endorsement = "", owner = "" }
"""


class Maker:
    """One document, with a unique comment on every line that is nothing else."""

    def __init__(self, rng):
        self.random = rng.random  # its choice() and randrange() take several times as long
        self.new = self.random() < 0.3  # what TOML has since 1.1
        self.comments = 0
        self.used = set()

    def below(self, limit):
        return int(self.random() * limit)

    def any_of(self, choices):
        return choices[int(self.random() * len(choices))]

    def one_of(self, *choices):
        return self.any_of(choices)

    def blank(self):
        return BLANKS[int(self.random() * len(BLANKS))]

    def comment(self, mark=""):
        self.comments += 1
        return f"{self.blank()}#{mark}{self.comments} {self.one_of('', 'x', '[provisioning]', 'é', chr(39) * 3, '[[')}"

    def escaped(self, text, quotes, multi_line=False):
        out = ""
        for c in text:
            if c == "\n" and multi_line:
                out += self.one_of("\n", "\\n", "\n\\\n  \t")
            elif c in "\"\\":
                out += "\\" + c if c == "\\" or not multi_line or self.random() < 0.5 else c
            elif self.new and ord(c) < 256 and self.random() < 0.1:
                out += "\\e" if c == "\x1b" else f"\\x{ord(c):02x}"
            elif ord(c) < 32 and c != "\t" or self.random() < 0.05:
                out += f"\\U{ord(c):08x}" if ord(c) > 0xffff or self.random() < 0.2 else f"\\u{ord(c):04X}"
            else:
                out += c
        while quotes in out.replace("\\" + quotes[0], "__") and multi_line:
            out = out.replace(quotes, "\"\"\\\"")
        return out

    def string(self, text):
        literal = "'" not in text and not any(ord(c) < 32 and c not in "\t\n" for c in text)
        choice = self.below(4)
        if choice == 0 and literal and "\n" not in text:
            return f"'{text}'"
        if choice == 1 and literal:
            return "'''" + self.one_of("", "\n") * (not text.startswith("\n")) + "\n" * text.startswith("\n") \
                + text + self.one_of("", "'", "''") + "'''"
        if choice == 2:
            return "\"\"\"\n" + self.escaped(text, "\"\"\"", True).removesuffix("\"") + self.one_of("", "\\\"") + "\"\"\""
        return "\"" + self.escaped(text, "\"") + "\""

    def key_part(self, key):
        if BARE_KEY.fullmatch(key) and self.random() < 0.8:
            return key
        if self.random() < 0.3 and "'" not in key and not any(ord(c) < 32 and c != "\t" for c in key):
            return f"'{key}'"
        return "\"" + self.escaped(key, "\"") + "\""

    def key(self, parts):
        return f"{self.blank()}.{self.blank()}".join(self.key_part(part) for part in parts)

    def name(self):
        if self.random() < 0.2:
            return self.any_of(ODD_KEYS)
        return self.any_of(KEYS) + str(self.below(4))

    def array(self, depth):
        out = "["
        for _ in range(self.below(4)):
            out += self.one_of("", " ", "\n", f"{self.comment('v')}\n\t", "\n\n") + self.value(depth + 1) + \
                self.one_of("", " ", "\n") + ","
        return (out.removesuffix(",") if self.random() < 0.5 else out) + \
            self.one_of("", "\n", f" {self.comment('v')}\n") + "]"

    def inline_table(self, depth):
        pairs = {self.name(): None for _ in range(self.below(4))}
        line = [self.blank, lambda: self.one_of("\n", f"{self.comment('v')}\n", " \n\t")][self.new]
        return "{" + ",".join(f"{line()}{self.blank()}{self.key([k] + self.one_of([], ['x']))} = {self.value(depth + 1)}"
                              f"{self.blank()}" for k in pairs) + self.one_of("", ",") * (self.new and len(pairs) > 0) \
            + line() + "}"

    def value(self, depth=0):
        choice = self.below(10 if depth < 3 else 7)
        if choice < 4:
            return self.string(self.any_of(TEXTS))
        if choice < 7:
            return self.any_of(BARE + BARE_11 * self.new)
        return self.array(depth) if choice < 9 else self.inline_table(depth)

    def pair(self, parts, value=None):
        return f"{self.blank()}{self.key(parts)}{self.blank()}={self.blank()}{value or self.value()}" \
            + (self.comment() if self.random() < 0.15 else self.blank())

    def pairs(self, prefix=()):
        names = {self.name(): None for _ in range(self.below(4))}
        out = []
        for name in names:
            parts = [*prefix, name] + ([self.name()] if self.random() < 0.15 else [])
            if tuple(parts) == ("provisioning",) and self.random() < 0.8:
                continue
            out.append(self.pair(parts))
            if self.random() < 0.2:
                out.append(self.any_of([self.comment(), "", " \t"]))
        return out

    def header(self, parts, array=False):
        left, right = ("[[", "]]") if array else ("[", "]")
        return f"{self.blank()}{left}{self.blank()}{self.key(parts)}{self.blank()}{right}" \
            + (self.comment() if self.random() < 0.1 else "")

    def table(self):
        parts = [self.name() for _ in range(1 + self.below(3))]
        array = self.random() < 0.25
        if parts[0] == "provisioning" or (not array and tuple(parts) in self.used):
            parts[0] = f"t{len(self.used)}"
        self.used.add(tuple(parts))
        return [self.header(parts, array), *self.pairs(), *self.one_of([], [""], [self.comment(), ""])]

    def provisioning(self):
        """As (lines for the root table, tables)."""
        p, text = "provisioning", self.string
        attestation = [self.pair(["method"], text("tpm")), self.pair(["registration_id"], text("gw"))]
        choice = self.below(14)
        if choice < 4:
            return [], [[self.header([p]), self.pair(["source"], text("dps")), *self.pairs(("x",))],
                        [self.header([p, "attestation"]), *attestation, *self.one_of([], [self.comment(), ""])]]
        if choice == 4:
            return [], [[self.header([p]), *self.pairs(), self.comment()]]
        if choice == 5:
            return [], [[self.header([p, "attestation"]), *attestation]]
        if choice == 6:
            return [], [[self.header([p, "attestation"]), *attestation], [self.header([p]), *self.pairs(("y",))]]
        if choice == 7:
            return [self.pair([p, "source"], text("dps")), self.comment(),
                    self.pair([p, "attestation", "method"])], []
        if choice == 8:
            return [self.pair([p], self.inline_table(0))], []
        if choice == 9:
            return [self.pair([p, "source"], text("dps"))], [[self.header([p, "attestation"]), *attestation]]
        if choice == 10 and self.random() < 0.3:
            return [self.pair([p], self.one_of("1", "[]", "[{ a = 1 }]", text("dps")))], []
        if choice == 11 and self.random() < 0.3:
            return [], [[self.header(self.one_of([p], [p, "list"]), True), *self.pairs()]]
        return [], []

    def document(self):
        root, tables = self.provisioning()
        for _ in range(self.below(5)):
            tables.insert(self.below(len(tables) + 1), self.table())
        lines = self.pairs() + root + self.pairs(("r",)) + [self.comment()]
        for table in tables:
            lines += table
        return self.finish("\n".join(lines))

    def template(self):
        root, tables = self.provisioning()
        if root:
            text = "\n".join(root) + "\n" + TEMPLATE.replace("@PROVISIONING@", "")
        else:
            text = TEMPLATE.replace("@PROVISIONING@", "\n".join("\n".join(table) for table in tables))
        lines = text.split("\n")
        for _ in range(self.below(3)):
            line = self.below(len(lines))
            lines[line] = lines[line].removeprefix("# ") if self.random() < 0.7 else "# " + lines[line]
        return self.finish("\n".join(lines))

    def finish(self, text):
        if self.random() < 0.7:
            text += "\n"
        if self.random() < 0.2:
            text = text.replace("\n", "\r\n")
        return text

    def mutate(self, text):
        for _ in range(1 + self.below(2)):
            lines = text.split("\n")
            a, b = self.below(len(lines)), self.below(len(lines))
            choice = self.below(7)
            at = self.below(len(text) + 1)
            if choice == 0:
                del lines[a]
            elif choice == 1:
                lines[a], lines[b] = lines[b], lines[a]
            elif choice == 2:
                lines.insert(b, lines[a])
            elif choice == 3:
                lines.insert(a, self.one_of("[provisioning]", "[provisioning.x]", "\"\"\"", "'''", "]", "#", "[z]", "[[z]]",
                                                "z.y = 1", "[z.y]", "z = { y.x = 1, y = 2 }", "[[provisioning.x]]",
                                                "provisioning.x = 1", "provisioning.source = 1"))
            if choice < 4:
                text = "\n".join(lines)
            elif choice == 4:
                text = text[:at] + self.any_of(CHARACTERS) + text[at:]
            elif choice == 5:
                odd = self.any_of(NOT_BARE)
                text = re.sub(r"(?<=[=\[,] )[0-9a-z.:+-]+", lambda match: odd, text, count=1 + self.below(3))
            else:
                text = text[:at] + text[at + 1:]
        return text.encode(errors="surrogateescape").decode(errors="surrogateescape")  # bytes may have become characters


def make(rng, kind):
    """Endless."""
    while True:
        maker = Maker(rng)
        text = maker.template() if kind == "template" or kind == "mutated" and rng.random() < 0.1 else maker.document()
        if kind != "mutated":
            yield text
        else:
            yield from (maker.mutate(text) for _ in range(MUTANTS))
