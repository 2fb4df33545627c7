"""Suite "cli": status and the calls to the daemon, as people and programs use them."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import dbus_next
import pytest
from checking import NOBODY
from harness import BUILD, DEADLINE, NAME, SCOPE, SOURCE, Process, Timeout, wait_for

NO_EDGE = {"HandOff": {"Target": "none"}}
TOOL = BUILD / "cli/dps-provision"


def cli(world, *arguments, prefix=(), **options):
    return subprocess.run([*prefix, TOOL, *arguments], env=world.environment, text=True, capture_output=True, timeout=60,
                          check=False, **options)


class Terminal:
    """A program on a pseudo-terminal; what it prints can be waited for."""

    def __init__(self, arguments, environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs in a shell's background inherits it ignored
            os.execve(arguments[0], [str(a) for a in arguments], environment)
        self.text = ""

    def read(self, deadline):
        """The next part; "" at the end."""
        if not select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0]:
            raise Timeout(self.text)
        try:
            part = os.read(self.fd, 65536).decode(errors="replace")
        except OSError:
            return ""
        self.text += part
        return part

    def wait_for(self, pattern):
        deadline = time.monotonic() + DEADLINE
        while not (match := re.search(pattern, self.text, re.DOTALL)):
            assert self.read(deadline), self.text
        return match

    def end(self, number=None):
        if number:
            os.kill(self.pid, number)
        deadline = time.monotonic() + DEADLINE
        while self.read(deadline):
            pass
        os.close(self.fd)
        return os.waitpid(self.pid, 0)[1]


# --- no daemon ---

ASKING = (("status",), ("retry",), ("reprovision", "--yes"), ("reprovision", "--wait"), ("factory-reset", "--yes"))


def assert_refused(world, message, remedy, verbs=ASKING):
    before = world.config_path.read_text()
    for verb in verbs:
        arguments = (*verb, f"--config={world.config_path}") if verb[0] == "factory-reset" else verb
        result = cli(world, *arguments, stdin=subprocess.DEVNULL)
        lines = result.stderr.splitlines()
        assert result.returncode == 1 and result.stdout == "", result
        assert re.fullmatch(f"dps-provision: {message}", lines[0]) and re.search(remedy, lines[1]), result
        assert lines[2:] == ["The daemon has to do this: nothing was done."] * (verb[0] == "factory-reset"), result
    assert world.config_path.read_text() == before


@pytest.mark.root
def test_why_there_is_no_daemon(new_world):
    """As far as systemd knows, and by nobody else's word."""
    w = new_world(**NO_EDGE)
    start = r"'systemctl start dps-provisiond'"
    assert_refused(w, r"The daemon does not run\.", f"^Start it with {start}")
    w.start_standins()
    assert_refused(w, r"The daemon does not run: .* is disabled.*", rf"enable --now dps-provisiond'.*{start}")
    w.standin_faults(enabled=["dps-provisiond.service"])
    assert_refused(w, r"The daemon does not run\.", f"^Start it with {start}")
    for load, message, remedy in (("masked", "is masked", "'systemctl unmask dps-provisiond'"),
                                  ("not-found", "there is no unit", "Install the package")):
        w.standin_faults(units={"dps-provisiond.service": {"load": load}})
        assert_refused(w, f"The daemon does not run: .*{message}.*", f"{remedy}.*{start}")
        result = cli(w, "set-scope", SCOPE, f"--config={w.config_path}")
        assert result.returncode == 0 and message in result.stdout, result
        assert message in cli(w, "check", "--no-network", f"--config={w.config_path}", f"--root={w.root}").stdout
    for how, message, remedy in (("fail", "does not run: .* has failed", f"journalctl -u dps-provisiond.*{start}"),
                                 ("crash-loop", "does not run: .* has failed", f"journalctl -u dps-provisiond.*{start}"),
                                 ("", "is just being started", "Try again")):
        w.standin_faults(units={"dps-provisiond.service": {"start": how}})
        jobs = len(w.jobs())
        w.bus.systemd("StartUnit", "dps-provisiond.service")
        wait_for("the job", lambda n=jobs: len(w.jobs()) > n)
        assert_refused(w, f"The daemon {message}.*", remedy)


@pytest.mark.root
def test_there_is_no_bus(new_world):
    w = new_world(**NO_EDGE)
    w.environment["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={w.dir}/none"
    assert_refused(w, "The daemon can't be asked, because the system bus can't be reached: No such file or directory",
                   "^Start both with 'systemctl start dbus.socket dps-provisiond'", (*ASKING, ("status", "--watch")))


def test_the_daemon_dies_while_it_is_asked(new_world):
    w = new_world(**NO_EDGE)

    false_daemon(w, lambda bus, _: bus.connection.disconnect())
    result = cli(w, "status")
    assert result.returncode == 1 and re.fullmatch(r"dps-provision: The daemon did not answer: .*\n"
                                                   r"See 'systemctl status dps-provisiond'.*\n", result.stderr), result


def false_daemon(world, answer):
    """Has the daemon's name, and answers each call with what answer(bus, call) returns."""
    bus = world.new_bus()
    bus.own(NAME, lambda call: answer(bus, call))


def test_nothing_that_the_daemon_says_commands_the_terminal(new_world):
    """It speaks with the network; root may be the one who asks it."""
    w = new_world(**NO_EDGE)
    evil = "\033]0;x\a\u009b31m\r\n"
    long = "handed-off" * 1000 + evil
    properties = {name: dbus_next.Variant("s", long) for name in ("State", "Step", "AssignedHub", "DeviceId", "Version")}
    properties["LastError"] = dbus_next.Variant("(ssss)", ["connect", evil, evil, evil])
    properties["Warnings"] = dbus_next.Variant("a(sss)", [["data-moved", evil, evil]])

    def answer(_, call):
        if call.member == "GetAll":
            return dbus_next.Message.new_method_return(call, "a{sv}", [properties])
        return dbus_next.Message.new_error(call, f"{NAME}.Error.Failed", evil)

    false_daemon(w, answer)
    for verb in (["status"], ["status", "--json"], ["retry"], ["reprovision", "--yes"],
                 ["check", "--no-network", f"--config={w.config_path}", f"--root={w.root}"]):
        result = cli(w, *verb)
        text = result.stdout + result.stderr
        assert result.returncode in (1, 3) and "?]0;x???31m" in text, result
        assert not any(c < " " and c != "\n" or "\x7f" <= c < "\xa0" for c in text), result
    watch = Process([TOOL, "status", "--watch"], "watch", w.environment)
    w.processes.append(watch)
    watch.wait_for_line(r"  (handed-off){90}")
    assert watch.running()


def test_watch_outlives_a_daemon_that_dies_while_it_is_asked(new_world):
    w = new_world(**NO_EDGE)

    false_daemon(w, lambda bus, _: bus.connection.disconnect())
    watch = Process([TOOL, "status", "--watch"], "watch", w.environment)
    w.processes.append(watch)
    watch.wait_for_line("did not answer")
    w.start_daemon()
    watch.wait_for_line(r"  attesting \(")
    assert watch.running()


# --- status ---

def test_status_says_it_all(new_world):
    w = new_world(**NO_EDGE)
    w.start_daemon()
    w.wait_for_failure("enrollment-missing")
    result = cli(w, "status")
    assert result.returncode == 3, result
    for what in (r"^attesting \(wait\)$", r"^  Since: +\w+ \d{4}-\d\d-\d\d .*; \d+ s ago$", rf"^  ID scope: +{SCOPE}$",
                 r"^  Registration ID: +[0-9a-f]{64}$", r"^  Next attempt: +in .*, attempt 2$", r"^  Last error: .*enrollment",
                 r"^  What to do: +Create an individual enrolment"):
        assert re.search(what, result.stdout, re.MULTILINE), (what, result.stdout)
    assert "\033" not in result.stdout
    w.enroll(w.enrollment())
    w.retry()
    w.wait_for_state("handed-off")
    result = cli(w, "status")
    assert result.returncode == 0 and re.search(r"^  Hub: +localhost:\d+$", result.stdout, re.MULTILINE), result
    assert "Last error" not in result.stdout and "Next attempt" not in result.stdout


def test_since_when_outlives_a_restart(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    before = w.wait_for_state("handed-off")["StateChangedUSec"]
    assert abs(before / 1e6 - time.time()) < DEADLINE
    w.restart_daemon()
    assert w.wait_for_state("handed-off")["StateChangedUSec"] == before


@pytest.mark.smoke
def test_json_is_what_the_manual_says(new_world):
    w = new_world(Provisioning={"IdScpoe": "x"}, **NO_EDGE)
    w.start_daemon()
    w.wait_for_failure("enrollment-missing")
    result = cli(w, "status", "--json")
    status = json.loads(result.stdout)
    assert result.returncode == 3 and result.stdout.count("\n") == 1
    text = {"state", "step", "idScope", "globalEndpoint", "registrationId", "endorsementKey", "assignedHub", "deviceId",
            "substatus", "version"}
    numbers = {"attempts", "stateChangedUSec", "nextAttemptUSec", "lastSuccessUSec"}
    assert set(status) == text | numbers | {"lastError", "warnings"}
    assert all(isinstance(status[k], str) for k in text) and all(isinstance(status[k], int) for k in numbers)
    assert set(status["lastError"]) == {"kind", "code", "sentence", "remedy"}
    assert [set(x) for x in status["warnings"]] == [{"kind", "sentence", "remedy"}]
    manual = (SOURCE / "docs/dps-provision.1").read_text()
    for key in set(status) | set(status["lastError"]):
        assert re.search(rf"\b{key}\b", manual), key


def test_watch_prints_lines_where_nobody_sits(new_world):
    w = new_world(polls=1, **NO_EDGE)
    w.enroll(w.enrollment())
    w.faults("slow:confirm=50")
    watch = Process([TOOL, "status", "--watch"], "watch", w.environment)
    w.processes.append(watch)
    watch.wait_for_line("daemon does not run")  # it may come later
    w.start_daemon()
    watch.wait_for_line(r"  attesting \(confirm\)$")
    w.faults()
    watch.wait_for_line(r"  handed-off \(idle\): '.*' on 'localhost")
    assert watch.running() and not any("\033" in line for line in watch.lines)
    texts = [line.split("  ", 1)[-1] for line in watch.lines]
    assert all(a != b for a, b in zip(texts, texts[1:])), texts


def test_watch_redraws_on_a_terminal(new_world):
    w = new_world(**NO_EDGE)
    w.start_daemon()
    w.wait_for_failure("enrollment-missing")
    terminal = Terminal([TOOL, "status", "--watch"], w.environment)
    # the countdown goes on, without a word from the daemon
    terminal.wait_for(r"in (\d+) s \(.*in (?!\1)(\d+) s \(.*in (?!\2)\d+ s \(")
    assert "\033[1;31m" in terminal.text and terminal.text.count("\033[H\033[2J") >= 3
    w.enroll(w.enrollment())
    w.retry()
    terminal.wait_for(r"\033\[1;32mhanded-off")
    terminal.end(signal.SIGINT)


def test_watch_ends_when_nothing_can_be_printed(new_world):
    w = new_world(**NO_EDGE)
    w.start_daemon()
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run([TOOL, "status", "--watch"], env=w.environment, stdout=full, stderr=subprocess.PIPE,
                                text=True, timeout=60, check=False)
    assert result.returncode == 1 and result.stderr.startswith("dps-provision: Not all could be printed")


def test_no_color(new_world):
    w = new_world(**NO_EDGE)
    w.start_daemon()
    w.wait_for_failure("enrollment-missing")
    for verb in ("status", "check"):
        arguments = [TOOL, verb] + ([f"--config={w.config_path}", "--no-network"] if verb == "check" else [])
        colourful = Terminal(arguments, w.environment)
        colourful.end()
        plain = Terminal(arguments, {**w.environment, "NO_COLOR": "1"})
        plain.end()
        assert "\033[" in colourful.text and "\033" not in plain.text and len(plain.text) > 200


# --- retry and reprovision ---

def test_nothing_to_retry(new_world):
    """It says what there is to do instead."""
    w = new_world(Provisioning={"IdScope": None}, **NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("unprovisioned")
    result = cli(w, "retry")
    assert result.returncode == 1 and "no ID scope is set: set it with 'dps-provision set-scope ID'" in result.stderr, result
    w.faults("slow:confirm=50")
    w.write_config(Provisioning={"IdScope": SCOPE})
    w.wait("DPS", lambda p: p["Step"] == "confirm")
    result = cli(w, "retry")
    assert result.returncode == 1 and "step confirm; it is under way" in result.stderr, result
    w.faults()
    w.wait("the end", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    result = cli(w, "retry")
    assert result.returncode == 1 and "'dps-provision reprovision' attests again" in result.stderr, result


@pytest.mark.root
@pytest.mark.parametrize("verb", ["retry", "reprovision"])
def test_only_root_may(new_world, verb):
    w = new_world(**NO_EDGE)
    w.dir.chmod(0o755)
    w.start_daemon()
    result = cli(w, verb, prefix=NOBODY)
    assert result.returncode == 1 and "Only root" in result.stderr and result.stderr.endswith("\nRun it as root.\n"), result


def test_what_goes_on_after_it(new_world):
    w = new_world(**NO_EDGE)
    w.start_daemon()
    w.wait_for_failure("enrollment-missing")
    w.enroll(w.enrollment())
    for verb in ("retry", "reprovision"):
        result = cli(w, verb, stdin=subprocess.DEVNULL)
        assert result.returncode == 0 and "dps-provision status --watch" in result.stdout, result
        w.wait_for_state("handed-off")
        w.wait("rest", lambda p: p["Step"] == "idle")
    result = cli(w, "retry")
    assert result.returncode == 1 and result.stdout == "" and "no wait" in result.stderr, result


def test_the_question_is_seen_when_the_output_goes_to_a_file(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    registrations = w.registrations()
    for answer, status in (("n", 1), ("y", 0)):
        terminal = Terminal(["/bin/sh", "-c", f"exec {TOOL} reprovision --wait >{w.dir}/log"], w.environment)
        terminal.wait_for(r"may move it or reset its data.*\[y/N\] ")
        os.write(terminal.fd, answer.encode() + b"\n")
        assert os.waitstatus_to_exitcode(terminal.end()) == status, terminal.text
        assert ("Nothing was done" in terminal.text) == (answer == "n")
    assert w.registrations() == registrations + 1 and "handed-off: '" in (w.dir / "log").read_text()
