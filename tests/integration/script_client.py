"""A client of the service that shares no code with ours: tpm2-tools and curl, as a script would use them.

It comes in the spellings of the clients in the field: what separates the parts of `sr`, in which case, how long the
token lives, whether the second request repeats the `tpm` body, which API version is asked for, and whether a GET has
a body.
"""
import base64
import contextlib
import json
import os
import subprocess
import time
import urllib.parse

from harness import DEADLINE, Process, listens, wait_for

EK, SRK = "0x81010001", "0x81000001"
PARTS = ("id_object", "credential_secret", "private", "seed", "public", "data")
API = "api-version=2021-06-01"


def split(blob):
    """The TPM2Bs of an authenticationKey, each with its size field."""
    blob, parts = base64.b64decode(blob, validate=True), []
    while blob:
        size = 2 + int.from_bytes(blob[:2], "big")
        assert size <= len(blob)
        parts.append(blob[:size])
        blob = blob[size:]
    return dict(zip(PARTS, parts, strict=True))


class Tpm:
    """swtpm with a persistent endorsement key and storage root key."""

    def __init__(self, directory):
        self.dir = directory
        self.process = Process(["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}", "--server",
                                f"type=unixio,path={directory}/tpm", "--ctrl", f"type=unixio,path={directory}/tpm.ctrl",
                                "--flags", "not-need-init,startup-clear"], "swtpm")
        wait_for("swtpm", lambda: listens(directory / "tpm") and listens(directory / "tpm.ctrl"))
        self.tool("createek", "-c", EK, "-G", "rsa")
        self.tool("createprimary", "-C", "o", "-c", "srk", "-G", "rsa2048:aes128cfb", "-a",
                  "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt")
        self.tool("evictcontrol", "-C", "o", "-c", "srk", SRK)
        self.tool("flushcontext", "-t")
        self.ek, self.srk = (self.public(handle) for handle in (EK, SRK))

    def close(self):
        self.process.kill()

    def tool(self, name, *arguments, data=None):
        result = subprocess.run([f"tpm2_{name}", *arguments], input=data, capture_output=True, check=False, cwd=self.dir,
                                timeout=DEADLINE, env={**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={self.dir}/tpm"})
        if result.returncode != 0:
            raise TpmRefused(f"tpm2_{name}: {result.stderr.decode()}")
        return result.stdout

    def public(self, handle):
        self.tool("readpublic", "-c", handle, "-f", "tss", "-o", "public")
        return base64.b64encode((self.dir / "public").read_bytes()).decode()

    def activate(self, blob):
        """Opens an authenticationKey; the context of the loaded key."""
        parts = split(blob)
        for name, part in parts.items():
            (self.dir / name).write_bytes(part)
        (self.dir / "credential").write_bytes(bytes.fromhex("badcc0de00000001") + parts["id_object"] +
                                              parts["credential_secret"])
        self.tool("startauthsession", "--policy-session", "-S", "session")
        try:
            self.tool("policysecret", "-S", "session", "-c", "e")
            self.tool("activatecredential", "-c", SRK, "-C", EK, "-i", "credential", "-o", "inner", "-P",
                      "session:session")
        finally:
            self.tool("flushcontext", "session")
        self.tool("import", "-C", SRK, "-i", "private", "-u", "public", "-s", "seed", "-k", "inner", "-r", "imported")
        self.tool("load", "-C", SRK, "-u", "public", "-r", "imported", "-c", "key")
        self.tool("flushcontext", "-t")
        return self.dir / "key"

    def hmac(self, key, text):
        signature = self.tool("hmac", "-c", key, "-g", "sha256", data=text.encode())
        self.tool("flushcontext", "-t")
        return signature


class TpmRefused(Exception):
    pass


class Reply:
    def __init__(self, head, body):
        lines = head.replace("\r", "").strip().split("\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.text = body
        self.body = None
        with contextlib.suppress(ValueError):
            self.body = json.loads(body)

    def __repr__(self):
        return f"{self.status} {self.headers} {self.text}"


class Script:
    def __init__(self, url, ca, tpm, scope, registration_id, spelling="%2F", lower=False, life=3600, key_name="registration",
                 repeat_tpm=True, content_type="application/json; charset=utf-8", api=API, poll_body=None):
        self.url, self.ca, self.tpm, self.scope, self.registration_id = url, ca, tpm, scope, registration_id
        self.spelling, self.lower, self.life, self.key_name = spelling, lower, life, key_name
        self.repeat_tpm, self.content_type = repeat_tpm, content_type
        self.api, self.poll_body = api, poll_body

    def request(self, method, path, body=None, token=None, host=None):
        command = ["curl", "-sS", "--max-time", str(DEADLINE), "--noproxy", "*", "--cacert", self.ca, "-X", method,
                   "-D", "-", "-H", f"Content-Type: {self.content_type}", f"{self.url}{path}"]
        for option, value in (("-d", body is not None and json.dumps(body)), ("-H", token and f"Authorization: {token}"),
                              ("-H", host and f"Host: {host}")):
            command += [option, value] if value else []
        result = subprocess.run(command, capture_output=True, check=False, timeout=DEADLINE + 10)
        assert result.returncode == 0, result
        head, _, text = result.stdout.partition(b"\r\n\r\n")
        return Reply(head.decode(), text.decode(errors="replace"))

    def token(self, resource, key, key_name=None):
        resource = urllib.parse.quote(resource.lower() if self.lower else resource, safe="/:")
        resource = resource.replace("/", self.spelling)
        expiry = int(time.time()) + self.life
        signature = base64.b64encode(self.tpm.hmac(key, f"{resource}\n{expiry}")).decode()
        name = "" if key_name is None else f"&skn={key_name}"
        return (f"SharedAccessSignature sr={resource}&sig={urllib.parse.quote(signature, safe='')}"
                f"&se={expiry}{name}")

    def body(self, tpm=True, **changes):
        keys = {"tpm": {"endorsementKey": self.tpm.ek, "storageRootKey": self.tpm.srk}} if tpm else {}
        return {"registrationId": self.registration_id, **keys, **changes}

    def path(self, rest="register"):
        return f"/{self.scope}/registrations/{self.registration_id}/{rest}?{self.api}"

    def challenge(self):
        return self.request("PUT", self.path(), self.body())

    def registration_token(self, challenge):
        key = self.tpm.activate(challenge.body["authenticationKey"])
        return self.token(f"{self.scope}/registrations/{self.registration_id}", key, self.key_name)

    def confirm(self, token):
        return self.request("PUT", self.path(), self.body(tpm=self.repeat_tpm), token)

    def poll(self, operation, token):
        return self.request("GET", self.path(f"operations/{operation}"), self.poll_body, token)

    def register(self):
        """The whole way; the replies in order. The last one is the first that isn't `assigning`."""
        replies = [self.challenge()]
        token = self.registration_token(replies[0])
        replies.append(self.confirm(token))
        assert replies[1].status == 202, replies[1]
        while True:
            replies.append(self.poll(replies[1].body["operationId"], token))
            if replies[-1].status != 202:
                return replies

    def modules(self, hub, device, key, method="GET", module=None, body=None):
        """The hub's side, asked as aziot-identityd does."""
        token = self.token(f"{hub}/devices/{device}", key)
        path = f"/devices/{device}/modules" + (f"/{urllib.parse.quote(module, safe='')}" if module else "")
        return self.request(method, f"{path}?api-version=2017-11-08-preview", body, token, hub)
