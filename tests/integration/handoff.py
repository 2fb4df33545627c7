"""What the tests of the hand-off share: the helper called without the daemon, and a gateway to call it for."""
import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil

import dbus_next
import dbus_next.aio
from harness import BUILD, SCOPE, Process, wait_for

NAME = "org.dps.HandOff1"
EDGED = "aziot-edged.service"
IDENTITYD = "aziot-identityd.service"
APPLY = "dps-iotedge-apply.service"
OPERATORS = """# The operator's own file.
hostname = "gw-17"   # kept

[agent]
name = "edgeAgent"
config = { image = "example/agent:1.5" }

[agent.env]
# provisioning of modules
provisioning = "[provisioning] is not here"
"""
MANUAL = OPERATORS + """
[provisioning]
source = "manual"
connection_string = "HostName=x"

[edge_ca]
subject = "CN=x"
"""


def ours(world, registration_id, scope=SCOPE):
    return f"""[provisioning]
source = "dps"
global_endpoint = "https://localhost:{world.port}"
id_scope = "{scope}"
[provisioning.attestation]
method = "tpm"
registration_id = "{registration_id}"
"""


def write_config_toml(world, text, mode=0o600):
    world.config_toml.parent.mkdir(parents=True, exist_ok=True)
    world.config_toml.write_text(text)
    world.config_toml.chmod(mode)


def edge(world, **changes):
    return world.enrollment(capabilities={"iotEdge": True}, **changes)


def prepared(new_world, text=None, standins=(), **settings):
    w = new_world(**settings)
    if text is not None:
        write_config_toml(w, text)
    w.start_standins(*standins)
    w.enroll(edge(w))
    return w


def set_confirm_timeout(world, seconds):
    """From the next helper on."""
    path = world.dir / "services/org.dps.HandOff1.service"
    path.write_text(path.read_text().replace("--confirm-timeout=20", f"--confirm-timeout={seconds}"))
    world.reload_bus()


def info_path(world):
    return world.root / "var/lib/aziot/identityd/device_info"


def applied_path(world):
    return world.root / "etc/aziot/identityd/config.d/00-super.toml"


def stopped_path(world):
    return world.root / "var/lib/dps-handoffd/stopped"


def record_path(world):
    return world.root / "var/lib/dps-handoffd/record.json"


def record(world):
    return json.loads(record_path(world).read_text())


def info_text(hub, device):
    return f'hub_name = "{hub}"\nlocal_gateway_hostname = "{hub}"\ndevice_id = "{device}"\n'


def backups(world):
    """The operator's files that were kept, the oldest first."""
    found = world.config_toml.parent.glob("config.toml.before-dps-provisiond-*")
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def temporary_files(world):
    return [path for directory in ("etc/aziot", "var/lib/dps-handoffd", "var/lib/aziot/identityd")
            for path in (world.root / directory).glob(".*")]


def snapshot(world, *directories):
    """Everything below the root as (path, inode, mtime, size, mode), but for sockets."""
    found = {}
    for directory in directories or ("etc", "var/lib"):
        for path in sorted((world.root / directory).rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # somebody's temporary file
                status = path.lstat()
                found[str(path)] = (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)
    return found


def queued(world):
    """Every job that systemd was asked for, also those that never ended."""
    return [(e["verb"], e["unit"]) for e in world.standin_events("queued")]


def assignment(**changes):
    values = {"registrationId": "gw-1", "hub": "localhost:1", "deviceId": "gw-1", "adopt": True, **changes}
    return {key: dbus_next.Variant("b" if isinstance(value, bool) else "i" if isinstance(value, int) else "s", value)
            for key, value in values.items() if value is not None}


class Caller:
    """One connection to the world's bus."""

    def __init__(self, world):
        self.world = world
        self.started = False
        self.loop = asyncio.new_event_loop()
        self.bus = self.run(self.connect(world.environment["DBUS_SYSTEM_BUS_ADDRESS"]))

    @staticmethod
    async def connect(address):
        return await dbus_next.aio.MessageBus(address).connect()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        if self.started:
            self.stop_helper()
        self.bus.disconnect()
        with contextlib.suppress(Exception):
            self.run(asyncio.wait_for(self.bus.wait_for_disconnect(), 5))
        self.loop.close()

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def begin(self, method, signature="", *body, name=NAME, interface=None):
        """The call under way, to be waited for with run(). It has reached the bus."""
        path = "/" + name.replace(".", "/")
        message = dbus_next.Message(name, path, interface or name, method, signature=signature, body=list(body))
        under_way = self.loop.create_task(self.bus.call(message))
        self.has_owner()
        return under_way

    def call(self, method, signature="", *body, **options):
        return self.run(self.begin(method, signature, *body, **options))

    def ask(self, method, signature="", *body):
        """The answer of a call that has to succeed, as plain values."""
        reply = self.call(method, signature, *body)
        assert reply.message_type == dbus_next.MessageType.METHOD_RETURN, reply.body
        return {key: value.value for key, value in reply.body[0].items()} if reply.body else None

    def apply(self, **changes):
        return self.ask("Apply", "a{sv}", assignment(**changes))

    def refused(self, method, signature="", *body):
        """(kind, sentence) of a call that has to fail."""
        reply = self.call(method, signature, *body)
        assert reply.message_type == dbus_next.MessageType.ERROR, reply.body
        return reply.error_name.rpartition(".")[2].replace("_", "-"), reply.body[0]

    def apply_refused(self, **changes):
        return self.refused("Apply", "a{sv}", assignment(**changes))

    def systemd(self, method, *arguments):
        """A job, to its end."""
        job = (method.removesuffix("Unit").lower(), arguments[0])  # others may be under way
        seen = self.world.jobs().count(job)
        reply = self.call(method, "s" * len(arguments) + "s", *arguments, "replace", name="org.freedesktop.systemd1",
                          interface="org.freedesktop.systemd1.Manager")
        assert reply.message_type == dbus_next.MessageType.METHOD_RETURN, reply.body
        wait_for("the job", lambda: self.world.jobs().count(job) > seen)

    def has_owner(self, name=NAME):
        return self.run(self.bus.call(dbus_next.Message(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner", signature="s",
            body=[name]))).body[0]

    def unit(self, name, prop="ActiveState"):
        path = "/org/freedesktop/systemd1/unit/" + "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in name)
        reply = self.run(self.bus.call(dbus_next.Message(
            "org.freedesktop.systemd1", path, "org.freedesktop.DBus.Properties", "Get", signature="ss",
            body=["org.freedesktop.systemd1.Unit", prop])))
        return reply.body[0].value

    def start_helper(self, *prefix, environment=None):
        """The helper as a child of ours, below another program; the bus starts the next one by itself."""
        self.stop_helper()
        self.started = True
        text = (self.world.dir / "services/org.dps.HandOff1.service").read_text()
        command = shlex.split(re.search("^Exec=(.*)$", text, re.MULTILINE)[1])
        environment = {**self.world.environment, **(environment or {})}
        if prefix:  # leaks can't be looked for below a tracer
            environment["ASAN_OPTIONS"] = environment["ASAN_OPTIONS"].replace("detect_leaks=1", "detect_leaks=0")
        helper = Process([*prefix, *command], "dps-handoffd", environment)
        self.world.processes.append(helper)
        wait_for("the helper on the bus", lambda: self.has_owner() or not helper.running())
        return helper

    def start_fast_helper(self, speed):
        """One for which time since boot goes by so many times as fast, and so do its timers on it."""
        return self.start_helper(environment={
            "LD_PRELOAD": str(BUILD / "tests/tools/clock-shim.so"), "CLOCK_SHIM_BOOT_SPEED": str(speed),
            "ASAN_OPTIONS": self.world.environment["ASAN_OPTIONS"] + ":verify_asan_link_order=0"})

    def stop_helper(self):
        for pid in self.world.helper_pids("dps-handoffd"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        wait_for("the helper's end", lambda: not self.has_owner())


class Gateway:
    """A world whose IoT Edge runs as an attested device, and that can be put back to what it was before that."""

    def __init__(self, world):
        self.world = world
        self.properties = world.start_gateway()
        self.id = self.properties["RegistrationId"]
        self.hub = self.properties["AssignedHub"]
        self.device = self.properties["DeviceId"]
        world.stop_daemon()
        self.saved = world.dir / "saved"

    def assignment(self, **changes):
        return {"registrationId": self.id, "hub": self.hub, "deviceId": self.device, **changes}

    def make_old(self, caller, text=OPERATORS):
        """IoT Edge runs, handed off by us under another registration ID and on another hub."""
        w = self.world
        w.config_toml.write_text(text)
        record_path(w).unlink()
        caller.stop_helper()
        caller.apply(**self.assignment(registrationId="gw-old"))
        caller.stop_helper()
        info_path(w).write_text(info_text("old.localhost", "gw-old"))
        record_path(w).write_text(json.dumps({**record(w), "hub": "old.localhost", "deviceId": "gw-old"}))
        for path in backups(w):
            path.unlink()

    def save(self):
        shutil.rmtree(self.saved, ignore_errors=True)
        for directory in ("etc", "var/lib"):
            shutil.copytree(self.world.root / directory, self.saved / directory, symlinks=True)

    def restore(self):
        for directory in ("etc/aziot", "var/lib/aziot", "var/lib/dps-handoffd"):
            target = self.world.root / directory
            for path in sorted(target.rglob("*"), reverse=True):
                if not (self.saved / path.relative_to(self.world.root)).exists():
                    path.unlink() if not path.is_dir() else path.rmdir()
            shutil.copytree(self.saved / directory, target, symlinks=True, dirs_exist_ok=True)
