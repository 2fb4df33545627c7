"""A TPM in a directory, and dps-provision on it; and what else several tests of it need."""
import base64
import contextlib
import csv
import io
import json
import os
import pathlib
import re
import select
import shutil
import socket
import subprocess
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests/tools"))

from observe import json_lines  # noqa: E402

BUILD = pathlib.Path(os.environ.get("BUILD", SOURCE / "build")).resolve()
PROGRAM = BUILD / "cli/dps-provision"
DEADLINE = 60
HUB = "hub-1.azure-devices.net"
COLUMNS = ["registration_id", "device_id", "endorsement_key", "iot_edge", "iot_hub", "serial_number", "mac",
           "host_name", "asset", "ek_certificate"]


def wait_for_listener(path):
    """No event announces a socket of another process: connecting is the only way to know."""
    end = time.monotonic() + DEADLINE
    while True:
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.connect(str(path))
            return
        assert time.monotonic() < end, f"nobody listens on {path}"
        select.select([], [], [], 0.01)


def manufacture(gateway, state):
    """swtpm_setup as a manufacturer with a CA of its own; the root is in ca/, the issuer's certificate too."""
    ca = gateway.dir / "ca"
    (ca / "keys").mkdir(parents=True)
    (gateway.dir / "localca.conf").write_text(
        f"statedir = {ca}/keys\nsigningkey = {ca}/keys/key.pem\nissuercert = {ca}/keys/issuer.pem\n"
        f"certserial = {ca}/keys/serial\n")
    (gateway.dir / "options.conf").write_text("--platform-manufacturer x\n--platform-version 1\n--platform-model y\n")
    (gateway.dir / "setup.conf").write_text(
        f"create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {gateway.dir}/localca.conf\n"
        f"create_certs_tool_options = {gateway.dir}/options.conf\n")
    subprocess.run(["swtpm_setup", "--tpm2", "--tpmstate", state, "--createek", "--create-ek-cert", "--config",
                    gateway.dir / "setup.conf", "--overwrite"], check=True, timeout=DEADLINE,
                   stdout=subprocess.DEVNULL)
    for pem in (ca / "keys").glob("*.pem"):
        if "BEGIN CERTIFICATE" in pem.read_text():
            shutil.copy(pem, ca)


class Gateway:
    def __init__(self, directory, socket_options="", prepare=None):
        self.dir = directory
        self.socket_options = socket_options
        self.prepare = prepare
        self.processes = []
        self.config = {}

    def __enter__(self):
        state = self.dir / "state"
        state.mkdir()
        if self.prepare:
            self.prepare(self, state)
        self.start(["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}",
                    "--server", f"type=unixio,path={self.dir}/swtpm",
                    "--ctrl", f"type=unixio,path={self.dir}/swtpm.ctrl", "--flags", "not-need-init,startup-clear"])
        wait_for_listener(self.dir / "swtpm.ctrl")
        proxy = self.start([SOURCE / "tests/tools/tpm-proxy", f"--listen={self.dir}/tpm", f"--tpm={self.dir}/swtpm",
                            f"--log={self.dir}/tpm.jsonl", f"--faults={self.dir}/faults.json"])
        assert proxy.stdout.readline() == "ready\n"
        return self

    def __exit__(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()
            process.stdout.close()

    def start(self, arguments):
        process = subprocess.Popen([str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   text=True)
        self.processes.append(process)
        return process

    @property
    def tcti(self):
        return f"swtpm:path={self.dir}/tpm"

    def config_file(self):
        path = self.dir / "provisiond.conf"
        path.write_text("".join(f"[{section}]\n" + "".join(f"{k}={v}\n" for k, v in keys.items())
                                for section, keys in {"Tpm": {"Tcti": self.tcti}, **self.config}.items()))
        return path

    def command(self, *arguments):
        return [PROGRAM, "enrollment", f"--config={self.config_file()}", *map(str, arguments)]

    def run(self, *arguments, status=0, prefix=(), env=None, **options):
        """dps-provision enrollment; what it printed."""
        result = subprocess.run([*prefix, *self.command(*arguments)], capture_output=True, text=True, timeout=DEADLINE,
                                check=False, env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent",
                                                  **(env or {})}, **options)
        assert result.returncode == status, result
        self.stderr = result.stderr
        return result.stdout

    def json(self, *arguments):
        return json.loads(self.run("--format=json", *arguments))

    def tpm2(self, tool, *arguments):
        """tpm2-tools, past the proxy."""
        result = subprocess.run([f"tpm2_{tool}", *map(str, arguments)], capture_output=True, text=True, check=False,
                                cwd=self.dir, timeout=DEADLINE,
                                env={**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={self.dir}/swtpm"})
        assert result.returncode == 0, result
        return result.stdout

    def handles(self):
        """Everything that the TPM holds."""
        return {kind: re.findall(r"0x[0-9A-Fa-f]+", self.tpm2("getcap", f"handles-{kind}"))
                for kind in ("persistent", "transient", "loaded-session", "saved-session", "nv-index")}

    def commands(self):
        """The TPM's, as dps-provision sent them."""
        return [line["command"] for line in json_lines(self.dir / "tpm.jsonl") if "command" in line]


def tool(*command, **options):
    result = subprocess.run([str(c) for c in command], capture_output=True, timeout=DEADLINE, check=False, **options)
    assert result.returncode == 0, result
    return result.stdout


def works(*command):
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def key_of(enrollment):
    return base64.b64decode(enrollment["attestation"]["tpm"]["endorsementKey"], validate=True)


def table(text):
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert rows[0] == COLUMNS
    assert all(len(row) == len(COLUMNS) for row in rows)
    return [dict(zip(COLUMNS, row)) for row in rows[1:]]
