"""A gateway in a container: systemd as PID 1 on an overlay over the image, a TPM of its own, the service beside it.

Network() is a network namespace with nothing but loopback, in which the emulator of the service runs; machines that are
given it share that loopback. A Machine has a TPM (swtpm) whose socket has owner, group and mode of /dev/tpmrm0; it keeps
both its disk and its TPM when it is rebooted. Nothing of systemd touches the machine that the tests run on: PID 1 lives
in mount, network, PID and cgroup namespaces of its own, in a control group of its own.
"""
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests/fixture"))

from observe import json_lines, listens  # noqa: E402

DEADLINE = 90  # for what takes a second or two on an idle machine
SCOPE = "0ne00TEST01"
NAME = "org.dps.Provisioning1"
PATH = "/org/dps/Provisioning1"
REBOOT = 133  # nspawn's way to say it, when it is not registered anywhere

# With all capabilities and system calls, so that what a service can't do is what its unit denies, not the container.
NSPAWN = ("systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--boot", "--console=pipe", "--notify-ready=yes",
          "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--capability=all",
          "--system-call-filter=bpf @clock @module @raw-io perf_event_open")


class Timeout(AssertionError):
    pass


def wait_for(what, condition, deadline=DEADLINE):
    """For what no event announces; returns the condition's value."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout(f"{what} did not happen")
        time.sleep(0.02)


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def start(*arguments, **options):
    return subprocess.Popen([str(a) for a in arguments], preexec_fn=die_with_parent, **options)


def end(process):
    if process and process.poll() is None:
        process.kill()
        process.wait()


class Namespaces:
    """Mount and network namespaces, and a control group. A shell holds them; when it ends, or this process does, the
    kernel kills all that is left in the group: nspawn's end alone does not end a container."""

    SETUP = """set -e
    if [ -z "$JOINED" ]; then ip link set lo up; fi
    mount -t tmpfs tmpfs /run
    mkdir /run/lock
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir "/sys/fs/cgroup/$GROUP"
    echo ready
    cat
    echo 1 >"/sys/fs/cgroup/$GROUP/cgroup.kill"
    while grep -q 'populated 1' "/sys/fs/cgroup/$GROUP/cgroup.events"; do sleep 0.05; done
    find "/sys/fs/cgroup/$GROUP" -depth -type d -exec rmdir {} +
    """
    count = 0

    def __init__(self, network=None):
        Namespaces.count += 1
        self.group = f"dps-test-{os.getpid()}-{Namespaces.count}"
        join = ["nsenter", f"--net=/proc/{network.process.pid}/ns/net"] if network else []
        self.process = subprocess.Popen([*join, "unshare", "--mount", *([] if network else ["--net"]), "--propagation",
                                         "private", "sh", "-c", self.SETUP], text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env={**os.environ, "GROUP": self.group, "JOINED": "yes" if network else ""})
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("this machine can't have a container's namespaces and control groups: "
                               + self.process.stderr.read().strip())

    def enter(self, *arguments):
        """The command line that runs these in the namespaces."""
        return ["nsenter", f"--target={self.process.pid}", "--mount", "--net", *arguments]

    @property
    def root(self):
        return pathlib.Path(f"/proc/{self.process.pid}/root")

    def kill(self):
        """Everything in the group."""
        (self.root / f"sys/fs/cgroup/{self.group}/cgroup.kill").write_text("1")

    def close(self):
        self.process.stdin.close()
        self.process.wait(DEADLINE)


class Network:
    """Loopback, the emulator on it, and its log of every request."""

    def __init__(self, image, *options):
        self.image = image
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="dps-network-"))
        self.namespaces = Namespaces()
        self.process = self.namespaces.process
        self.emulator = None
        self.enroll()
        self.start_emulator(*options)

    def start_emulator(self, *options, port=0):
        (self.dir / "state").mkdir(exist_ok=True)
        self.emulator = start(*self.namespaces.enter(self.image / "usr/bin/dps-emulator"), f"--port={port}",
                              f"--scope={SCOPE}", f"--enrollments={self.dir}/enrollments.json",
                              f"--state-dir={self.dir}/state", "--polls=1", "--retry-after=1", *options, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        seen = ""
        for line in self.emulator.stdout:
            seen += line
            if match := re.search(r"listening on https://localhost:(\d+)", line):
                self.port = int(match[1])
                return
        raise RuntimeError("the emulator did not start: " + seen)

    def stop_emulator(self):
        end(self.emulator)

    def enroll(self, *enrollments):
        self.enrollments = enrollments
        temporary = self.dir / "enrollments.new"
        temporary.write_text(json.dumps(list(enrollments)))
        temporary.rename(self.dir / "enrollments.json")

    def requests(self, **where):
        lines = json_lines(self.dir / "state/requests.jsonl")
        return [line for line in lines if all(line.get(k) == v for k, v in where.items())]

    def registrations(self):
        return len(self.requests(kind="confirm", status=202))

    def close(self):
        end(self.emulator)
        self.namespaces.close()
        shutil.rmtree(self.dir, ignore_errors=True)


class Tpm:
    """swtpm, behind a socket that belongs to the image's group tss."""

    def __init__(self, group):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="dps-tpm-"))
        self.dir.chmod(0o755)
        (self.dir / "state").mkdir()
        (self.dir / "bind").mkdir()
        self.socket = self.dir / "bind/tpm"
        self.process = start("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.dir}/state", "--server",
                             f"type=unixio,path={self.socket},mode=0660", "--ctrl",
                             f"type=unixio,path={self.socket}.ctrl,mode=0660", "--flags",
                             "not-need-init,startup-clear", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for("swtpm", lambda: listens(self.socket) and listens(f"{self.socket}.ctrl"))
        for path in (self.socket, f"{self.socket}.ctrl"):
            os.chown(path, 0, group)

    def enrollment(self, image, **changes):
        """What 'dps-provision enrollment' prints for this TPM, before the gateway has ever been switched on."""
        config = self.dir / "provisiond.conf"
        config.write_text(f"[Tpm]\nTcti=swtpm:path={self.socket}\n")
        result = subprocess.run([image / "usr/bin/dps-provision", "enrollment", "--format=json", f"--config={config}"],
                                text=True, capture_output=True, timeout=DEADLINE, check=True)
        enrollment = json.loads(result.stdout)
        self.registration_id = enrollment["registrationId"]
        return {**enrollment, "capabilities": {"iotEdge": True}, **changes}

    def close(self):
        end(self.process)
        shutil.rmtree(self.dir, ignore_errors=True)


def group_id(image, name):
    line = next(line for line in (image / "etc/group").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split(":")[2])


class Machine:
    """start() boots it; run() runs a command in it."""

    def __init__(self, image, network, tpm=None, config=None):
        self.image = image
        self.network = network
        self.tpm = tpm or Tpm(group_id(image, "tss"))
        self.owns_tpm = not tpm
        self.other_tpms = []
        self.nspawn = self.leader = self.notify = None
        self.namespaces = Namespaces(network)
        self.run_in_namespaces("sh", "-c", "mkdir /run/disk && mount -t tmpfs tmpfs /run/disk && "
                               "mkdir /run/disk/upper /run/disk/work /run/disk/root && mount -t overlay overlay "
                               f"-o lowerdir={image},upperdir=/run/disk/upper,workdir=/run/disk/work /run/disk/root")
        self.root = self.namespaces.root / "run/disk/root"
        (self.root / "mnt/tpm").mkdir()
        self.write_config(config or {})

    def run_in_namespaces(self, *arguments):
        subprocess.run(self.namespaces.enter(*arguments), check=True, timeout=DEADLINE)

    def write_config(self, changes):
        """What the image of this test fleet says; the scope is a matter of each test."""
        config = {"Provisioning": {"GlobalEndpoint": f"https://localhost:{self.network.port}"},
                  "Tpm": {"Tcti": "swtpm:path=/mnt/tpm/tpm"}, "Network": {"CAFile": "/etc/dps-test-ca.pem"},
                  "Retry": {"InitialSec": 1, "MaxSec": 2},
                  "HandOff": {"AllowedHubs": "localhost *.localhost"}}
        for section, keys in changes.items():
            config.setdefault(section, {}).update(keys)
        text = "".join(f"[{section}]\n" + "".join(f"{k}={v}\n" for k, v in keys.items())
                       for section, keys in config.items())
        self.write("/usr/lib/dps-provisiond/provisiond.conf.d/50-fleet.conf", text)
        self.write("/etc/dps-test-ca.pem", (self.network.dir / "state/ca.pem").read_text())
        self.write("/etc/standins.env", "STANDIN_TCTI=swtpm:path=/mnt/tpm/tpm\nSTANDIN_HUB_CA=/etc/dps-test-ca.pem\n")

    def write(self, path, text):
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def read(self, path):
        return (self.root / path.lstrip("/")).read_text()

    # --- life ---

    def start(self, *options):
        """Boots; returns when the default target is reached."""
        self.options = options  # also after a reboot
        self.launch(*options)
        self.await_notification("READY=1")
        self.notify.close()

    def launch(self, *options):
        """Switches it on; returns when there is a PID 1, which has the boot before it."""
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified = []
        path = self.tpm.dir / "notify"
        path.unlink(missing_ok=True)
        self.notify.bind(str(path))
        script = f'echo $$ >/sys/fs/cgroup/{self.namespaces.group}/cgroup.procs; exec "$@"'
        self.nspawn = start(*self.namespaces.enter("sh", "-c", script, "sh", *NSPAWN),
                            "--directory=/run/disk/root", f"--bind={self.tpm.dir}/bind:/mnt/tpm", *options,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, "NOTIFY_SOCKET": str(path), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"})
        self.leader = int(self.await_notification("X_NSPAWN_LEADER_PID="))

    def await_notification(self, beginning):
        """What nspawn, or PID 1 through it, says; returns the rest of the line."""
        end_time = time.monotonic() + DEADLINE
        self.notify.settimeout(1)
        while True:
            for line in self.notified:
                if line.startswith(beginning):
                    return line.removeprefix(beginning)
            try:
                self.notified += self.notify.recv(4096).decode().splitlines()
            except TimeoutError:
                if self.nspawn.poll() is not None:
                    raise RuntimeError(f"systemd-nspawn has ended with status {self.nspawn.returncode}: "
                                       + self.nspawn.stdout.read()) from None
            if time.monotonic() > end_time:
                raise Timeout("the container did not boot:\n" + (self.journal_text() if self.leader else ""))

    def reboot(self):
        self.run("systemctl", "reboot", check=False)
        status = self.nspawn.wait(DEADLINE)
        assert status == REBOOT, (status, self.nspawn.stdout.read())
        self.start(*self.options)

    def power_off(self):
        """As when the plug is pulled."""
        if self.nspawn:
            self.namespaces.kill()
            self.nspawn.wait(DEADLINE)
            self.notify.close()
        self.nspawn = self.leader = None

    def exchange_tpm(self, tpm):
        """The disk in another machine; the old TPM stays ours to end."""
        self.other_tpms.append(self.tpm if self.owns_tpm else None)
        self.tpm, self.owns_tpm = tpm, False

    def close(self):
        self.power_off()
        self.namespaces.close()
        for tpm in filter(None, self.other_tpms):
            tpm.close()
        if self.owns_tpm:
            self.tpm.close()

    # --- in it ---

    def run(self, *arguments, check=True, user=None, text=None, timeout=DEADLINE):
        """As a service of its systemd would, for a user; else as root beside PID 1."""
        command = ["nsenter", f"--target={self.leader}", "--all", "--wdns=/"]
        if user:
            command += ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--uid={user}"]
        result = subprocess.run([*command, *map(str, arguments)], input=text, text=True, capture_output=True,
                                timeout=timeout, check=False, env={"PATH": "/usr/bin:/usr/sbin", "LANG": "C.UTF-8"})
        assert not check or result.returncode == 0, (arguments, result.returncode, result.stdout, result.stderr)
        return result

    def output(self, *arguments, **options):
        return self.run(*arguments, **options).stdout.strip()

    def show(self, unit, name):
        return self.output("systemctl", "show", f"--property={name}", "--value", unit)

    def busctl(self, *arguments, **options):
        return self.run("busctl", "--system", "--json=short", f"--timeout={DEADLINE}", *arguments, **options)

    def call(self, method, *arguments, name=NAME, path=PATH, **options):
        return self.busctl("call", name, path, name, method, *arguments, **options)

    def properties(self, **options):
        result = self.busctl("call", NAME, PATH, "org.freedesktop.DBus.Properties", "GetAll", "s", NAME, **options)
        return {key: value["data"] for key, value in json.loads(result.stdout)["data"][0].items()}

    def wait_for_property(self, name, value):
        """Also while the daemon is not on the bus; returns all of them."""
        found = {}

        def reached():
            result = self.busctl("call", NAME, PATH, "org.freedesktop.DBus.Properties", "GetAll", "s", NAME, check=False)
            if result.returncode == 0:
                found.update({k: v["data"] for k, v in json.loads(result.stdout)["data"][0].items()})
            return found.get(name) == value
        try:
            wait_for(f"{name}={value}", reached)
        except Timeout as error:
            raise Timeout(f"{error}: {found}") from None
        return found

    def wait_for_state(self, state):
        return self.wait_for_property("State", state)

    def wait_for_step(self, step):
        return self.wait_for_property("Step", step)

    def sync_journal(self):
        """What was logged until now is in the files that journalctl reads."""
        self.run("journalctl", "--sync")

    def journal(self, *matches):
        """Entries as dictionaries; none is a failure of journalctl, so its status says nothing."""
        self.sync_journal()
        result = self.run("journalctl", "--output=json", "--no-pager", *matches, check=False)
        assert not result.stderr.strip(), result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    def wait_for_entry(self, *matches):
        """The first entry in the journal that matches, once there is one."""
        return wait_for(f"an entry {matches}", lambda: self.journal(*matches))[0]

    def journal_text(self):
        return self.run("journalctl", "--no-pager", "-n", "200", "-o", "short-monotonic", check=False).stdout

    def wait_for_edge_as(self, **device):
        """aziot-edged has asked identityd whom it is; it does so by itself, when it has been started."""
        wait_for(f"IoT Edge as {device}", lambda: self.standin_events("edged-device", **device))

    def standin_events(self, event=None, **where):
        lines = json_lines(self.root / "var/log/standins.jsonl")
        return [line for line in lines if event in (None, line["event"]) and
                all(line.get(k) == v for k, v in where.items())]


if __name__ == "__main__":  # says why not, where there can't be any
    try:
        Namespaces().close()
    except RuntimeError as error:
        print(error)
