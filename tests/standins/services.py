#!/usr/bin/python3
"""Stand-ins for the services of Azure IoT Edge as processes of their own under a real systemd.

    services.py tpmd | identityd | edged | docker | idle       what a unit under units/ starts
    services.py iotedge config apply                           /usr/bin/iotedge
    services.py aziotctl config apply                          /usr/bin/aziotctl

NONE OF THIS IS THE REAL THING. Users, files and their modes, units, sockets and the order in which 'config apply' stops
and starts them are those of the real packages; what the services do is in identityd.py. The environment may name the
TCTI (STANDIN_TCTI), the certificate of the hub's CA (STANDIN_HUB_CA) and how long identityd's tokens live
(STANDIN_TOKEN_SEC). /var/log/standins.jsonl gets one JSON object a line for everything that happens.
"""
import argparse
import asyncio
import base64
import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import engine  # noqa: E402
from gateway import OWNERS, SERVICES, SOCKETS, ApplyFailed, World, applied_config, super_config, write_applied  # noqa: E402

RUN = pathlib.Path("/run/aziot")
TPMD_API = "api-version=2020-09-01"
UNCONFIGURED = 153  # with which the real ones tell systemd not to start them again


def new_world():
    return World(argparse.Namespace(root="/", log="/var/log/standins.jsonl", faults="/etc/standin-faults.json",
                                    tcti=os.environ.get("STANDIN_TCTI", "device:/dev/tpmrm0"),
                                    hub_ca=os.environ.get("STANDIN_HUB_CA"),
                                    token_sec=int(os.environ.get("STANDIN_TOKEN_SEC", "30")), passed=None,
                                    uptime=None))


def passed_sockets():
    return [socket.socket(fileno=3 + i) for i in range(int(os.environ.get("LISTEN_FDS", "0")))]


# --- HTTP over a unix socket ---

class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=60):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(path, method, target, body=None):
    connection = UnixConnection(path)
    try:
        connection.request(method, target, body=body and json.dumps(body))
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read() or b"{}")
    finally:
        connection.close()


async def answer(reader, writer, respond):
    """One request of a client."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split("\r\n", 1)[0].split(" ")
        size = re.search(r"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
        body = json.loads(await reader.readexactly(int(size[1]))) if size and int(size[1]) else None
        status, reply = await respond(method, target.partition("?")[0], body)
        text = json.dumps(reply).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
                     "Connection: close\r\n\r\n".encode() + text)
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


# --- aziot-tpmd ---

async def tpmd(world):
    from identityd import IdentitydFailed, Tpmd
    from tpm2_pytss import TSS2_Exception
    service = Tpmd(world)
    await service.start()
    world.log("tpmd-start", key=service.has_key)

    def act(path, body):
        if path == "/get_tpm_keys":
            return dict(zip(("endorsement_key", "storage_root_key"), service.public_keys()))
        if path == "/sign_with_auth_key":
            return {"digest": base64.b64encode(service.sign(base64.b64decode(body["data"]))).decode()}
        service.import_key(base64.b64decode(body["key"]))
        return {}

    async def respond(_method, path, body):
        try:
            return 200, await asyncio.to_thread(act, path, body)
        except (IdentitydFailed, TSS2_Exception) as error:
            return 500, {"message": str(error)}

    for listening in passed_sockets():
        await asyncio.start_unix_server(lambda r, w: answer(r, w, respond), sock=listening)


# --- aziot-identityd ---

async def identityd(world):
    from identityd import Identityd, IdentitydFailed

    class RemoteTpmd:
        """tpmd as identityd sees it: behind its socket."""

        def ask(self, method, path, body=None):
            try:
                status, reply = ask(RUN / "tpmd.sock", method, f"{path}?{TPMD_API}", body)
            except OSError as error:
                raise IdentitydFailed(f"tpmd: {error}") from error
            if status != 200:
                raise IdentitydFailed(f"tpmd: {reply.get('message')}")
            return reply

        def sign(self, data):
            reply = self.ask("POST", "/sign_with_auth_key", {"data": base64.b64encode(data).decode()})
            return base64.b64decode(reply["digest"])

        def public_keys(self):
            reply = self.ask("GET", "/get_tpm_keys")
            return [reply["endorsement_key"], reply["storage_root_key"]]

        def import_key(self, blob):
            self.ask("POST", "/import_auth_key", {"key": base64.b64encode(blob).decode()})

    class Systemd:
        """The real one starts tpmd through its socket, and us again when we have failed."""

        async def run(self, _verb, _unit):
            return True

        def trigger(self, _unit):
            pass

        def died(self, _unit, restart):
            os._exit(1)

    service = Identityd(world, Systemd())
    service.tpmd = RemoteTpmd()
    await service.start()
    for listening in passed_sockets():
        await asyncio.start_unix_server(service.on_client, sock=listening)


# --- aziot-edged ---

async def edged(world):
    world.log("edged-start")
    status, reply = await asyncio.to_thread(ask, RUN / "identityd.sock", "POST",
                                            "/identities/device?api-version=2020-09-01")
    if status != 200:
        world.log("edged-without-device", error=reply.get("message"))
        sys.exit(1)
    world.note_identity_of_edged()
    world.log("edged-device", hub=reply["spec"]["hubName"], device=reply["spec"]["deviceId"])


# --- the container runtime, keyd, certd: something that accepts connections ---

async def docker(world):
    for listening in passed_sockets():
        await asyncio.start_unix_server(lambda *streams: engine.serve(world, *streams), sock=listening)


async def idle(_world):
    for listening in passed_sockets():
        await asyncio.start_unix_server(lambda _, writer: writer.close(), sock=listening)


# --- iotedge config apply ---

def apply(world, edged):
    """Exit 0 although a unit failed, but not when the container runtime doesn't answer."""
    services, sockets = ([n for n in names if edged or "edged" not in n] for names in (SERVICES, SOCKETS))
    provisioning = super_config(world)
    if edged and applied_config(world) is not None:
        try:
            asyncio.run(engine.ask("/var/run/docker.sock", None))
        except OSError as error:
            raise ApplyFailed(f"the container runtime does not answer: {error}") from error
    write_applied(world, provisioning, [service for service in OWNERS if edged or service != "edged"])
    world.log("apply", scope=provisioning.get("scope_id"))
    for name in services:
        subprocess.run(["systemctl", "stop", f"{name}.service"], check=False)
    for name in sockets:
        subprocess.run(["systemctl", "start", f"{name}.socket"], check=False)
    subprocess.run(["systemctl", "start", f"{services[0]}.service"], check=False)


def config_apply(world, program, arguments):
    if arguments != ["config", "apply"]:
        sys.exit(f"This fake knows only: {program} config apply")
    try:
        apply(world, program == "iotedge")
    except ApplyFailed as error:
        world.log("apply", error=str(error))
        sys.exit(f"{program}: {error}")


async def serve(service, world):
    await service(world)
    await asyncio.get_running_loop().create_future()


def main():
    services = {"tpmd": tpmd, "identityd": identityd, "edged": edged, "docker": docker, "idle": idle}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    world = new_world()
    if name in ("iotedge", "aziotctl"):
        config_apply(world, name, sys.argv[2:])
    elif name not in services:
        sys.exit(__doc__)
    elif name in OWNERS and not world.configured(name):
        sys.exit(UNCONFIGURED)
    else:
        asyncio.run(serve(services[name], world))


if __name__ == "__main__":
    main()
