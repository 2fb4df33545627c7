"""What the stand-ins share: where things are, what happened, the faults, and the checks of 'iotedge config apply'."""
import json
import os
import pathlib
import pwd
import re
import socket
import time
import tomllib

SERVICES = ("aziot-edged", "aziot-identityd", "aziot-keyd", "aziot-certd", "aziot-tpmd")
SOCKETS = ("aziot-edged.mgmt", "aziot-edged.workload", "aziot-identityd", "aziot-keyd", "aziot-certd", "aziot-tpmd")
OWNERS = {"keyd": "aziotks", "certd": "aziotcs", "identityd": "aziotid", "tpmd": "aziottpm", "edged": "iotedge"}


class World:
    def __init__(self, options):
        self.root = pathlib.Path(options.root)
        self.log_path = pathlib.Path(options.log)
        self.faults_path = options.faults and pathlib.Path(options.faults)
        self.tcti = options.tcti
        self.hub_ca = options.hub_ca
        self.token_sec = options.token_sec
        self.passed_path = options.passed and pathlib.Path(options.passed)
        self.uptime_path = options.uptime and pathlib.Path(options.uptime)

    def uptime(self):
        """CLOCK_MONOTONIC of the system, in seconds."""
        passed = self.uptime_path.read_text() if self.uptime_path and self.uptime_path.exists() else 0
        return time.clock_gettime(time.CLOCK_MONOTONIC) + int(passed)

    def now(self):
        return time.time() + (int(self.passed_path.read_text()) if self.passed_path else 0)

    def path(self, path):
        return self.root / path.lstrip("/")

    def log(self, event, **fields):
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "time": round(self.uptime(), 6), **fields}) + "\n")

    def fault(self, name):
        try:
            return json.loads(self.faults_path.read_text()).get(name) if self.faults_path else None
        except FileNotFoundError:
            return None

    def write(self, path, text):
        """As the real programs do: in place, so that a power cut may leave a part of it."""
        self.path(path).write_text(text)

    def note_identity_of_edged(self):
        """As aziot-edged does once it has its identity and its engine, and never takes back."""
        path = self.path("/var/lib/aziot/edged/cache/provisioning_state")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()

    def engine_uri(self):
        """Of the container engine, as config.toml names it."""
        try:
            config = tomllib.loads(self.path("/etc/aziot/config.toml").read_text())
        except (OSError, tomllib.TOMLDecodeError):
            config = {}
        return config.get("moby_runtime", {}).get("uri", "unix:///var/run/docker.sock")

    def own(self, path, user):
        """Gives it to the user, where there is one and where we may."""
        try:
            entry = pwd.getpwnam(user)
            os.chown(path, entry.pw_uid, entry.pw_gid)
        except (KeyError, PermissionError):
            pass

    def configured(self, service):
        return self.path(f"/etc/aziot/{service}/config.d/00-super.toml").exists()


class ApplyFailed(Exception):
    """With the job's result, where it is another one than "failed"."""

    def __init__(self, text, result="failed"):
        super().__init__(text)
        self.result = result


def canonical_url(text):
    """A URL of https or file as the URL Standard (WHATWG) parses and serializes it. IoT Edge keeps its URLs in the type
    Url of the Rust crate `url`, which implements this standard."""
    text = text.strip("".join(map(chr, range(0x21)))).translate({ord(c): None for c in "\t\n\r"})
    match = re.fullmatch(r"(?i:(https|file)):([^?#]*)(\?[^#]*)?(#.*)?", text, re.DOTALL)
    if not match:
        raise ApplyFailed(f"invalid URL: {text}")
    scheme, rest = match[1].lower(), match[2].replace("\\", "/")
    if scheme == "https":
        authority, _, path = rest.lstrip("/").partition("/")
    elif rest.startswith("//"):
        authority, _, path = rest[2:].partition("/")
    else:
        authority, path = "", rest.removeprefix("/")
    authority = authority.lower()
    if scheme == "https":
        host, port = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:]+)(?::(\d*))?", authority).groups()
        authority = host if port in (None, "") or int(port) == 443 else f"{host}:{int(port)}"
    elif authority == "localhost":
        authority = ""
    return f"{scheme}://{authority}/{canonical_path(path)}{match[3] or ''}{match[4] or ''}"


def canonical_path(path):
    """Dot segments resolved, and the path percent-encode set encoded."""
    segments = []
    parts = path.split("/")
    for i, part in enumerate(parts):
        dots = re.sub("(?i)%2e", ".", part)
        if dots == "..":
            segments = segments[:-1]
        elif dots != ".":
            segments.append("".join(f"%{c:02X}" if c <= 0x20 or c >= 0x7f or c in b'"#<>?^`{}' else chr(c)
                                    for c in part.encode()))
        if dots in (".", "..") and i == len(parts) - 1:
            segments.append("")
    return "/".join(segments)


def super_payload(world, provisioning):
    """IoT Edge 1.3 knows no payload and ignores it like any other unknown key."""
    payload = provisioning.get("payload")
    if not payload or world.fault("release") == "1.3":
        return None
    return {"uri": canonical_url(payload["uri"])}


MODES = ("Dynamic", "AlwaysOnStartup", "OnErrorOnly")
TYPES = {"hostname": str, "cloud_timeout_sec": int, "cloud_retries": int, "auto_reprovisioning_mode": str,
         "allow_elevated_docker_permissions": bool, "tpm.auth_key_index": int, "tpm.tcti": str,
         "imported_master_encryption_key": str}
URLS = ("additional_info", "trust_bundle_cert", "connect.workload_uri", "connect.management_uri", "listen.workload_uri",
        "listen.management_uri", "moby_runtime.uri")
TABLES = {"agent": {"name", "type", "config"}, "connect": {"workload_uri", "management_uri"},
          "listen": {"workload_uri", "management_uri"}, "moby_runtime": {"uri", "network"},
          "iotedge_max_requests": {"management", "workload"},
          "aziot_max_requests": {"keyd", "certd", "identityd", "tpmd"}}


def value_of(config, path):
    table, _, key = path.rpartition(".")
    return (config.get(table, {}) if table else config).get(key)


def check_tables(world, config):
    """A table needs its members when it exists, also when only a table below it is written."""
    for table, members in TABLES.items():
        if table.endswith("max_requests") and (world.fault("release") or "").startswith("1.3"):
            continue
        if missing := members - config.get(table, dict.fromkeys(members)).keys():
            raise ApplyFailed(f"could not parse config file: {table}: missing fields {missing}")
    ca = config.get("edge_ca")
    if ca is not None and not ({"method", "auto_generated_edge_ca_expiry_days"} & ca.keys() or {"cert", "pk"} <= ca.keys()):
        raise ApplyFailed("could not parse config file: edge_ca: data did not match any variant")


def check_files(world, config):
    """Paths are relative to /. Other schemes than file are not looked at here."""
    key, info = config.get("imported_master_encryption_key"), config.get("additional_info", "")
    for path in (key, info.removeprefix("file://") if info.startswith("file:///") else None):
        if path is not None and not world.path(path).is_file():
            raise ApplyFailed(f"could not read {path}")


def check_values(world, config):
    """serde's types. cloud_timeout_sec has a minimum since 1.4.7; the fault `release` says what is installed."""
    for path, kind in TYPES.items():
        value = value_of(config, path)
        if value is not None and (type(value) is not kind or (kind is int and value < 0)):
            raise ApplyFailed(f"could not parse config file: invalid type for {path}: {value!r}")
    for path in URLS:
        value = value_of(config, path)
        if value is not None and not (isinstance(value, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value.strip())):
            raise ApplyFailed(f"could not parse config file: {path}: relative URL without a base: {value!r}")
    retries = config.get("watchdog", {}).get("max_retries", 0)
    if not (retries.lower() == "infinite" if isinstance(retries, str) else type(retries) is int and 0 <= retries < 2 ** 32):
        raise ApplyFailed(f"could not parse config file: watchdog.max_retries: {retries!r}")
    for path in ("agent.env", "aziot_keys", "tpm.hierarchy_authorization"):
        for name, value in (value_of(config, path) or {}).items():
            if not isinstance(value, str):
                raise ApplyFailed(f"could not parse config file: {path}.{name}: invalid type: {value!r}")
    if config.get("auto_reprovisioning_mode", "Dynamic") not in MODES:
        raise ApplyFailed("could not parse config file: unknown variant of auto_reprovisioning_mode")
    if config.get("cloud_timeout_sec", 70) < 70 and world.fault("release") not in ("1.3", "1.4.0"):
        raise ApplyFailed("could not parse config file: cloud_timeout_sec is below 70")


def check_config(world, config):
    check_values(world, config)
    check_tables(world, config)
    check_files(world, config)


def applied_config(world):
    """identityd's copy; None: there is none, or it is not TOML, which is the same to the real one."""
    try:
        return tomllib.loads(world.path("/etc/aziot/identityd/config.d/00-super.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return None


def check_hostname(world, config):
    """The real one asks the container engine for modules; an aziot-edged that had its identity has started some."""
    if not world.path("/var/lib/aziot/edged/cache/provisioning_state").exists():
        return
    applied = applied_config(world) or {}
    was, new = applied.get("hostname"), config.get("hostname", socket.gethostname())
    if was and was != new:
        raise ApplyFailed(f"cannot change the hostname from {was} to {new} while modules exist")


def super_config(world):
    """The checks of `iotedge config apply` that matter to a hand-off; returns identityd's part."""
    if missing := world.fault("apply-user-missing"):
        raise ApplyFailed(f"could not query {missing} user information")
    try:
        config = tomllib.loads(world.path("/etc/aziot/config.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ApplyFailed(str(error)) from error
    check_config(world, config)
    check_hostname(world, config)
    provisioning = config.get("provisioning")
    if provisioning is None:
        raise ApplyFailed("missing field `provisioning`")
    if provisioning.get("source") == "dps" and config.get("parent_hostname"):
        raise ApplyFailed("DPS provisioning is not supported in nested mode")
    if provisioning.get("source") != "dps" or provisioning["attestation"]["method"] != "tpm":
        return {"source": provisioning.get("source", "?"), "hostname": config.get("hostname", socket.gethostname())}
    return {"source": "dps", "hostname": config.get("hostname", socket.gethostname()), "global_endpoint": canonical_url(provisioning["global_endpoint"]),
            "scope_id": provisioning["id_scope"], "payload": super_payload(world, provisioning),
            "attestation": {"method": "tpm", "registration_id": provisioning["attestation"]["registration_id"]},
            "hierarchy_authorization": config.get("tpm", {}).get("hierarchy_authorization")}


def identityd_toml(provisioning):
    lines = ["# This file is auto-generated by the fake `iotedge config apply`", "",
             f'hostname = {json.dumps(provisioning["hostname"])}', "", "[provisioning]"]
    for key in ("source", "global_endpoint", "scope_id"):
        if key in provisioning:
            lines.append(f"{key} = {json.dumps(provisioning[key])}")
    if provisioning.get("payload"):
        lines.append(f'payload = {{ uri = {json.dumps(provisioning["payload"]["uri"])} }}')
    if "attestation" in provisioning:
        lines += ["", "[provisioning.attestation]", 'method = "tpm"',
                  f'registration_id = {json.dumps(provisioning["attestation"]["registration_id"])}']
    return "\n".join(lines) + "\n"


def tpmd_toml(provisioning):
    owner = (provisioning.get("hierarchy_authorization") or {}).get("owner")
    return "# auto-generated\n" + (f"[hierarchy_authorization]\nowner = {json.dumps(owner)}\n" if owner else "")


def write_applied(world, provisioning, services=tuple(OWNERS)):
    """A file for each service and its user: removed, written, and then given away. A power cut may leave any of it, and so
    does a write that fails."""
    stop_at, how = world.fault("apply-breaks") or (None, None)
    for service in services:
        user = OWNERS[service]
        path = world.path(f"/etc/aziot/{service}/config.d/00-super.toml")
        text = (identityd_toml(provisioning) if service == "identityd" else
                tpmd_toml(provisioning) if service == "tpmd" else "# auto-generated\n")
        path.unlink(missing_ok=True)
        if service == stop_at and how == "missing":
            raise ApplyFailed(f"could not write {path}")
        path.write_text(text[:len(text) // 2] if service == stop_at and how == "half" else text)
        if service == stop_at and how == "half":
            raise ApplyFailed(f"could not write {path}")
        path.chmod(0o600)
        world.own(path, user)
        if service == stop_at:
            raise ApplyFailed(f"could not write what comes after {path}")
