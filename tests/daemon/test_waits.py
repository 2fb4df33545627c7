"""Suite "daemon": what is waited for, for how long, and what does not make it shorter."""
import signal

import pytest
from bus import BusError
from handoff import set_confirm_timeout
from harness import SCOPE, wait_for

NO_EDGE = {"HandOff": {"Target": "none"}}
LONG = 50  # seconds: lasts until the fault is taken away


def test_another_password_of_the_proxy_is_a_change(new_world):
    w = new_world(Retry={"InitialSec": 600, "MaxSec": 600}, Network={"Proxy": "http://user:one@127.0.0.1:1"}, **NO_EDGE)
    w.start_daemon()
    w.wait_for_failure("proxy")
    w.write_config(Network={"Proxy": "http://user:two@127.0.0.1:1"})
    w.daemon.wait_for_line("The next attempt is brought forward")
    assert not any("one@" in line or "two@" in line for line in w.daemon.lines)


def test_a_scope_that_goes_and_comes_does_not_end_a_429(new_world):
    """As when a configuration is deployed by removing it first."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 429, "retryAfter": "300"}]))
    w.start_daemon()
    due = w.wait_for_failure("http-throttled")["NextAttemptUSec"]
    w.write_config(Provisioning={"IdScope": None})
    assert w.wait_for_state("unprovisioned")["LastError"][0] == ""
    w.write_config(Provisioning={"IdScope": SCOPE})
    p = w.wait_for_state("attesting")
    assert p["Step"] == "wait" and p["LastError"][0] == "http-throttled"
    assert abs(p["NextAttemptUSec"] - due) < 2e6 and len(w.requests()) == 1
    with pytest.raises(BusError, match="asked to wait"):
        w.bus.call("Retry")


@pytest.mark.root
def test_a_factory_reset_does_not_end_a_429(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 429, "retryAfter": "300"}]))
    w.start_daemon()
    due = w.wait_for_failure("http-throttled")["NextAttemptUSec"]
    w.bus.call("FactoryReset", "b", False)
    assert w.bus.properties()["State"] == "unprovisioned"
    w.bus.call("Reprovision")
    p = w.bus.properties()
    assert (p["State"], p["Step"], p["LastError"][0]) == ("attesting", "wait", "http-throttled")
    assert abs(p["NextAttemptUSec"] - due) < 2e6 and len(w.requests()) == 1
    w.bus.call("Reprovision")  # nor does another one
    assert abs(w.bus.properties()["NextAttemptUSec"] - due) < 2e6


def test_assigning_without_end(new_world):
    """IoT Edge is not kept quiesced for longer than the 20 minutes that it may take.

    Takes 10 s: the minutes pass in steps of 5 s, with calls in between.
    """
    w = new_world(Network={"RequestTimeoutSec": 300})
    w.start_gateway()
    w.stop_emulator()
    w.start_emulator("--polls=1000000", "--retry-after=60", port=w.port)
    w.move()
    w.stop_daemon()
    w.start_daemon(environment=w.clock())
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    w.bus.call("Reprovision")
    w.wait("the poll", lambda p: p["Step"] == "poll")
    before = w.passed
    # each step is as long as both take to answer, so that neither is said to be late
    w.fast_forward("the end", lambda: w.bus.introspect("org.dps.HandOff1") and w.bus.properties()["LastError"][0], step=5)
    w.wait_for_failure("timeout")
    assert 20 * 60 <= w.passed - before <= 22 * 60
    wait_for("identityd to run again", lambda: w.jobs().count(("start", "aziot-identityd.service")) >= 1)


def test_confirmation_that_does_not_come(new_world):
    """Who it was to be, and on which hub, is told."""
    w = new_world()
    w.start_standins()
    w.enroll(w.enrollment(capabilities={"iotEdge": True}))
    set_confirm_timeout(w, 1)
    w.standin_faults(identityd="silent")
    w.helpers_environment(**w.clock())
    w.start_daemon()
    wait_for("the question", lambda: w.standin_events("connected"))
    w.fast_forward("the end of its patience", lambda: w.bus.properties()["LastError"][0])
    p = w.wait_for_failure("confirm-timeout")
    assert f"as '{p['RegistrationId']}' on 'localhost:{w.port}'" in p["LastError"][2]


# --- when the next attempt is told ---

@pytest.mark.parametrize("step", ["identity", "register"])
def test_no_next_attempt_while_a_step_runs(new_world, step):
    """The step is a helper's call, or a request."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 503, "on": "register", "times": 1}]))
    w.start_daemon(environment=w.clock())
    assert w.wait("the wait", lambda p: p["Step"] == "wait")["NextAttemptUSec"] > 0
    if step == "identity":
        w.tpm_faults(rules=[{"command": "GetCapability", "delay": LONG}])
    else:
        w.faults(f"slow:register={LONG}")
    w.let_pass(10)
    running = w.wait(step, lambda p: p["Step"] == step)
    w.tpm_faults()
    w.faults()
    idle = w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    assert running["NextAttemptUSec"] == idle["NextAttemptUSec"] == 0


@pytest.mark.parametrize("starts", [1, 2])
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_starts_with_a_broken_configuration_do_not_end_a_429(new_world, starts, end):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 429, "retryAfter": "600"}]))
    w.start_daemon()
    due = w.wait_for_failure("http-throttled")["NextAttemptUSec"]
    w.write_config(Provisioning={"GlobalEndpoint": "no endpoint"})
    for _ in range(starts):
        w.restart_daemon(end)
        w.wait_for_failure("config")
    w.write_config(Provisioning={"GlobalEndpoint": f"https://localhost:{w.port}"})
    p = w.wait("the wait", lambda p: p["Step"] == "wait" or len(w.requests()) > 1)
    assert len(w.requests()) == 1 and p["LastError"][0] == "http-throttled" and p["State"] == "attesting"
    assert abs(p["NextAttemptUSec"] - due) < 5e6
    with pytest.raises(BusError) as refused:
        w.bus.call("Retry")
    assert refused.value.kind == "TooEarly"
