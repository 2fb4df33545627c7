#!/usr/bin/python3
"""Stand-ins for systemd and for Azure IoT Edge on a private bus, for the demo and the tests.

    aziot.py --root=DIR --log=FILE [--faults=FILE] [--tcti=TCTI] [--hub-ca=FILE] [--passed=FILE] [--configured|--boot]

NONE OF THIS IS THE REAL THING. One process owns org.freedesktop.systemd1 on the bus of DBUS_SYSTEM_BUS_ADDRESS and
plays the units aziot-edged, aziot-identityd, aziot-keyd, aziot-certd and aziot-tpmd with their sockets, and
dps-iotedge-apply.service, which is `iotedge config apply`. What they have in common with the real ones is what a
hand-off sees: files and their modes, units and jobs, identityd's answers, who asks DPS and the hub. Signing goes through
the TPM, requests to the hub and to DPS go over TLS.

"ready" on standard output means that the name is owned. FILE of --log gets one JSON object a line for everything that
happens. The faults are read again at each action; see the table in README.md beside this file.
"""
import argparse
import asyncio
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import engine  # noqa: E402
from gateway import OWNERS, SERVICES, SOCKETS, ApplyFailed, World, applied_config, super_config, write_applied  # noqa: E402
from identityd import Identityd, IdentitydFailed  # noqa: E402
from systemd import Manager, Unit  # noqa: E402


class Gateway:
    """The units and what is behind them."""

    def __init__(self, world, manager):
        self.world = world
        self.manager = manager
        self.identityd = Identityd(world, manager)
        self.docker = self.edged = None

    def units(self):
        actions = {"aziot-identityd": (self.identityd.start, self.identityd.stop),
                   "aziot-tpmd": (self.identityd.tpmd.start, self.identityd.tpmd.stop),
                   "aziot-edged": (self.start_edged, None)}
        for name in SERVICES:
            sockets = [f"{s}.socket" for s in SOCKETS if s.split(".")[0] == name]
            start, stop = actions.get(name, (None, None))
            self.manager.add(Unit(f"{name}.service", start, stop, sockets=sockets))
        for name in SOCKETS:
            listen = name == "aziot-identityd"
            self.manager.add(Unit(f"{name}.socket", self.identityd.listen if listen else None,
                                  self.identityd.unlisten if listen else None,
                                  service=f"{name.split('.')[0]}.service"))
        self.manager.add(Unit("docker.service", self.start_docker, self.stop_docker))
        self.manager.add(Unit("dps-iotedge-apply.service", self.apply, None, oneshot=True))
        self.manager.add(Unit("dps-provisiond.service", None, None))  # to be asked for: the tests start the daemon

    async def start_edged(self):
        """Logs the device as soon as identityd names it. Without an identity the real one exits and systemd restarts it;
        this one asks again. Without the container engine it exits, after that."""
        if not self.world.configured("edged"):
            raise ApplyFailed("no configuration, exit status 153")
        self.world.log("edged-start")
        if self.edged:
            self.edged.cancel()
        self.edged = asyncio.get_running_loop().create_task(self.edged_asks())

    async def edged_asks(self):
        told = False
        while True:
            try:
                identity = await self.identityd.identity_for_edged()
                break
            except (IdentitydFailed, OSError) as error:
                if not told:
                    self.world.log("edged-without-device", error=str(error))
                told = True
            await asyncio.sleep(0.2)
            if self.manager.units["aziot-edged.service"].state != "active":
                return
        self.world.log("edged-device", hub=identity[0], device=identity[1])
        try:
            await self.ask_docker()
        except ApplyFailed as error:
            self.world.log("edged-without-engine", error=str(error))
            self.manager.died("aziot-edged.service", restart=5)
            return
        self.world.note_identity_of_edged()

    async def apply(self):
        """`iotedge config apply`: exit 0 although a unit failed, but not when the runtime doesn't answer. Without aziot-edged
        it is `aziotctl config apply`, which writes no file for it, asks no engine, and starts identityd at the end."""
        edgeless = self.manager.states("aziot-edged.service")[0] == "not-found"
        if self.world.fault("apply"):
            self.world.log("apply", error=self.world.fault("apply"))
            raise ApplyFailed(self.world.fault("apply"))
        provisioning = super_config(self.world)
        if applied_config(self.world) is not None and not edgeless:
            await self.ask_docker()
        if self.world.fault("apply-waits"):
            self.world.log("apply-waits")
            await self.manager.delay(lambda: self.world.fault("apply-waits"))
        if self.world.fault("apply-skips-files"):
            self.world.log("apply", scope=None)
        else:
            write_applied(self.world, provisioning, [s for s in OWNERS if s != "edged" or not edgeless])
            self.world.log("apply", scope=provisioning.get("scope_id"))
        failed, ends_after = [], self.world.fault("apply-ends-after")
        services, sockets = ([n for n in names if not edgeless or "edged" not in n] for names in (SERVICES, SOCKETS))
        for verb, name in [*(("stop", f"{name}.service") for name in services),
                           *(("start", f"{name}.socket") for name in sockets), ("start", f"{services[0]}.service")]:
            if not await self.manager.run(verb, name):
                failed.append(name)
            if [verb, name] == ends_after:
                raise ApplyFailed("killed while units were restarted", "timeout")
        self.world.log("applied", failed=failed)  # which it prints, and no more

    async def ask_docker(self):
        uri = self.world.engine_uri()
        try:
            if uri.startswith("unix://"):
                await engine.ask(self.world.path(uri.removeprefix("unix://")), self.world.fault("release"))
        except OSError as error:
            raise ApplyFailed(f"the container runtime does not answer: {error}") from error

    async def start_docker(self):
        path = self.world.path("/var/run/docker.sock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.docker = await asyncio.start_unix_server(lambda *streams: engine.serve(self.world, *streams), str(path))

    async def stop_docker(self):
        self.docker.close()


def make_directories(world):
    for path in ("/etc/aziot", "/var/lib/aziot/identityd", "/run/aziot"):
        world.path(path).mkdir(parents=True, exist_ok=True)
    world.path("/var/lib/aziot").chmod(0o755)
    world.path("/var/lib/aziot/identityd").chmod(0o700)
    world.own(world.path("/var/lib/aziot/identityd"), "aziotid")
    for service in OWNERS:
        world.path(f"/etc/aziot/{service}/config.d").mkdir(parents=True, exist_ok=True)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--faults")
    parser.add_argument("--tcti", default="swtpm")
    parser.add_argument("--hub-ca")
    parser.add_argument("--passed", help="file with the seconds by which the clock of tokens is ahead")
    parser.add_argument("--uptime", help="file with the seconds by which the clock of systemd is ahead")
    parser.set_defaults(token_sec=30)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--configured", action="store_true", help="apply config.toml and start everything first")
    how.add_argument("--boot", action="store_true", help="start what a boot starts: the sockets, and aziot-edged")
    options = parser.parse_args()
    world = World(options)
    make_directories(world)
    manager = Manager(world)
    gateway = Gateway(world, manager)
    gateway.units()
    await manager.run("start", "docker.service")
    if options.configured:
        write_applied(world, super_config(world))
    for name in SOCKETS:
        await manager.run("start", f"{name}.socket")
    if options.configured or options.boot:
        await manager.run("start", "aziot-edged.service")
    await manager.serve(os.environ["DBUS_SYSTEM_BUS_ADDRESS"])
    print("ready", flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
