"""Suite "daemon": the machine around it fails: name servers, proxies, disks, clocks, links, the TPM's owner."""
import datetime
import json
import os
import re
import select
import shutil
import subprocess
import sys
import threading
import time

import pytest
from harness import BUILD, notify_socket, wait_for
from tpm_states import SRK

NO_EDGE = {"HandOff": {"Target": "none"}}


def edge(world, **changes):
    return world.enrollment(capabilities={"iotEdge": True}, **changes)


def asked_at(world):
    """When the service had its last request; waits begin after that."""
    return datetime.datetime.fromisoformat(world.requests()[-1]["time"]).timestamp()


def time_properties(world, number):
    """How long each GetAll takes."""
    times = []
    for _ in range(number):
        begun = time.monotonic()
        world.bus.properties()
        times.append(time.monotonic() - begun)
        select.select([], [], [], 0.01)
    return times


def assert_answers(times, number):
    """Mostly at once. A busy machine may be late for seconds; a loop that blocks is for as long as what it waits for,
    which is 20 seconds and more here."""
    times.sort()
    assert len(times) >= number and times[len(times) // 2] < 0.5 and times[-1] < 15, times[-20:]


def test_answers_while_a_tpm_command_takes_30_seconds(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(rules=[{"command": "ReadPublic", "delay": 600}])
    sock, path = notify_socket(w.dir)
    fed = []
    threading.Thread(target=lambda: [fed.append(sock.recv(4096)) for _ in range(10000)], daemon=True).start()
    w.start_daemon(environment={**w.clock(), "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "2000000"})
    wait_for("the slow command", lambda: w.tpm_commands()[-1:] == ["ReadPublic"])
    before, times = fed.count(b"WATCHDOG=1"), []
    for _ in range(30):
        w.let_pass(1)
        times += time_properties(w, 4)
    assert w.tpm_commands()[-1:] == ["ReadPublic"]
    assert_answers(times, 100)
    assert fed.count(b"WATCHDOG=1") - before >= 15
    assert any(b"STATUS=attesting (identity)" in message for message in fed)
    w.tpm_faults()
    w.wait_for_state("handed-off")


def slow_resolver(world, seconds):
    clock = world.clock()
    return {**clock, "LD_PRELOAD": f"{clock['LD_PRELOAD']}:{BUILD}/tests/tools/slow-resolver.so",
            "SLOW_RESOLVER_SEC": str(seconds)}


def test_answers_while_no_name_server_does(new_world):
    w = new_world(Network={"ConnectTimeoutSec": 2}, **NO_EDGE)
    w.config["Provisioning"]["GlobalEndpoint"] = "https://service.invalid"
    w.write_config()
    w.start_daemon(environment=slow_resolver(w, 20))
    times = []
    for _ in range(3):
        w.wait("the name to be asked for", lambda p: p["Step"] == "register")
        times += time_properties(w, 10)
        w.let_pass(3)
        times += time_properties(w, 10)
    assert_answers(times, 50)
    assert "no name server answers" in w.wait_for_failure("dns")["LastError"][2]
    w.wait("the name to be asked for", lambda p: p["Step"] == "register")
    begun = time.monotonic()
    w.bus.call("Reprovision")  # cancels it
    assert time.monotonic() - begun < 10  # the resolver takes 20


@pytest.mark.parametrize("proxy", ["http://localhost:1", "http://nowhere.invalid:3128"])
def test_proxy_that_can_not_be_reached(new_world, proxy):
    w = new_world(Network={"Proxy": proxy}, **NO_EDGE)
    w.start_daemon()
    w.wait_for_failure("proxy")


def test_wrong_scope(new_world):
    w = new_world(Provisioning={"IdScope": "0ne00WRONG1"}, **NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    p = w.wait_for_failure("scope-unknown")
    assert "0ne00WRONG1" in p["LastError"][2] and p["NextAttemptUSec"] > (asked_at(w) + 20) * 1e6


# --- the state file ---

def test_no_registration_that_could_not_be_stored(new_world):
    """A disk that is full or read-only: no path below a file can be made either, not even by root."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    (w.dir / "state").rmdir()
    (w.dir / "state").write_text("")
    w.start_daemon()
    p = w.wait_for_failure("storage")
    assert p["State"] == "attesting" and str(w.dir / "state/state.json") in p["LastError"][2]
    assert not w.requests()
    (w.dir / "state").unlink()
    (w.dir / "state").mkdir()
    assert w.wait_for_state("handed-off")["Warnings"] == []


@pytest.mark.smoke
def test_disk_full_in_the_middle(new_world):
    """What is assigned then is not adopted before it can be stored, and costs no second registration."""
    w = new_world(polls=1, **NO_EDGE)
    w.enroll(w.enrollment())
    w.faults("slow:poll=50")
    w.start_daemon()
    w.wait("the poll", lambda p: p["Step"] == "poll")
    (w.dir / "state").rename(w.dir / "away")  # the daemon may be writing there
    (w.dir / "state").write_text("")
    w.faults()
    p = w.wait_for_failure("storage")
    assert p["State"] == "assigned" and w.hub_key() is None
    (w.dir / "state").unlink()
    (w.dir / "state").mkdir()
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


def test_disk_full_until_everything_is_done(new_world):
    """What could not be written is written when there is room, though nothing happens any more."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(rules=[{"command": "EvictControl", "delay": 50}])
    w.start_daemon(environment=w.clock())
    w.wait("the adoption", lambda p: p["Step"] == "adopt")
    shutil.rmtree(w.dir / "state")
    (w.dir / "state").write_text("")
    w.tpm_faults()
    p = w.wait("the end", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    assert [warning[0] for warning in p["Warnings"]] == ["storage"], p["Warnings"]
    (w.dir / "state").unlink()
    (w.dir / "state").mkdir()
    w.let_pass(61)
    w.wait("no warning", lambda p: not p["Warnings"])
    assert json.loads((w.dir / "state/state.json").read_text())["state"] == "handed-off"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 3, "state": "attesting", "new": {}}',
                                     '{"version": 2, "state": "handed-off"}',
                                     '{"version": 2, "state": "attesting", "intended": {"hub": "h"}}',
                                     '{"version": 1, "state": "handed-off"}',
                                     '{"version": 1, "state": "attesting", "hub": "h", "keyPrivate": "%"}'])
def test_state_that_can_not_be_understood(new_world, content):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    (w.dir / "state/state.json").write_text(content)
    w.start_daemon()
    p = w.wait_for_state("handed-off")
    assert [warning[0] for warning in p["Warnings"]] == ["storage"]
    assert "state.json.damaged" in p["Warnings"][0][1]
    assert (w.dir / "state/state.json.damaged").read_text() == content
    assert json.loads((w.dir / "state/state.json").read_text())["state"] == "handed-off"
    w.restart_daemon()
    assert w.wait_for_state("handed-off")["Warnings"] == []


# --- what changes the odds ---

LINK_UP = """
import fcntl, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP: the kernel adds its addresses
"""


@pytest.mark.namespaces
def test_a_link_that_comes_up_shortens_the_wait(new_world):
    """In a network namespace of its own, where at first nothing is up."""
    w = new_world(Retry={"InitialSec": 600, "MaxSec": 600}, **NO_EDGE)
    w.start_daemon(prefix=["unshare", "-n"])
    pid = w.daemon.process.pid
    due = w.wait("a failure", lambda p: p["LastError"][0] in ("connect", "dns"))["NextAttemptUSec"]
    assert due > time.time() * 1e6 + 250e6
    subprocess.run(["nsenter", "-t", str(pid), "-n", sys.executable, "-c", LINK_UP], check=True)
    w.daemon.wait_for_line("brought forward: the network has changed")
    w.wait("another attempt", lambda p: p["Attempts"] == 2)


@pytest.mark.namespaces
def test_a_link_that_comes_up_too_late_for_the_attempt(new_world):
    """The name is being asked for then, and that still fails: the next attempt is not for much later."""
    w = new_world(Retry={"InitialSec": 600, "MaxSec": 600}, Network={"ConnectTimeoutSec": 60}, **NO_EDGE)
    w.config["Provisioning"]["GlobalEndpoint"] = "https://service.invalid"
    w.write_config()
    w.start_daemon(prefix=["unshare", "-n"], environment=slow_resolver(w, 30))
    w.daemon.wait_for_line("Step register$")
    subprocess.run(["nsenter", "-t", str(w.daemon.process.pid), "-n", sys.executable, "-c", LINK_UP], check=True)
    for _ in range(2):  # by then it has been told of the link
        w.bus.properties()
    w.let_pass(61)
    w.daemon.wait_for_line("Next attempt in")
    w.daemon.wait_for_line("brought forward: the network has changed")
    w.wait("another attempt", lambda p: p["Step"] == "register" and p["Attempts"] == 1)


def test_next_attempt_follows_the_clock(new_world):
    w = new_world(**NO_EDGE)
    w.set_clock(0)
    w.start_daemon(environment=w.clock())
    due = w.wait_for_failure("enrollment-missing")["NextAttemptUSec"]
    w.set_clock(86400)
    w.wait("the new time", lambda p: abs(p["NextAttemptUSec"] - due - 86400e6) < 2e6)


def test_service_without_a_date_after_a_long_time_off(new_world):
    """What is known of the service's time is old then, and a token by it would have expired."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    w.stop_daemon()
    path = w.dir / "state/state.json"
    state = json.loads(path.read_text())
    state["serverTime"] -= 7 * 86400
    path.write_text(json.dumps(state))
    w.faults("no-date")
    w.start_daemon()
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    w.bus.call("Reprovision")
    wait_for("another registration", lambda: w.registrations() == 2)
    p = w.wait_for_state("handed-off")
    assert p["Warnings"] == []


def test_clock_that_went_back_while_off(new_world):
    """Without a battery the clock stands where it was switched off, or earlier; the stored time tells."""
    w = new_world()
    w.start_gateway()
    w.stop_daemon()
    w.set_clock(-86400)
    w.write_config(HandOff={"Identity": "register"})  # something has to be handed over again
    w.start_daemon(environment=w.clock())
    p = w.wait_for_failure("clock-behind")
    assert p["State"] == "assigned"
    w.set_clock(0)
    w.wait_for_state("handed-off")


# --- the TPM's owner ---

def test_tpm_cleared_while_attesting(new_world):
    """The storage root key is another one then, and the service wraps for the one that it is told."""
    w = new_world()
    w.start_standins()
    w.enroll(edge(w, provisioningStatus="disabled"))
    w.start_daemon()
    w.wait_for_failure("disabled")
    w.tpm2("clear", "-c", "p")
    w.enroll(edge(w))
    w.retry()
    w.wait_for_state("handed-off")


SECRET = "hunter2"


def with_owner_auth(world, value):
    world.tpm2("changeauth", "-c", "o", SECRET)
    if value is not None:
        (world.dir / "credentials").mkdir()
        (world.dir / "credentials/dps.tpm_owner_auth").write_text(value + "\n")
        world.helpers_environment(CREDENTIALS_DIRECTORY=world.dir / "credentials")


@pytest.mark.parametrize("value", [None, "wrong"])
def test_owner_authorization_that_is_not_known(new_world, value):
    w = new_world(tpm="fresh", **NO_EDGE)
    w.enroll(w.enrollment())
    with_owner_auth(w, value)
    w.start_daemon()
    p = w.wait_for_failure("tpm-auth")
    assert not w.requests() and SECRET not in str(p)
    w.write_config(HandOff={"Identity": "register"})  # no key is to be made persistent then
    w.wait_for_state("handed-off")
    assert w.persistent_handles() == []


def test_owner_authorization_from_a_credential(new_world):
    w = new_world(tpm="fresh", **NO_EDGE)
    w.enroll(w.enrollment())
    with_owner_auth(w, SECRET)
    w.start_daemon()
    w.wait_for_state("handed-off")
    assert w.hub_key() and SECRET not in "\n".join([*w.daemon.lines, *w.bus_process.lines])


def test_iot_edge_registers_by_itself_where_the_owner_is_not_known(new_world):
    w = new_world(tpm="fresh")
    w.start_standins()
    w.enroll(edge(w))
    with_owner_auth(w, None)
    w.start_daemon()
    p = w.wait("the hand-off", lambda p: p["State"] == "assigned")
    assert [warning[0] for warning in p["Warnings"]] == ["srk-unsuitable"]
    assert "adopt" not in [match[1] for line in w.daemon.lines if (match := re.search(r"Step (\S+)$", line))]
    assert w.persistent_handles() == []


def test_hmac_key_of_somebody_else(new_world):
    """Without IoT Edge nobody says that it may go, but the operator."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm2("create", "-C", SRK, "-G", "hmac", "-u", "key.pub", "-r", "key.priv")
    w.tpm2("load", "-C", SRK, "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
    w.tpm2("evictcontrol", "-c", "key.ctx", "0x81000100")
    w.tpm2("flushcontext", "-t")
    name = w.hub_key()
    w.start_daemon()
    assert "0x81000100" in w.wait_for_failure("tpm-handle-taken")["LastError"][2]
    assert not w.requests() and w.hub_key() == name
    w.write_config(HandOff={"ReplaceProvisioning": "yes"})
    w.wait_for_state("handed-off")
    assert w.hub_key() not in (name, None)


def test_hub_key_goes_to_another_handle(new_world):
    """From what is stored: without a registration, and without the network."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    name = w.hub_key()
    w.stop_emulator()
    w.write_config(Tpm={"HubKeyHandle": "0x81000200"})
    wait_for("the key", lambda: w.hub_key("0x81000200") == name)
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    w.restart_daemon()
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle" and p["EndorsementKey"])


def test_a_second_daemon_says_why_it_ends(new_world):
    w = new_world(Provisioning={"IdScope": None})
    w.start_daemon()
    command = [str(word) for word in w.daemon.process.args]
    second = subprocess.run(command, env=w.environment, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1 and "runs already" in second.stderr
    assert w.on_bus()


@pytest.mark.parametrize("command, code, kind", [
    ("ActivateCredential", "0x921", "tpm-lockout"),
    ("PolicySecret", "0x9a2", "tpm-auth"),
    ("ActivateCredential", "0x902", "tpm-busy"),
    ("GetCapability", "0x101", "tpm-failed"),
])
def test_errors_of_the_tpm_are_told(new_world, command, code, kind):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(rules=[{"command": command, "answer": code, "times": 0}])
    w.start_daemon()
    p = w.wait_for_failure(kind)
    assert p["State"] == "attesting" and p["LastError"][1].startswith("0x") and len(p["LastError"][2]) > 20
    w.tpm_faults()
    w.retry()
    w.wait_for_state("handed-off")


def test_no_room_for_the_hub_key(new_world):
    """The assignment is stored, and is all that it takes later."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(rules=[{"command": "EvictControl", "times": 0, "answer": "0x14b"}])
    w.start_daemon()
    assert w.wait_for_failure("tpm-full")["State"] == "assigned"
    w.stop_emulator()
    w.tpm_faults()
    w.retry()
    w.wait_for_state("handed-off")
    assert w.hub_key()


def test_helper_that_can_not_be_started(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    service = w.dir / "services/org.dps.Tpm1.service"
    good = service.read_text()
    service.write_text(good.replace("Exec=", "Exec=/nowhere"))
    w.reload_bus()
    w.start_daemon()
    p = w.wait_for_failure("tpm-failed")
    assert "dps-tpmd" in p["LastError"][2] and "journal" in p["LastError"][2]
    service.write_text(good)
    w.reload_bus()
    w.wait_for_state("handed-off")


# --- many times ---

def resources(pid):
    fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status", encoding="utf-8") if ":" in line)
    return len(os.listdir(f"/proc/{pid}/fd")), int(fields["VmRSS"].split()[0]), int(fields["Threads"])


def attempt_often(world, times):
    """Attempts that use the TPM and end with a refusal, one after the other."""
    for _ in range(times):
        seen = len(world.bus.changes)
        world.call_again("Retry")
        world.bus.wait_for("the wait", lambda n=seen: any(change.get("Step") == "wait" for change in world.bus.changes[n:]))


@pytest.mark.smoke
def test_many_attempts_leak_nothing(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 403, "on": "confirm"}]))
    w.start_daemon(environment=w.clock())
    w.wait("a failure", lambda p: p["Step"] == "wait")
    attempt_often(w, 50)
    pids = [w.daemon.process.pid, *w.helper_pids("dps-tpmd")]
    before = [resources(pid) for pid in pids]
    attempt_often(w, int(os.environ.get("DPS_ATTEMPTS", "100")))
    # a leak does not go away; what the last attempt has left may be given back at this moment
    wait_for("as few descriptors and threads", lambda: all(
        now[0] <= then[0] and now[2] <= then[2] for now, then in zip(map(resources, pids), before)))
    after = [resources(pid) for pid in pids]
    assert pids == [w.daemon.process.pid, *w.helper_pids("dps-tpmd")]
    for (_, memory, _), (_, more_memory, _) in zip(before, after, strict=True):
        assert "asan" in str(BUILD) or more_memory < memory + 512, (before, after)
    assert w.loaded() == ""
