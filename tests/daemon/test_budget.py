"""Suite "daemon": how many registrations a gateway causes, counted at the emulator.

Time passes for the daemon and for the emulator when a test says so.
"""
import json
import signal

import pytest
from harness import wait_for
from other_user import OtherUser

SIZE = 10             # lib/budget.h
REFILL = 15 * 60
WAIT = 30             # seconds between attempts while the budget lasts
LONG = 50             # seconds: lasts until the fault is taken away
SCOPE_2 = "0ne00TEST02"
RETRY = {"InitialSec": WAIT, "MaxSec": WAIT, "ThrottledMaxSec": WAIT, "OperatorInitialSec": WAIT, "OperatorMaxSec": WAIT,
         "OperatorLongMaxSec": WAIT}
FAILS = {"result": "failed"}  # DPS accepts the token, and bills that, and then can't assign
YEAR = 365 * 86400


def without_iot_edge(new_world, *rules, **settings):
    w = new_world(emulator_clock=True, Retry=RETRY, HandOff={"Target": "none"}, **settings)
    w.enroll(w.enrollment(emulator=list(rules or [FAILS])))
    return w


def waiting(world, kind=None):
    """Waits until the daemon backs off; returns the properties."""
    def met(p):
        return p["Step"] == "wait" and p["NextAttemptUSec"] / 1e6 > world.now() + 1 and kind in (None, p["LastError"][0])
    return world.wait(f"the wait {kind or ''}", met)


def spend(world):
    """Attempts until the budget is empty. Returns the properties then."""
    while (p := waiting(world))["LastError"][0] != "registration-budget":
        assert world.registrations() <= SIZE, "the budget has no end"
        world.let_pass(WAIT + 1)
    assert world.registrations() == SIZE
    return p


def spent(new_world, *rules, **settings):
    w = without_iot_edge(new_world, *rules, **settings)
    w.start_daemon(environment=w.clock())
    spend(w)
    return w


def gained(world, begun):
    """How many registrations the budget has gained since then at most."""
    return int(world.now() - begun) // REFILL


def pass_time(world, seconds, step=60):
    """Each attempt ends before more time passes."""
    for _ in range(0, seconds, step):
        world.let_pass(step)
        waiting(world)


def begins_at_once(world, act):
    """Whether the act makes DPS bill one more registration, without a wait."""
    before, passed = world.registrations(), world.passed
    act()
    wait_for("another registration", lambda: world.registrations() == before + 1)
    assert world.passed == passed
    waiting(world)
    assert world.registrations() == before + 1


def test_ten_registrations_and_then_four_an_hour(new_world):
    w = spent(new_world)
    p = w.bus.properties()
    assert 0 < p["NextAttemptUSec"] / 1e6 - w.now() <= REFILL + 60
    assert p["State"] == "attesting" and p["Attempts"] >= SIZE and len(p["LastError"][3]) > 20
    requests = len(w.requests())
    pass_time(w, 300)
    assert len(w.requests()) == requests  # DPS is not asked for a challenge either
    for hours in (1, 2, 3):
        pass_time(w, 3600 - (300 if hours == 1 else 0), 150)
        assert SIZE + 4 * hours - 1 <= w.registrations() <= SIZE + 4 * hours
    waiting(w, "registration-budget")


def test_a_budget_that_nobody_uses_is_full_again(new_world):
    w = spent(new_world)
    w.stop_emulator()
    pass_time(w, 3 * 3600, 600)
    w.start_emulator(port=w.port)
    before = w.registrations()
    for _ in range(2 * SIZE):
        w.let_pass(WAIT + 1)
        if waiting(w)["LastError"][0] == "registration-budget":
            break
    assert SIZE <= w.registrations() - before <= SIZE + 1


def test_a_lost_reply_to_the_confirmation(new_world):
    """DPS has registered and billed the device. The daemon counts the request and does not repeat it."""
    w = without_iot_edge(new_world)
    w.faults("lose-reply:confirm=1")
    w.start_daemon(environment=w.clock())
    waiting(w, "connect")
    assert len(w.requests(kind="confirm")) == 1
    assert json.loads((w.dir / "state/state.json").read_text())["registrationsSpent"] == 1


@pytest.mark.root
def test_who_may_register_without_budget(new_world):
    """Another user may not retry. Root may retry at once, and the registration is counted."""
    w = spent(new_world)
    due = w.bus.properties()["NextAttemptUSec"]
    with OtherUser(w) as other:
        (error, text), = other.call("Retry")
        assert error == "TooEarly" and "UTC" in text
        p = waiting(w, "registration-budget")
        assert w.registrations() == SIZE and abs(p["NextAttemptUSec"] - due) < 2e6
    for method in ("Retry", "Reprovision", "Reprovision"):
        w.let_pass(11)
        begins_at_once(w, lambda m=method: w.bus.call(m))
    w.let_pass(WAIT + 1)
    waiting(w, "registration-budget")
    pass_time(w, REFILL - 120)
    assert w.registrations() == SIZE + 3


def test_another_scope_is_tried_at_once_without_budget(new_world):
    w = spent(new_world)
    w.stop_emulator()
    w.start_emulator(f"--scope={SCOPE_2}", port=w.port)
    begins_at_once(w, lambda: w.write_config(Provisioning={"IdScope": SCOPE_2}))
    w.let_pass(WAIT + 1)
    waiting(w, "registration-budget")
    pass_time(w, REFILL - 120)
    assert w.registrations() == SIZE + 1


# --- what costs nothing ---

@pytest.mark.parametrize("rule", [{"status": 401}, {"status": 404}, {"status": 429, "retryAfter": "1"}],
                         ids=["401", "404", "429"])
def test_a_registration_that_dps_refused_costs_nothing(new_world, rule):
    w = without_iot_edge(new_world, {**rule, "on": "confirm"})
    w.start_daemon(environment=w.clock())
    for n in range(SIZE + 3):
        kind = waiting(w)["LastError"][0]
        assert kind not in ("", "registration-budget") and len(w.requests(kind="confirm")) == n + 1
        w.let_pass(WAIT + 5)
    assert w.registrations() == 0


def test_a_registration_that_dps_may_have_counted_costs_one(new_world):
    w = without_iot_edge(new_world, {"status": 503, "on": "confirm"})
    w.start_daemon(environment=w.clock())
    while waiting(w)["LastError"][0] != "registration-budget":
        assert len(w.requests(kind="confirm")) <= SIZE
        w.let_pass(WAIT + 1)
    assert len(w.requests(kind="confirm")) == SIZE


def test_a_request_that_never_left_costs_nothing(new_world):
    """The connection is refused at the confirming request."""
    w = without_iot_edge(new_world, {"status": 401, "on": "register"})
    w.start_daemon(environment=w.clock())
    waiting(w)
    w.enroll(w.enrollment(emulator=[FAILS]))
    for _ in range(SIZE + 2):
        w.tpm_faults(rules=[{"command": "ActivateCredential", "delay": LONG}])
        w.let_pass(WAIT + 1)
        w.wait("activate", lambda p: p["Step"] == "activate")
        w.stop_emulator()
        w.tpm_faults()
        assert waiting(w)["LastError"][0] == "connect"
        w.start_emulator(port=w.port)
    assert w.registrations() == 0
    w.let_pass(WAIT + 1)
    wait_for("a registration", lambda: w.registrations() == 1)


# --- what is remembered ---

@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_budget_survives_a_restart(new_world, end):
    w = spent(new_world)
    due = w.bus.properties()["NextAttemptUSec"]
    for _ in range(3):
        w.stop_daemon(end)
        w.start_daemon(environment=w.clock())
        p = waiting(w, "registration-budget")
        assert -2e6 < p["NextAttemptUSec"] - due < 300e6 and p["State"] == "attesting"
    assert w.registrations() == SIZE


def test_a_registration_is_counted_before_the_request(new_world):
    """The daemon is killed while DPS has the request, again and again."""
    w = without_iot_edge(new_world)
    w.faults(f"slow:confirm={LONG}")
    for n in range(SIZE):
        w.start_daemon(environment=w.clock())
        wait_for("the request", lambda n=n: w.registrations() == n + 1)
        w.stop_daemon(signal.SIGKILL)
    w.start_daemon(environment=w.clock())
    p = w.wait("the end", lambda p: p["Step"] in ("confirm", "wait"))
    assert p["LastError"][0] == "registration-budget" and w.registrations() == SIZE


def reboot(world, offset):
    """The next start of the daemon finds a clock that is wrong by this number of seconds."""
    world.stop_daemon(signal.SIGKILL)
    world.kill_helper("dps-tpmd")
    world.set_clock(offset)
    world.start_daemon(environment=world.rebooted_clock())


@pytest.mark.parametrize("wrong", [-56 * YEAR, 40 * YEAR], ids=["1970", "2066"])
@pytest.mark.parametrize("reboots", [1, 3])
def test_a_clock_that_is_wrong_after_a_boot(new_world, wrong, reboots):
    """A time server sets the clock later. This neither fills nor blocks the budget."""
    w = without_iot_edge(new_world)
    begun = w.now()
    w.start_daemon(environment=w.clock())
    spend(w)
    for _ in range(reboots):
        reboot(w, wrong)
        w.wait("the wait", lambda p: p["Step"] == "wait" and p["LastError"][0])
        w.let_pass(60)
        w.set_clock(0)
        waiting(w, "registration-budget")
    assert w.registrations() == SIZE
    for _ in range(2 * REFILL // 60):
        pass_time(w, 60)
        assert w.registrations() <= SIZE + gained(w, begun)
    assert w.registrations() > SIZE


@pytest.mark.parametrize("wrong", [-56 * YEAR, 40 * YEAR], ids=["1970", "2066"])
def test_a_clock_that_is_set_while_it_waits(new_world, wrong):
    w = spent(new_world)
    due = w.bus.properties()["NextAttemptUSec"]
    w.set_clock(wrong)
    w.wait("the new time", lambda p: abs(p["NextAttemptUSec"] - due - wrong * 1e6) < 2e6)
    w.let_pass(300)
    w.set_clock(0)
    p = waiting(w, "registration-budget")
    assert abs(p["NextAttemptUSec"] - due) < 60e6 and w.registrations() == SIZE
    pass_time(w, REFILL + 120)
    assert w.registrations() == SIZE + 1
