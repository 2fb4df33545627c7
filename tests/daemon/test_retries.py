"""Suite "daemon": a transient failure repeats the request, not the registration.

Registrations are counted at the emulator, stops and starts at the fake systemd.
"""
import datetime

import pytest
from handoff import APPLY, EDGED, IDENTITYD, queued, stopped_path
from harness import wait_for
from power import Since, settled
from samples import billed

TPMD = "aziot-tpmd.service"
LIMIT = 20 * 60  # seconds from CONFIRM to ADOPT; IoT Edge is not kept quiesced for longer
BUSY = "0x902"   # TPM_RC_OBJECT_MEMORY: neither the TSS nor lib/tpm asks again


class Move(Since):
    """A gateway that works is moved to another hub; what happens from then on."""

    def __init__(self, world, **enrollment):
        super().__init__(world)
        self.before = billed(world)
        self.hub = world.move(**enrollment)
        world.bus.call("Reprovision")

    def billed(self):
        return tuple(now - then for now, then in zip(billed(self.world), self.before))

    def polls(self):
        return [r for r in self.requests(kind="poll") if r.get("userAgent", "").startswith("dps-provisiond/")]

    def operations(self):
        return {r["path"] for r in self.polls()}

    def starts(self, unit=IDENTITYD):
        return len(self.events("start", unit=unit))

    def stops(self, unit=IDENTITYD):
        return len(self.events("stop", unit=unit))

    def is_resumed(self):
        return self.starts() > 0 and not stopped_path(self.world).exists()

    def assert_one_disruption(self):
        """Quiesce has stopped identityd and aziot-tpmd, Apply has started them, and only Apply has stopped the modules."""
        assert [self.stops(unit) for unit in (IDENTITYD, TPMD, EDGED)] == [1, 1, 1]
        assert [self.starts(unit) for unit in (IDENTITYD, EDGED)] == [1, 1]
        assert not self.events("registers-itself")

    def moved(self):
        return settled(self.world, self.hub, may_wait=True)


def virtual_gateway(new_world, **settings):
    """A gateway that is handed off. The clocks of the daemon and of the emulator are the test's. The old hub keeps the
    device after a move, so IoT Edge works there while it is not quiesced."""
    w = new_world(emulator_clock=True, Network={"RequestTimeoutSec": 600}, **settings)
    w.start_standins()
    w.enroll(w.enrollment(capabilities={"iotEdge": True}))
    w.faults("keep-old-device")
    w.start_daemon(environment=w.clock())
    w.wait("the hand-off", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    return w


def fast_forward(world, what, condition, step=5):
    """Lets time pass while the daemon waits, so none of its calls times out."""
    def met():
        value = condition()
        if not value:
            world.wait("the end of the step", lambda p: p["Step"] in ("poll", "wait", "idle"))
            world.let_pass(step)
            for name in ("org.dps.Provisioning1", "org.dps.HandOff1"):  # each answers after what was due
                world.bus.introspect(name)
        return value
    begun = world.passed
    wait_for(what, met)
    return world.passed - begun


def assert_held_for_20_minutes(move):
    """Returns the seconds that have passed. The hand-off helper goes by the real time, so it is waited for in the end."""
    w, begun = move.world, move.world.passed
    fast_forward(w, "nearly 20 minutes", lambda: w.passed - begun >= LIMIT - 60, step=20)
    assert not move.is_resumed()
    fast_forward(w, "20 minutes", lambda: w.passed - begun >= LIMIT + 60, step=20)
    wait_for("IoT Edge to go on", move.is_resumed)
    return w.passed - begun


def assert_one_hand_off(world):
    """Of a gateway without provisioning: one Apply, after which aziot-edged is restarted once at most."""
    assert queued(world).count(("start", APPLY)) == 1 and queued(world).count(("restart", EDGED)) <= 1
    assert not world.standin_events("registers-itself")


def seconds(request):
    return datetime.datetime.fromisoformat(request["time"]).timestamp()


# --- a poll ---

POLL_RULES = {"503": {"status": 503}, "429": {"status": 429, "retryAfter": "5"}}
# curl itself repeats a request when a connection that it has used before ends without a reply.
POLL_FAULTS = {"dropped": "drop-connection:poll=2", "lost": "lose-reply:poll=2", "cut": "cut-reply:poll=1"}


def poll_fault(world, fault):
    """Sets it at the emulator, for the next poll only. Returns the changes of the enrollment."""
    if fault in POLL_FAULTS:
        world.faults(POLL_FAULTS[fault], "keep-old-device")
        return {}
    return {"emulator": [{**POLL_RULES[fault], "on": "poll", "times": 1}]}


def assert_polled_again(polls, fault):
    assert len(polls) == (3 if fault in ("dropped", "lost") else 2) and len({poll["path"] for poll in polls}) == 1
    assert fault != "429" or seconds(polls[1]) - seconds(polls[0]) >= 5


@pytest.mark.parametrize("fault", [*POLL_RULES, *POLL_FAULTS])
def test_a_poll_that_failed_in_the_first_registration(new_world, fault):
    w = new_world()
    w.start_standins()
    w.enroll(w.enrollment(capabilities={"iotEdge": True}, **poll_fault(w, fault)))
    w.start_daemon()
    w.wait_for_state("handed-off")
    assert len(w.requests(kind="register")) == 1 and billed(w) == (1, 0)
    assert_polled_again(w.requests(kind="poll"), fault)
    assert_one_hand_off(w)


@pytest.mark.parametrize("fault", [*POLL_RULES, *POLL_FAULTS])
def test_a_poll_that_failed_in_a_move(new_world, fault):
    w = new_world()
    w.start_gateway()
    w.wait("idle", lambda p: p["Step"] == "idle")
    move = Move(w, **poll_fault(w, fault))
    move.moved()
    assert len(move.requests(kind="register")) == 1 and move.billed() == (1, 0)
    assert_polled_again(move.polls(), fault)
    move.assert_one_disruption()


@pytest.mark.parametrize("fault", ["503", "dropped"])
def test_a_poll_is_repeated_with_the_settings_of_then(new_world, fault):
    """A wrong proxy is configured while a poll waits, and corrected again."""
    w = new_world(Retry={"InitialSec": 60, "MaxSec": 600}, HandOff={"Target": "none"})
    w.enroll(w.enrollment(**poll_fault(w, fault)))
    w.start_daemon()
    w.wait("the failed poll", lambda p: p["Step"] == "wait" and p["LastError"][0] in ("connect", "http-server"))
    w.write_config(Network={"Proxy": "http://localhost:1"})
    w.wait("the proxy's failure", lambda p: p["Step"] == "wait" and p["LastError"][0] == "proxy")
    w.write_config(Network={"Proxy": None})
    w.wait_for_state("handed-off")
    assert len(w.requests(kind="register")) == 1 and billed(w) == (1, 0)


def test_a_429_to_a_poll_for_longer_than_iot_edge_may_be_quiesced(new_world):
    """IoT Edge runs after 20 minutes. The same operation is polled 45 minutes later; the token lives for an hour."""
    w = virtual_gateway(new_world)
    move = Move(w, emulator=[{"status": 429, "retryAfter": "2700", "on": "poll", "times": 1}])
    wait_for("the 429", lambda: move.requests(kind="poll", status=429))
    taken = assert_held_for_20_minutes(move)
    p = w.bus.properties()
    assert p["LastError"][0] == "http-throttled" and move.stops(EDGED) == 0
    assert 2600 - taken < p["NextAttemptUSec"] / 1e6 - w.now() < 1.3 * 2700 - taken
    taken += fast_forward(w, "the poll", lambda: len(move.polls()) == 2, step=60)
    assert 2700 - 60 <= taken <= 1.3 * 2700
    move.moved()
    assert move.billed() == (1, 0) and len(move.operations()) == 1 and len(move.requests(kind="register")) == 1


def test_an_operation_that_takes_longer_than_iot_edge_may_be_quiesced(new_world):
    w = virtual_gateway(new_world, Retry={"InitialSec": 60, "MaxSec": 60})
    move = Move(w, emulator=[{"result": "assigning-forever"}])
    wait_for("a poll", move.polls)
    assert_held_for_20_minutes(move)
    assert w.wait_for_failure("timeout")["NextAttemptUSec"] > 0
    assert move.stops() == 1 and move.stops(EDGED) == 0
    polls = len(move.polls())
    w.move()  # DPS comes to an end
    fast_forward(w, "another poll", lambda: len(move.polls()) > polls)
    move.moved()
    assert move.billed() == (1, 0) and len(move.operations()) == 1 and len(move.requests(kind="register")) == 1


def test_a_captive_portal_at_a_poll_ends_the_attempt(new_world):
    """IoT Edge runs at once, before the wait ends."""
    w = new_world(Retry={"InitialSec": 600, "MaxSec": 600, "OperatorInitialSec": 600})
    w.start_gateway()
    w.wait("idle", lambda p: p["Step"] == "idle")
    w.faults("captive-portal:poll=1", "keep-old-device")
    move = Move(w)
    wait_for("IoT Edge to go on", move.is_resumed)
    p = w.wait_for_failure("protocol")
    assert p["Step"] == "wait" and move.stops(EDGED) == 0 and move.billed() == (1, 0)
    w.retry()
    move.moved()
    ours, identityds = move.billed()
    assert ours <= 2 and identityds == 0


def test_an_operation_that_dps_forgot_is_replaced_by_a_registration(new_world):
    w = new_world(Retry={"InitialSec": 600, "MaxSec": 600, "OperatorInitialSec": 600})
    w.start_gateway()
    w.wait("idle", lambda p: p["Step"] == "idle")
    w.faults("keep-old-device")
    move = Move(w, emulator=[{"status": 404, "errorCode": 404203, "on": "poll", "times": 1}])
    wait_for("IoT Edge to go on", move.is_resumed)
    w.wait("the wait", lambda p: p["Step"] == "wait" and p["LastError"][0])
    assert len(move.polls()) == 1 and move.billed() == (1, 0) and move.stops(EDGED) == 0
    w.retry()
    move.moved()
    assert move.billed() == (2, 0) and len(move.operations()) == 2


# --- the hub key ---

# Counted from the beginning of the attempt: the challenge's key is the first that is imported and loaded.
TPM_FAULTS = {"activate": ("ActivateCredential", 2), "import": ("Import", 2), "load": ("Load", 2)}
FIRST_FAULTS = {**TPM_FAULTS, "persist": ("EvictControl", 1)}
# In a move the first EvictControl removes the old key. The handle is empty until the second one succeeds.
MOVE_FAULTS = {**TPM_FAULTS, "evict": ("EvictControl", 1), "persist": ("EvictControl", 2)}


def tpm_fault(world, command, nth, times=1):
    world.tpm_faults(rules=[{"command": command, "nth": nth, "times": times, "answer": BUSY}])


@pytest.mark.parametrize("fault", FIRST_FAULTS)
def test_a_tpm_that_failed_once_in_the_first_registration(new_world, fault):
    w = new_world()
    w.start_standins()
    w.enroll(w.enrollment(capabilities={"iotEdge": True}))
    tpm_fault(w, *FIRST_FAULTS[fault])
    w.start_daemon()
    w.wait_for_state("handed-off")
    assert len(w.service_requests()) == 3 and billed(w) == (1, 0)
    assert_one_hand_off(w)


@pytest.mark.parametrize("fault", MOVE_FAULTS)
def test_a_tpm_that_failed_once_in_a_move(new_world, fault):
    """The same key is used again, and DPS is not asked."""
    w = new_world()
    w.start_gateway()
    w.wait("idle", lambda p: p["Step"] == "idle")
    w.faults("keep-old-device")
    tpm_fault(w, *MOVE_FAULTS[fault])
    move = Move(w)
    move.moved()
    ours = [r for r in move.requests() if r["kind"] in ("register", "confirm", "poll")]
    assert len(ours) == 3 and move.billed() == (1, 0)
    move.assert_one_disruption()


def test_a_clock_that_is_behind_lets_iot_edge_run(new_world):
    """The hub key can't be adopted, and waiting for the clock needs no quiesced IoT Edge."""
    w = new_world()
    w.start_gateway()
    w.wait("idle", lambda p: p["Step"] == "idle")
    w.stop_daemon()
    w.set_clock(-120)
    w.start_daemon(environment=w.clock())
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    w.faults("keep-old-device")  # IoT Edge goes on at the old hub
    move = Move(w)
    assert w.wait_for_failure("clock-behind")["State"] == "assigned"
    wait_for("IoT Edge to go on", move.is_resumed)
    w.set_clock(0)
    move.moved()
    assert move.billed() == (1, 0) and move.stops(EDGED) == 1


def test_an_operation_ends_with_its_token(new_world):
    """DPS is down for longer than the token lives (an hour)."""
    w = new_world(emulator_clock=True, HandOff={"Target": "none"})
    w.enroll(w.enrollment(emulator=[{"status": 503, "retryAfter": "4000", "on": "poll", "times": 1}]))
    w.start_daemon(environment=w.clock())
    w.wait("the 503", lambda p: p["Step"] == "wait" and p["LastError"][0] == "http-server")
    fast_forward(w, "the hand-off", lambda: w.bus.properties()["State"] == "handed-off", step=60)
    polls = w.requests(kind="poll")
    assert len({r["path"] for r in polls}) == 2 and polls[0]["status"] == 503 and not w.requests(kind="poll", status=401)
    assert billed(w) == (2, 0)


def test_a_tpm_that_is_busy_for_a_day(new_world):
    """IoT Edge is quiesced for 20 minutes at most. The daemon adopts the key of DPS in the end."""
    w = virtual_gateway(new_world, Retry={"InitialSec": 60, "MaxSec": 600})
    old = w.hub_key()
    tpm_fault(w, "Import", 2, times=0)
    move = Move(w)
    wait_for("the assignment", lambda: move.requests(kind="poll", status=200))
    assert_held_for_20_minutes(move)
    assert w.wait("the wait", lambda p: p["Step"] == "wait")["LastError"][0] == "tpm-busy"
    imports = w.tpm_commands().count("Import")
    assert imports > 3 and w.hub_key() == old
    requests = len(move.requests(kind="register"))
    fast_forward(w, "a day", lambda: w.passed > 86400, step=1800)
    assert w.tpm_commands().count("Import") > imports
    assert (move.stops(), move.starts(), move.stops(EDGED)) == (1, 1, 0)
    w.tpm_faults()
    fast_forward(w, "the move", lambda: w.bus.properties()["AssignedHub"] == move.hub, step=60)
    move.moved()
    assert len(move.requests(kind="register")) == requests == 1 and move.billed() == (1, 0)
    assert w.hub_key() != old and not move.events("registers-itself")
