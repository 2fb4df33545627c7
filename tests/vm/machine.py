"""A gateway in a virtual machine: an emulated processor and TPM, the image that ./image makes, and the service on the
host's loopback. Everything a test starts ends with it. All waiting is for an event with a deadline; the deadlines are
long, since the processor is emulated and others use the machine too.
"""
import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import socket
import subprocess
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests/fixture"))

from observe import json_lines, listens  # noqa: E402

BUILD = pathlib.Path(os.environ.get("BUILD", SOURCE / "build-release")).resolve()
SCOPE = "0ne00VM0001"
BOOT = 1800  # seconds for a boot to the agent, or to a state; ten minutes were too few beside other work

DAEMON, TPMD, HANDOFFD = "dps-provisiond", "dps-tpmd", "dps-handoffd"
NAME, PATH = "org.dps.Provisioning1", "/org/dps/Provisioning1"


class Timeout(AssertionError):
    pass


def wait_for(what, condition, deadline=30):
    """Looks again and again for what no event announces (a file of another process)."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise Timeout(f"{what} did not happen")
        select.select([], [], [], 0.02)
    return value


class Service:
    """dps-emulator on the host's loopback, which is 10.0.2.2 in a machine."""

    def __init__(self, directory):
        self.dir = directory
        self.dir.mkdir()
        self.enroll()
        self.log = (directory / "emulator.log").open("w")
        self.process = subprocess.Popen(
            [BUILD / "tests/emulator/dps-emulator", "--port=0", f"--scope={SCOPE}", "--retry-after=1",
             f"--enrollments={directory}/enrollments.json", f"--state-dir={directory}",
             *(f"--host={name}dps.test" for name in ("", "hub.", "hub-b."))],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)
        wait_for("the emulator's port", lambda: "listening" in (directory / "emulator.log").read_text())
        self.port = int((directory / "port").read_text())

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def enroll(self, *enrollments):
        temporary = self.dir / "enrollments.new"
        temporary.write_text(json.dumps(list(enrollments)))
        temporary.rename(self.dir / "enrollments.json")

    def requests(self, **where):
        lines = json_lines(self.dir / "requests.jsonl")
        return [line for line in lines if all(line.get(k) == v for k, v in where.items())]

    def registrations(self):
        """What DPS was asked; the hub's requests are left out."""
        return [r for r in self.requests() if r["kind"] in ("register", "confirm", "poll")]

    def files(self):
        """What the machine needs to know to find the service."""
        return {"dps-test/ca.pem": (self.dir / "ca.pem").read_text(),
                "dps-provisiond/provisiond.conf.d/50-test.conf":
                    f"[Provisioning]\nGlobalEndpoint=https://dps.test:{self.port}\n"
                    "[Network]\nCAFile=/run/dps-test/ca.pem\n[HandOff]\nAllowedHubs=*.dps.test\n"
                    "[Retry]\nInitialSec=2\n"}


class Tpm:
    """What an emulated TPM keeps; a machine, or tools on the host, use it one after the other."""

    def __init__(self, directory):
        self.dir = directory
        self.dir.mkdir()
        self.process = None

    def start(self, *options):
        self.process = subprocess.Popen(["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.dir}",
                                         "--ctrl", f"type=unixio,path={self.dir}/server.ctrl", *options],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("swtpm", lambda: listens(self.dir / "server.ctrl"))
        return self.dir / "server.ctrl"

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process = None
        for name in ("server", "server.ctrl"):
            (self.dir / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def on_the_host(self):
        self.start("--server", f"type=unixio,path={self.dir}/server", "--flags", "not-need-init,startup-clear")
        wait_for("swtpm", lambda: listens(self.dir / "server"))
        try:
            yield f"swtpm:path={self.dir}/server"
        finally:
            self.stop()

    def enrollment(self, port, **changes):
        """What `dps-provision enrollment` prints for it, for an IoT Edge device."""
        with self.on_the_host() as tcti:
            text = subprocess.run([BUILD / "cli/dps-provision", "enrollment", "--format=json", f"--tcti={tcti}"],
                                  capture_output=True, text=True, timeout=60, check=True,
                                  env={**os.environ, "TSS2_LOG": "all+none"}).stdout
        return {**json.loads(text), "capabilities": {"iotEdge": True}, "iotHubHostName": f"hub.dps.test:{port}", **changes}


class Disk:
    """What a machine writes, over an image that stays as it is. A killed machine loses what it had not flushed."""

    def __init__(self, image, directory, *names):
        self.paths = [directory / f"{name}.qcow2" for name in names]
        for name, path in zip(names, self.paths):
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image / f"{name}.img", path],
                           check=True)


class Result:
    def __init__(self, status, output):
        self.status, self.output = status, output

    def __repr__(self):
        return f"exit status {self.status}:\n{self.output}"


class Machine:
    """One boot. `files` are what it finds under /run; credentials go onto the kernel's command line."""

    def __init__(self, image, directory, disk, tpm, files, credentials=(), options=(), network=True, append=""):
        self.dir = directory
        self.tpm = tpm
        self.console = directory / "console.log"
        self.console.touch()
        self.directory_of_files(files)
        command = ["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64",
                   "-m", "1024", "-smp", "2", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-kernel", image / "vmlinuz", "-initrd", self.initramfs(image),
                   "-append", " ".join(["console=ttyS0 panic=-1 quiet systemd.journald.forward_to_console=1 "
                                        "systemd.journald.max_level_console=info systemd.show_status=0", append,
                                        *(["data"] if len(disk.paths) > 1 else []),
                                        *(f"systemd.set_credential={k}:{v}" for k, v in credentials)]),
                   "-device", "virtio-rng-pci", "-serial", f"file:{self.console}",
                   "-chardev", f"socket,id=agent,path={directory}/agent,server=on,wait=off", "-serial", "chardev:agent", "-qmp", f"unix:{directory}/qmp,server=on,wait=off"]
        for number, path in enumerate(disk.paths):
            command += ["-drive", f"file={path},format=qcow2,if=virtio,index={number}"]
        if network:
            command += ["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"]
        if tpm:
            command += ["-chardev", f"socket,id=tpm,path={tpm.start('--terminate')}", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
                        "-device", "tpm-tis,tpmdev=tpm0"]
        self.started = time.monotonic()
        self.process = subprocess.Popen([*map(str, command), *options], stdin=subprocess.DEVNULL,
                                        stdout=(directory / "qemu.log").open("w"), stderr=subprocess.STDOUT)
        self.socket = socket.socket(socket.AF_UNIX)
        self.received = b""
        self.connected = False

    # --- what it is made of ---

    def directory_of_files(self, files):
        for name, text in files.items():
            path = self.dir / "initramfs/run" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def initramfs(self, image):
        """The image's, followed by what is this run's own; the kernel unpacks one after the other."""
        path = self.dir / "initramfs.cpio"
        extra = self.dir / "initramfs"
        names = "\n".join(str(p.relative_to(extra)) for p in sorted(extra.rglob("*"))) + "\n"
        with path.open("wb") as file:
            file.write((image / "initramfs.cpio").read_bytes())
            file.flush()
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], input=names.encode(), stdout=file,
                           cwd=extra, check=True)
        shutil.rmtree(extra)
        return path

    # --- its life ---

    def running(self):
        return self.process.poll() is None

    def processor_time(self):
        """That it has used, in clock ticks."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])  # utime, stime

    def kill(self):
        """Pulls the plug."""
        self.process.kill()
        self.process.wait()
        self.socket.close()
        if self.tpm:
            self.tpm.stop()

    def power_off(self):
        self.send("systemctl poweroff")  # the agent is ended as well, perhaps before it can answer
        wait_for("power-off", lambda: not self.running(), BOOT)
        self.kill()

    def plug(self, plugged):
        """The network cable."""
        with socket.socket(socket.AF_UNIX) as monitor, monitor.makefile("rw") as file:
            wait_for("qemu's monitor", lambda: monitor.connect_ex(str(self.dir / "qmp")) == 0)
            for command in ({"execute": "qmp_capabilities"},
                            {"execute": "set_link", "arguments": {"name": "n0", "up": plugged}}):
                file.write(json.dumps(command) + "\n")
                file.flush()
                while "return" not in (answer := json.loads(file.readline())):
                    assert "error" not in answer, answer

    # --- the agent in it ---

    def line(self, deadline):
        end = time.monotonic() + deadline
        while b"\n" not in self.received:
            ready, _, _ = select.select([self.socket], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise Timeout(f"the machine does not answer for {deadline} s")
            data = self.socket.recv(65536)
            if not data:
                raise Timeout("the machine has ended")
            self.received += data
        line, _, self.received = self.received.partition(b"\n")
        return line.decode(errors="replace").strip()

    def connect(self):
        if self.connected:
            return
        wait_for("qemu's socket", lambda: self.socket.connect_ex(str(self.dir / "agent")) == 0)
        while self.line(BOOT) != "ready":
            pass
        self.connected = True

    def send(self, script):
        self.connect()
        self.socket.sendall(base64.b64encode(script.encode()) + b"\n")

    def run(self, script, deadline=BOOT):
        """A shell script, as root; its status and output."""
        self.send(script)
        while True:
            word, *rest = self.line(deadline).split(" ")
            if word == "done":
                return Result(int(rest[0]), base64.b64decode(rest[1]).decode(errors="replace") if rest[1:] else "")

    def output(self, script, deadline=BOOT):
        result = self.run(script, deadline)
        assert result.status == 0, f"{script}\n{result}"
        return result.output.strip()

    # --- what it says ---

    def wait_for_journal(self, *matches, deadline=BOOT):
        """The first entry of this boot with these fields; the journal announces it. What journalctl has to say of files
        that a power cut has left is not one."""
        result = self.run(f"exec 3< <(exec journalctl -b -q -f -n all -o json {' '.join(matches)} 2>/dev/null)\n"
                          f"IFS= read -r -t {deadline} -u 3 line; status=$?\nkill $!\n"
                          "printf %s \"$line\"; exit $status", deadline + 60)
        if result.status != 0:
            raise Timeout(f"no entry with {matches} in the journal")
        return json.loads(result.output)

    def wait_for_state(self, state, deadline=BOOT):
        self.wait_for_journal("SYSLOG_IDENTIFIER=dps-provisiond", f"DPS_STATE={state}", deadline=deadline)
        return self.properties()

    def wait_for_failure(self, kind, deadline=BOOT):
        self.wait_for_journal("SYSLOG_IDENTIFIER=dps-provisiond", f"DPS_FAILURE={kind}", deadline=deadline)
        return self.properties()

    def properties(self):
        output = self.output(f"busctl --json=short call {NAME} {PATH} org.freedesktop.DBus.Properties GetAll s {NAME}")
        return {key: value["data"] for key, value in json.loads(output)["data"][0].items()}

    def report(self):
        """For a failed test: all that is known about what happened in it."""
        parts = [f"=== console and journal ({self.console})\n" + self.console.read_text(errors="replace"),
                 f"=== qemu\n{(self.dir / 'qemu.log').read_text()}"]
        if self.running() and self.connected:
            with contextlib.suppress(Timeout, OSError):
                parts.append("=== units\n" + self.run("systemctl --no-pager --failed; systemctl --no-pager list-jobs; "
                                                      "journalctl -b --no-pager -o short-monotonic | tail -n 400").output)
        return "\n".join(parts)
