"""A gateway in a directory: TPM, system bus, service, IoT Edge's stand-ins and our daemons, all real processes.

World() starts what every test needs (swtpm behind the proxy, the emulator, a private bus); the test starts the
daemon. Nothing outside the directory is written. All waiting is for an event with a deadline.
"""
import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests/tools"))

from observe import json_lines, listens, reserve_port  # noqa: E402

BUILD = pathlib.Path(os.environ.get("BUILD", SOURCE / "build")).resolve()
DEADLINE = 120 if "asan" in str(BUILD) else 60
SCOPE = "0ne00TEST01"

NAME = "org.dps.Provisioning1"
PATH = "/org/dps/Provisioning1"

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={dir}/bus</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{dir}/services</servicedir>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class Timeout(AssertionError):
    pass


def wait_for(what, condition, deadline=None):
    """Polls a cheap condition that no event announces (a file of another process); returns its value."""
    end = time.monotonic() + (deadline or DEADLINE)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout(f"{what} did not happen")
        select.select([], [], [], 0.01)


class Bus:
    """The client's side of the private bus, over busctl: no Python binding is needed for a handful of calls."""

    def __init__(self, address):
        self.environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": address}

    def busctl(self, *arguments, check=True, timeout=DEADLINE):
        result = subprocess.run(["busctl", "--system", "--json=short", f"--timeout={timeout}", *arguments],
                                env=self.environment, capture_output=True, text=True, timeout=timeout + 10,
                                check=False)
        if check and result.returncode != 0:
            raise BusError(result.stderr.strip())
        return result.stdout

    def start(self, *arguments):
        """A call that takes its time; its exit status tells how it went."""
        return subprocess.Popen(["busctl", "--system", f"--timeout={DEADLINE}", *arguments], env=self.environment)

    def properties(self):
        output = self.busctl("call", NAME, PATH, "org.freedesktop.DBus.Properties", "GetAll", "s", NAME)
        return {key: value["data"] for key, value in json.loads(output)["data"][0].items()}

    def call(self, method, *arguments, name=NAME, path=PATH):
        output = self.busctl("call", name, path, name, method, *map(str, arguments))
        return json.loads(output)["data"] if output.strip() else None


class BusError(Exception):
    pass


class Process:
    """A child with its output kept; lines can be waited for."""

    def __init__(self, arguments, name, environment=None, stdout=None):
        self.name = name
        self.lines = []
        self.condition = threading.Condition()
        self.process = subprocess.Popen([str(a) for a in arguments], stdin=subprocess.DEVNULL,
                                        stdout=stdout or subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        errors="replace", env=environment)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            with self.condition:
                self.lines.append(line.rstrip("\n"))
                self.condition.notify_all()

    def wait_for_line(self, pattern, start=0, deadline=None):
        expression = re.compile(pattern)
        end = time.monotonic() + (deadline or DEADLINE)
        with self.condition:
            while True:
                for line in self.lines[start:]:
                    if match := expression.search(line):
                        return match
                if not self.condition.wait(end - time.monotonic()) and time.monotonic() > end:
                    raise Timeout(f"{self.name} did not print {pattern!r}; it printed:\n" + "\n".join(self.lines))

    def running(self):
        return self.process.poll() is None

    def kill(self, number=signal.SIGKILL):
        if self.running():
            self.process.send_signal(number)
        status = self.process.wait(DEADLINE)
        self.thread.join(DEADLINE)
        return status


def own_etc(world, **files):
    """A prefix that gives the command an /etc of its own, in the world's directory; a_b is the file a.b."""
    etc = world.dir / "etc"
    etc.mkdir(exist_ok=True)
    for name in ("passwd", "group", "nsswitch.conf", "ld.so.cache", "hosts", "ssl"):
        if os.path.exists(f"/etc/{name}") and not (etc / name).exists():
            subprocess.run(["cp", "-a", f"/etc/{name}", etc], check=True)
    for name, text in files.items():
        (etc / name.replace("_", ".")).write_text(text)
    return ("unshare", "-m", "--propagation", "private", "sh", "-c", f'mount --bind {etc} /etc && exec "$@"', "sh")


class World:
    def __init__(self, polls=0, emulator=(), tcti=None, **config):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="dps-"))
        self.polls = polls
        self.confirm_timeout = 20
        self.emulator_options = list(emulator)
        self.processes = []
        self.daemon = None
        self.emulator = None
        self.reserved = []
        self.root = self.dir / "root"
        self.config = {"Provisioning": {"IdScope": SCOPE}, "Tpm": {"Tcti": tcti or f"swtpm:path={self.dir}/tpm"},
                       "Network": {},
                       "Retry": {"InitialSec": 1, "MaxSec": 2, "OperatorInitialSec": 60},
                       "HandOff": {"AllowedHubs": "localhost *.localhost"}}
        for section, keys in config.items():
            self.config[section].update(keys)
        self.environment = {**{k: v for k, v in os.environ.items() if "proxy" not in k.lower()},
                            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.dir}/bus",
                            "PYTHONUNBUFFERED": "1", "TSS2_LOG": "all+none",
                            "ASAN_OPTIONS": f"log_path={self.dir}/asan:detect_leaks=1",
                            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}
        self.environment.pop("JOURNAL_STREAM", None)
        self.bus = Bus(self.environment["DBUS_SYSTEM_BUS_ADDRESS"])

    # --- life ---

    def __enter__(self):
        try:
            for name in ("services", "state", "emulator", "tpmstate", "root", "conf"):
                (self.dir / name).mkdir()
            (self.root / "sys/class/rtc/rtc0").mkdir(parents=True)
            self.start_tpm()
            self.start_emulator()
            self.write_config()
            self.start_bus()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind, value, traceback):
        if self.daemon and self.daemon.running():
            self.daemon.kill(signal.SIGTERM)
        for process in reversed(self.processes):
            process.kill(signal.SIGTERM if process.name in ("bus", "stand-ins") else signal.SIGKILL)
        self.end_helpers()
        reports = list(self.dir.glob("asan.*"))
        if kind is not None or reports:
            print(self.report())
        text = "\n".join(report.read_text() for report in reports)
        for sock in self.reserved:
            sock.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        assert not text, text

    def end_helpers(self):
        """The bus starts the helpers, so they are not our children; they leave when the bus is gone."""
        for name in ("dps-tpmd", "dps-handoffd"):
            wait_for(f"the end of {name}", lambda n=name: not self.helper_pids(n))

    def helper_pids(self, name):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # it has ended since
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if words[0].endswith(name.encode()) and f"--config={self.config_path}".encode() in words:
                    found.append(int(pid))
        return found

    def report(self):
        parts = [f"=== {p.name}\n" + "\n".join(p.lines) for p in [*self.processes, *([self.daemon] if self.daemon else [])]]
        for path in (self.dir / "emulator/requests.jsonl", self.dir / "standin.jsonl", self.dir / "state/state.json",
                     *self.dir.glob("asan.*")):
            if path.exists():
                parts.append(f"=== {path.name}\n{path.read_text()}")
        return "\n".join(parts)

    def start(self, arguments, name, **options):
        process = Process(arguments, name, self.environment, **options)
        self.processes.append(process)
        return process

    # --- the TPM ---

    def start_tpm(self):
        state = self.dir / "tpmstate"
        self.swtpm = self.start(["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--server",
                                 f"type=unixio,path={self.dir}/swtpm", "--ctrl",
                                 f"type=unixio,path={self.dir}/swtpm.ctrl", "--flags",
                                 "not-need-init,startup-clear"], "swtpm")
        wait_for("swtpm", lambda: listens(self.dir / "swtpm.ctrl") and listens(self.dir / "swtpm"))
        self.proxy = self.start([SOURCE / "tests/tools/tpm-proxy", f"--listen={self.dir}/tpm", f"--tpm={self.dir}/swtpm",
                                 f"--log={self.dir}/tpm.jsonl", f"--faults={self.dir}/tpm-faults.json"], "tpm-proxy")
        self.proxy.wait_for_line("^ready")

    def tpm_faults(self, **faults):
        temporary = self.dir / "tpm-faults.new"
        temporary.write_text(json.dumps(faults))
        temporary.rename(self.dir / "tpm-faults.json")

    def tpm_commands(self):
        return [line["command"] for line in json_lines(self.dir / "tpm.jsonl") if "command" in line]

    def tpm2(self, *arguments, check=True):
        """tpm2-tools, past the proxy: nothing of it is counted."""
        result = subprocess.run([f"tpm2_{arguments[0]}", *arguments[1:]], capture_output=True, text=True, check=False,
                                cwd=self.dir, timeout=DEADLINE,
                                env={**self.environment, "TPM2TOOLS_TCTI": f"swtpm:path={self.dir}/swtpm"})
        assert not check or result.returncode == 0, result
        return result.stdout if result.returncode == 0 else None

    def persistent_handles(self):
        return re.findall(r"0x[0-9A-Fa-f]+", self.tpm2("getcap", "handles-persistent"))

    def loaded(self):
        """Everything volatile that is left in the TPM."""
        return "".join(self.tpm2("getcap", f"handles-{kind}") for kind in ("transient", "loaded-session")).strip()

    def hub_key(self, handle="0x81000100"):
        """The name of what is at the hub key's handle, or None."""
        if handle not in [h.lower() for h in self.persistent_handles()]:
            return None
        return re.search(r"^name: ([0-9a-f]+)", self.tpm2("readpublic", "-c", handle), re.MULTILINE)[1]

    # --- the service ---

    def start_emulator(self, *options, port=None):
        """On a port that stays this world's, also while the emulator is stopped."""
        if not port:
            port, sockets = reserve_port()
            self.reserved += sockets
        self.emulator = self.start([BUILD / "tests/emulator/dps-emulator", f"--port={port}", f"--scope={SCOPE}",
                                    f"--enrollments={self.dir}/enrollments.json", f"--state-dir={self.dir}/emulator",
                                    f"--polls={self.polls}", "--retry-after=1", *self.emulator_options, *options],
                                   "emulator")
        self.port = int(self.emulator.wait_for_line(r"listening on https://localhost:(\d+)")[1])
        self.config["Provisioning"]["GlobalEndpoint"] = f"https://localhost:{self.port}"
        self.config["Network"]["CAFile"] = self.dir / "emulator/ca.pem"

    def stop_emulator(self):
        self.emulator.kill()
        self.processes.remove(self.emulator)

    def faults(self, *lines):
        temporary = self.dir / "emulator/fault.new"
        temporary.write_text("".join(line + "\n" for line in lines))
        temporary.rename(self.dir / "emulator/fault")

    def enroll(self, *enrollments):
        temporary = self.dir / "enrollments.new"
        temporary.write_text(json.dumps(list(enrollments)))
        temporary.rename(self.dir / "enrollments.json")

    def enrollment(self, **changes):
        """What `dps-provision enrollment` prints for this TPM."""
        result = subprocess.run([BUILD / "cli/dps-provision", "enrollment", "--format=json",
                                 f"--config={self.config_path}"], env=self.environment, capture_output=True, text=True,
                                timeout=DEADLINE, check=False)
        assert result.returncode == 0, result
        return {**json.loads(result.stdout), **changes}

    def requests(self, **where):
        lines = json_lines(self.dir / "emulator/requests.jsonl")
        return [line for line in lines if all(line.get(k) == v for k, v in where.items())]

    def service_requests(self):
        """Those of a registration; the hub's are left out."""
        return [r for r in self.requests() if r["kind"] in ("register", "confirm", "poll")]

    # --- the bus and our daemons ---

    @property
    def config_path(self):
        return self.dir / "conf/provisiond.conf"

    def write_config(self, **changes):
        for section, keys in changes.items():
            self.config[section].update(keys)
        text = "".join(f"[{section}]\n" + "".join(f"{k}={v}\n" for k, v in keys.items() if v is not None)
                       for section, keys in self.config.items())
        temporary = self.dir / "conf/.new"
        temporary.write_text(text)
        temporary.rename(self.config_path)

    def start_bus(self):
        common = f"--config={self.config_path} --log-target=stderr --log-level=debug"
        for name, command in (("org.dps.Tpm1", f"{BUILD}/daemon/tpmd/dps-tpmd {common}"),
                              ("org.dps.HandOff1", f"{BUILD}/daemon/handoffd/dps-handoffd {common} --root={self.root}"
                               f" --confirm-timeout={self.confirm_timeout}")):
            (self.dir / f"services/{name}.service").write_text(
                f"[D-BUS Service]\nName={name}\nExec={command}\nUser=root\n")
        (self.dir / "bus.conf").write_text(BUS_CONFIG.format(dir=self.dir))
        self.bus_process = self.start(["dbus-daemon", f"--config-file={self.dir}/bus.conf", "--nofork", "--nopidfile",
                                       "--nosyslog"], "bus")
        wait_for("the bus", lambda: listens(self.dir / "bus"))

    def helpers_environment(self, **variables):
        """The bus starts the helpers; they get these variables from the next time on."""
        words = " ".join(f"{name}={value}" for name, value in variables.items())
        for path in (self.dir / "services").iterdir():
            path.write_text(re.sub(r"^Exec=", f"Exec=/usr/bin/env {words} ", path.read_text(), flags=re.MULTILINE))
        self.reload_bus()

    def reload_bus(self):
        """The bus reads its service files again; without being told it depends on inotify, which may be used up."""
        name = "org.freedesktop.DBus"
        self.bus.busctl("call", name, "/org/freedesktop/DBus", name, "ReloadConfig")

    def start_daemon(self, *options, environment=None, prefix=()):
        before = self.environment
        self.environment = {**before, **(environment or {})}
        try:
            self.daemon = Process([*prefix, BUILD / "daemon/provisiond/dps-provisiond", f"--config={self.config_path}",
                                   f"--state-dir={self.dir}/state", "--log-target=stderr", "--log-level=debug",
                                   *options], "daemon", self.environment)
        finally:
            self.environment = before
        wait_for("the daemon on the bus", self.on_bus)

    def set_clock(self, offset):
        """How wrong the daemon's clock is, in seconds; start it with environment=world.clock()."""
        (self.dir / "clock").mkdir(exist_ok=True)
        temporary = self.dir / "clock.new"
        temporary.write_text(str(offset))
        temporary.rename(self.dir / "clock/offset")

    def clock(self):
        return {"LD_PRELOAD": str(BUILD / "tests/tools/clock-shim.so"), "CLOCK_SHIM_FILE": f"{self.dir}/clock/offset",
                "ASAN_OPTIONS": self.environment["ASAN_OPTIONS"] + ":verify_asan_link_order=0"}

    def on_bus(self):
        assert self.daemon.running(), "the daemon has ended:\n" + "\n".join(self.daemon.lines)
        with contextlib.suppress(BusError):
            return self.bus.properties()

    def stop_daemon(self, number=signal.SIGTERM):
        status = self.daemon.kill(number)
        self.processes.append(self.daemon)  # for the report
        self.daemon = None
        return status

    def restart_daemon(self, number=signal.SIGTERM):
        self.stop_daemon(number)
        self.start_daemon()

    def kill_helper(self, name):
        for pid in self.helper_pids(name):
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself since
                os.kill(pid, signal.SIGKILL)

    # --- IoT Edge's stand-ins ---

    def start_standins(self, *options):
        self.standins = self.start([SOURCE / "tests/standins/aziot.py", f"--root={self.root}",
                                    f"--log={self.dir}/standin.jsonl", f"--faults={self.dir}/standin-faults.json",
                                    f"--tcti=swtpm:path={self.dir}/tpm", f"--hub-ca={self.dir}/emulator/ca.pem",
                                    *options], "stand-ins")
        self.standins.wait_for_line("^ready")

    def standin_faults(self, **faults):
        temporary = self.dir / "standin-faults.new"
        temporary.write_text(json.dumps(faults))
        temporary.rename(self.dir / "standin-faults.json")

    def standin_events(self, event=None, **where):
        lines = json_lines(self.dir / "standin.jsonl")
        return [line for line in lines if event in (None, line["event"]) and
                all(line.get(k) == v for k, v in where.items())]

    def start_gateway(self, **enrollment):
        """IoT Edge's stand-ins, an enrolment and the daemon; waits until the gateway is handed off."""
        self.start_standins()
        self.enroll(self.enrollment(**{"capabilities": {"iotEdge": True}, **enrollment}))
        self.start_daemon()
        return self.wait_for_state("handed-off")

    def move(self, hub="hub-b.localhost", **enrollment):
        """Gives the enrolment another hub; returns its name."""
        name = f"{hub}:{self.port}"
        self.enroll(self.enrollment(**{"capabilities": {"iotEdge": True}, "iotHubHostName": name, **enrollment}))
        return name

    def retry(self):
        """Retry, once the service's Retry-After allows it."""
        def accepted():
            try:
                self.bus.call("Retry")
                return True
            except BusError as error:
                assert "asked to wait" in str(error) or "no wait" in str(error), error
                return "no wait" in str(error)
        wait_for("Retry", accepted)

    def registrations(self):
        """How many registrations the service let pass."""
        return len(self.requests(kind="confirm", status=202))

    def jobs(self):
        return [(e["verb"], e["unit"]) for e in self.standin_events("job")]

    @property
    def config_toml(self):
        return self.root / "etc/aziot/config.toml"

    # --- waiting ---

    def wait(self, what, condition, deadline=None):
        """Waits until the daemon's properties meet the condition; looks again whenever the daemon says something."""
        end = time.monotonic() + (deadline or DEADLINE)
        properties = {}
        while time.monotonic() < end:
            seen = len(self.daemon.lines)
            properties = self.bus.properties()
            if condition(properties):
                return properties
            assert self.daemon.running(), "the daemon has ended"
            with self.daemon.condition:
                self.daemon.condition.wait_for(lambda n=seen: len(self.daemon.lines) > n, timeout=0.2)
        raise Timeout(f"{what} did not happen: {properties}")

    def wait_for_state(self, state, deadline=None):
        return self.wait(f"state {state}", lambda p: p["State"] == state, deadline)

    def wait_for_failure(self, kind, deadline=None):
        properties = self.wait(f"failure {kind}", lambda p: p["LastError"][0] == kind, deadline)
        assert len(properties["LastError"][3]) > 20, "a remedy"
        self.daemon.wait_for_line(rf"DPS_FAILURE={kind}")
        return properties


def notify_socket(directory):
    """A socket for sd_notify(); returns it and its path."""
    path = pathlib.Path(directory) / "notify"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    return sock, path
