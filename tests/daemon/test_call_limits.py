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


def call(world, method):
    """The last part of the error's name; "" for success."""
    try:
        world.bus.call(method)
        return ""
    except BusError as error:
        return error.kind


@pytest.mark.root
@pytest.mark.parametrize("method", METHODS)
def test_a_loop_of_another_user(new_world, method):
    """A call that comes too soon begins its attempt later. After ten attempts in an hour a call is refused."""
    w = waiting_for_long(new_world)
    before, begun = first_puts(w), time.monotonic()
    with OtherUser(w) as other:
        answers = other.call(method, 200)
        assert first_puts(w) - before <= 1 + (time.monotonic() - begun) // PAUSE
        attempts_end(w, before + 1)
        for _ in range(55):  # nearly an hour
            answers += other.call(method, 5)
            w.wait("the end of the attempt", lambda p: p["Step"] == "wait")
            w.let_pass(60)
            # not the one for the limit
            w.wait("the long wait", lambda p: p["Step"] == "wait" and p["NextAttemptUSec"] / 1e6 > w.now() + 3600)
        # a Reprovision that interrupts another one counts as an attempt
        assert AN_HOUR // 2 <= first_puts(w) - before <= AN_HOUR
        assert {error for error, _ in answers} <= {"", "TooEarly", "NotWaiting", "LimitsExceeded"}
        assert all(re.search(UTC, text) for error, text in answers if error == "TooEarly")
        assert other.call(method)[0][0] == "TooEarly"
        w.let_pass(3600)
        puts = first_puts(w)
        assert other.call(method)[0][0] == ""
        attempts_end(w, puts + 1)


@pytest.mark.root
@pytest.mark.parametrize("method", METHODS)
def test_a_loop_of_root(new_world, method):
    """Root may begin one attempt in 10 seconds without end."""
    w = waiting_for_long(new_world)
    before = first_puts(w)
    assert call(w, method) == ""
    attempts_end(w, before + 1)
    for n in range(1, 2 * AN_HOUR):
        begun = time.monotonic()
        assert [call(w, method) for _ in range(3)] == [""] * 3
        if time.monotonic() - begun < PAUSE:
            assert first_puts(w) == before + n
        w.let_pass(PAUSE)
        attempts_end(w, before + n + 1)


@pytest.mark.root
@pytest.mark.parametrize("methods", [METHODS, METHODS[::-1]])
def test_retry_and_reprovision_have_one_limit(new_world, methods):
    w = waiting_for_long(new_world)
    before = first_puts(w)
    begun = time.monotonic()
    assert call(w, methods[0]) == ""
    attempts_end(w, before + 1)
    assert call(w, methods[1]) == ""
    if time.monotonic() - begun < PAUSE:
        assert first_puts(w) == before + 1
    w.let_pass(PAUSE)
    attempts_end(w, before + 2)


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
