"""Suite "daemon": the wait after a 429 across restarts, with wrong clocks, and for another DPS instance."""
import json
import time

import pytest

NO_EDGE = {"HandOff": {"Target": "none"}}
DAY = 86400


def record(world):
    return json.loads((world.dir / "state/state.json").read_text())


def waiting(world):
    return world.wait("the wait", lambda p: p["Step"] == "wait" and p["NextAttemptUSec"] > 0)


def test_boots_with_the_clock_in_1970(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 429, "retryAfter": "7200"}]))
    w.start_daemon(environment=w.clock())
    w.wait_for_failure("http-throttled")
    w.stop_daemon()
    w.set_clock(-int(time.time()))
    for _ in range(3):
        w.start_daemon(environment=w.rebooted_clock())
        assert waiting(w)["LastError"][0] == "http-throttled"
        w.stop_daemon()
    assert len(w.requests()) == 1


@pytest.mark.parametrize("ahead", [2 * DAY, 40 * 365 * DAY])
def test_a_clock_that_was_ahead_does_not_prolong_it(new_world, ahead):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 429, "retryAfter": "60", "times": 1}]))
    w.start_daemon(environment=w.clock())
    w.wait_for_failure("http-throttled")
    w.set_clock(ahead)
    w.wait("the other clock", lambda p: abs(p["NextAttemptUSec"] / 1e6 - w.now() - ahead) < DAY)
    w.stop_daemon()
    w.set_clock(0)
    w.start_daemon(environment=w.rebooted_clock())
    p = waiting(w)
    assert p["LastError"][0] == "http-throttled" and p["NextAttemptUSec"] / 1e6 - w.now() < 90
    w.let_pass(90)
    w.wait_for_state("handed-off")


def test_it_is_forgotten_when_it_is_over(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 429, "retryAfter": "60", "times": 1}]))
    w.start_daemon(environment=w.clock())
    w.wait_for_failure("http-throttled")
    assert record(w)["throttledUntilUSec"] > 0
    w.let_pass(90)
    w.wait_for_state("handed-off")
    assert record(w)["throttledUntilUSec"] == record(w)["throttledRestUSec"] == 0


def test_another_instance_does_not_wait_for_it(new_world):
    """The first scope still waits when it is set again."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 429, "retryAfter": "3600", "times": 1}]))
    w.start_daemon()
    w.wait_for_failure("http-throttled")
    w.write_config(Provisioning={"IdScope": None})
    w.wait_for_state("unprovisioned")
    w.write_config(Provisioning={"IdScope": "0ne00TEST01"})
    assert waiting(w)["LastError"][0] == "http-throttled" and len(w.requests()) == 1
    w.write_config(Provisioning={"GlobalEndpoint": f"https://127.0.0.1:{w.port}"})
    w.wait_for_state("handed-off")
