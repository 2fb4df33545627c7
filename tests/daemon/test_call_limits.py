"""Suite "daemon": how many attempts a loop of Retry or Reprovision causes. First PUTs are counted at the emulator."""
import re
import time

import pytest
from bus import BusError
from other_user import OtherUser

NO_EDGE = {"HandOff": {"Target": "none"}}
PAUSE = 10     # seconds between two attempts that anybody asks for
AN_HOUR = 10   # those that others than root ask for
LONG = 50      # seconds: lasts until the fault is taken away
METHODS = ["Retry", "Reprovision"]
UTC = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"

not_yet = pytest.mark.xfail(strict=True, reason="Retry and Reprovision have no limit")


def waiting_for_long(new_world):
    """A device without an enrollment. It makes no attempt on its own for a day."""
    w = new_world(Retry={"OperatorInitialSec": 200000, "OperatorMaxSec": 200000, "OperatorLongMaxSec": 200000}, **NO_EDGE)
    w.start_daemon(environment=w.clock())
    w.wait_for_failure("enrollment-missing")
    w.let_pass(PAUSE + 1)
    return w


def first_puts(world):
    return len(world.requests(kind="register"))


def attempts_end(world, number):
    """Waits until so many first PUTs were made in all, and the last attempt has ended."""
    return world.wait("the end of the attempt", lambda p: p["Step"] == "wait" and first_puts(world) >= number)


def accepted(answers):
    return sum(error == "" for error, _ in answers)


def call(world, method):
    """The last part of the error's name and the error's text; "" for success."""
    try:
        world.bus.call(method)
        return "", ""
    except BusError as error:
        return error.kind, str(error)


@not_yet
@pytest.mark.root
@pytest.mark.parametrize("method", METHODS)
def test_a_loop_of_another_user(new_world, method):
    w = waiting_for_long(new_world)
    before, begun = first_puts(w), time.monotonic()
    with OtherUser(w) as other:
        answers = other.call(method, 200)
        assert accepted(answers) <= 1 + (time.monotonic() - begun) // PAUSE
        attempts_end(w, before + accepted(answers))
        assert first_puts(w) - before <= 2 + (time.monotonic() - begun) // PAUSE
        assert {error for error, _ in answers} <= {"", "TooEarly", "NotWaiting", "LimitsExceeded"}
        assert all(re.search(UTC, text) for error, text in answers if error == "TooEarly")
        for _ in range(55):  # nearly an hour
            w.let_pass(60)
            answers += other.call(method, 5)
            attempts_end(w, before + accepted(answers))
        assert first_puts(w) - before == accepted(answers) == AN_HOUR
        assert answers[-1][0] == "TooEarly"
        w.let_pass(3600)
        assert other.call(method)[0][0] == ""


@not_yet
@pytest.mark.root
@pytest.mark.parametrize("method", METHODS)
def test_a_loop_of_root(new_world, method):
    """One attempt in 10 seconds, for as long as root wants."""
    w = waiting_for_long(new_world)
    before = first_puts(w)
    for n in range(2 * AN_HOUR):
        begun = time.monotonic()
        assert call(w, method)[0] == ""
        attempts_end(w, before + n + 1)
        error, text = call(w, method)
        if time.monotonic() - begun < PAUSE:
            assert error == "TooEarly" and re.search(UTC, text)
            assert first_puts(w) == before + n + 1
        w.let_pass(PAUSE + 1)


@not_yet
@pytest.mark.root
def test_retry_and_reprovision_have_one_limit(new_world):
    w = waiting_for_long(new_world)
    before = first_puts(w)
    assert call(w, "Retry")[0] == ""
    attempts_end(w, before + 1)
    assert call(w, "Reprovision")[0] == "TooEarly"
    w.let_pass(PAUSE + 1)
    assert call(w, "Reprovision")[0] == ""
    attempts_end(w, before + 2)
    assert call(w, "Retry")[0] == "TooEarly"


@not_yet
@pytest.mark.root
def test_a_refused_call_does_not_prolong_the_limit(new_world):
    w = waiting_for_long(new_world)
    before = first_puts(w)
    assert call(w, "Retry")[0] == ""
    attempts_end(w, before + 1)
    for _ in range(2):
        assert call(w, "Retry")[0] == "TooEarly"
        w.let_pass(PAUSE // 2)
    assert call(w, "Retry")[0] == ""


@pytest.mark.root
def test_calls_that_join_a_pending_reprovision(new_world):
    """All of them are answered when the helper's call ends, and they make one attempt."""
    w = waiting_for_long(new_world)
    before = first_puts(w)
    w.tpm_faults(rules=[{"command": "GetCapability", "delay": LONG}])
    w.bus.call("Retry")
    w.wait("the helper's call", lambda p: p["Step"] == "identity")
    w.let_pass(PAUSE + 1)
    calls = [w.bus.begin("Reprovision") for _ in range(5)]
    w.bus.properties()  # the daemon has got the calls
    w.tpm_faults()
    assert [w.bus.end(each) for each in calls] == [[]] * 5
    attempts_end(w, before + 1)
    assert first_puts(w) == before + 1
