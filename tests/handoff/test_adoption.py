"""Suite "handoff": adoption that goes wrong, Quiesce, and what identityd answers."""
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from handoff import (APPLY, EDGED, IDENTITYD, Caller, Gateway, info_path, info_text, queued, record, record_path,
                     set_confirm_timeout, snapshot, stopped_path)
from harness import BUILD, DEADLINE, wait_for

UNITS = (IDENTITYD, "aziot-identityd.socket", "aziot-tpmd.service", "aziot-tpmd.socket")
DEVICE = "POST /identities/device"
EDGE_AGENT = "GET /identities/modules/$edgeAgent"


def runs(caller, unit):
    return caller.unit(unit) == "active"


def all_run(world, caller):
    wait_for("the end of the list", lambda: not stopped_path(world).exists())
    for unit in (EDGED, *UNITS):
        wait_for(f"{unit} to run", lambda u=unit: runs(caller, u))


# --- adoption gone wrong: identityd registers by itself ---

def evict(world):
    world.tpm2("evictcontrol", "-c", "0x81000100")


def replace_key(world):
    evict(world)
    (world.dir / "key").write_bytes(b"k" * 32)
    world.tpm2("import", "-C", "0x81000001", "-G", "hmac", "-i", "key", "-u", "wrong.pub", "-r", "wrong.priv")
    world.tpm2("load", "-C", "0x81000001", "-u", "wrong.pub", "-r", "wrong.priv", "-c", "wrong.ctx")
    world.tpm2("evictcontrol", "-c", "wrong.ctx", "0x81000100")
    world.tpm2("flushcontext", "-t")


@pytest.mark.parametrize("wrong", ["no key", "wrong key", "malformed", "truncated", "unprovisioned"])
def test_adoption_gone_wrong(new_world, wrong):
    """The service has another hub for it meanwhile, so that it can be told who has registered."""
    gateway = Gateway(new_world())
    w = gateway.world
    hub = w.move()
    with Caller(w) as caller:
        gateway.make_old(caller)
        caller.stop_helper()
        w.tpm2("flushcontext", "-t")
        if wrong == "no key":
            evict(w)
            reply = caller.begin_apply(**gateway.assignment(keyChanged=True))
        elif wrong == "wrong key":
            replace_key(w)
            reply = caller.begin_apply(**gateway.assignment(keyChanged=True))
        else:
            text = {"malformed": "hub_name = \n", "truncated": f'hub_name = "{hub}"\n', "unprovisioned": "unprovisioned"}
            helper = caller.start_helper(BUILD / "tests/tools/crash-at", f"--log={w.dir}/calls",
                                         f"--pause=fsync {info_path(w).parent}", "0")
            reply = caller.begin_apply(**gateway.assignment(keyChanged=True))
            wait_for("device_info", lambda: f"fsync {info_path(w).parent}\n" in (w.dir / "calls").read_text())
            info_path(w).write_text(text[wrong])
            helper.process.send_signal(signal.SIGUSR1)
        (answer,) = caller.end(reply)
        assert (answer["hub"], answer["deviceId"]) == (hub, gateway.device)
        assert [warning[0] for warning in answer["warnings"]] == ["adoption-refused"] and hub in answer["warnings"][0][1]
        assert len(w.standin_events("registers-itself")) == 1
        assert w.requests(kind="hub", hub=hub, authorized=True)
        assert info_path(w).read_text() == info_text(hub, gateway.device) and record(w)["hub"] == hub
        all_run(w, caller)
        jobs = len(queued(w))
        assert caller.apply(**gateway.assignment(hub=hub))["changed"] is False and len(queued(w)) == jobs


@pytest.mark.smoke
def test_replaced_key_of_the_same_device_leaves_edged_alone(new_world):
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        jobs, starts = len(queued(w)), len(w.standin_events("start", unit=EDGED))
        caller.apply(**gateway.assignment(keyChanged=True))
        assert {unit for _, unit in queued(w)[jobs:]} == set(UNITS)
        assert len(w.standin_events("start", unit=EDGED)) == starts
        all_run(w, caller)


def test_endpoint_with_a_slash_is_the_same(new_world):
    gateway = Gateway(new_world())
    w = gateway.world
    w.config_toml.write_text(w.config_toml.read_text().replace(f":{w.port}\"", f":{w.port}/\""))
    with Caller(w) as caller:
        before, jobs = snapshot(w), len(queued(w))
        assert caller.apply(**gateway.assignment())["changed"] is False
        record_path(w).unlink()
        assert caller.ask("Check", "us", 4, gateway.id)["result"] == "already"
        del before[str(record_path(w))], before[str(record_path(w).parent)]
        after = snapshot(w)
        del after[str(record_path(w).parent)]
        assert after == before and len(queued(w)) == jobs


# --- IoT Edge's own registration ---

def test_reprovision_only_when_the_service_has_answered(new_world):
    gateway = Gateway(new_world(HandOff={"Identity": "register"}))
    w = gateway.world
    hub = w.move()
    with Caller(w) as caller:
        before, jobs = info_path(w).read_text(), len(queued(w))
        set_confirm_timeout(w, 1)
        caller.stop_helper()
        kind, _ = caller.apply_refused(**gateway.assignment(hub=hub, handOver="register"))
        assert kind == "apply-failed"  # and no harm done
        assert info_path(w).read_text() == before and not w.standin_events("told-to-reprovision")
        assert ("restart", EDGED) not in queued(w)[jobs:]
        jobs = len(queued(w))
        answer = caller.apply(**gateway.assignment(hub=hub, handOver="register", dps_answers=True))
        assert answer["hub"] == hub and len(w.standin_events("told-to-reprovision")) == 1
        assert queued(w)[jobs:].count(("restart", EDGED)) == 1
        jobs = len(queued(w))
        answer = caller.apply(**gateway.assignment(hub=hub, handOver="register", dps_answers=True, forced=True))
        assert len(w.standin_events("told-to-reprovision")) == 2
        assert queued(w)[jobs:].count(("restart", EDGED)) == 1


def test_reprovision_loses_the_identity_without_the_service(new_world):
    """What the rule above is for: the stand-in shows what the real one does."""
    gateway = Gateway(new_world(HandOff={"Identity": "register"}))
    w = gateway.world
    set_confirm_timeout(w, 1)
    w.stop_emulator()
    with Caller(w) as caller:
        caller.stop_helper()
        kind, sentence = caller.apply_refused(**gateway.assignment(handOver="register", dps_answers=True, forced=True))
        assert kind == "apply-failed" and "did not register anew" in sentence
        assert not info_path(w).exists()
        caller.job("RestartUnit", IDENTITYD)
        wait_for("its end", lambda: w.standin_events("died", unit=IDENTITYD))


# --- what identityd answers ---

@pytest.mark.parametrize("status, words, at_once", [
    (400, "has no identity yet", False), (401, "refuses the question", True), (404, "got no identity from", False),
    (422, "a release that is not supported", True), (500, "an internal error", False),
    (418, "answers what is not understood", False),
])
def test_statuses(new_world, status, words, at_once):
    gateway = Gateway(new_world())
    w = gateway.world
    set_confirm_timeout(w, 300 if at_once else 3)
    with Caller(w) as caller:
        caller.stop_helper()
        before = snapshot(w)
        jobs = len(queued(w))
        w.standin_faults(**{"identityd-status": {DEVICE: status}})
        began = time.monotonic()
        kind, sentence = caller.apply_refused(**gateway.assignment())
        assert kind == "confirm-timeout" and words in sentence and f"told to answer {status}" in sentence
        assert f"does not run as '{gateway.device}' on '{gateway.hub}'" in sentence
        assert f"[HTTP {status}]" in sentence and time.monotonic() - began < 60
        assert snapshot(w) == before and len(queued(w)) == jobs
        assert caller.ask("Check", "us", 4, gateway.id)["live"] is False
        w.standin_faults()
        assert caller.apply(**gateway.assignment())["changed"] is False


@pytest.mark.parametrize("hub, device", [("hub\nMAINPID=1", "gw-1"), ("localhost:1", "gw\n1"), (1, None)])
def test_names_that_are_none(new_world, hub, device):
    gateway = Gateway(new_world())
    w = gateway.world
    set_confirm_timeout(w, 3)
    with Caller(w) as caller:
        caller.stop_helper()
        w.standin_faults(**{"identityd-status": {DEVICE: [200, {"spec": {"hubName": hub, "deviceId": device}}]}})
        kind, sentence = caller.apply_refused(**gateway.assignment())
        assert kind == "confirm-timeout" and "answers what is not understood" in sentence
        record_path(w).unlink()
        assert caller.ask("Check", "us", 4, gateway.id)["result"] == "ready"  # and not: provisioned already
        w.standin_faults()
        assert caller.ask("Check", "us", 4, gateway.id)["result"] == "already"


def test_device_info_with_names_that_are_none(new_world):
    """It is not taken for somebody whom IoT Edge has become, and written again."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        for hub, device in (("hub\\nMAINPID=1", gateway.device), (gateway.hub, "gw\\u001b[2J"), ("", gateway.device)):
            info_path(w).write_text(info_text(hub, device))
            assert caller.verify(**gateway.assignment())["result"] == "lost"
            assert caller.ask("Check", "us", 4, gateway.id)["result"] == "ready"
            caller.apply(**gateway.assignment())
            assert info_path(w).read_text() == info_text(gateway.hub, gateway.device)


def test_edge_agent(new_world):
    """Only a hub that knows no such module says that the flag is missing."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        for status in (400, 401, 500):
            w.standin_faults(**{"identityd-status": {EDGE_AGENT: status}})
            assert caller.apply(**gateway.assignment())["warnings"] == []
        w.standin_faults(**{"identityd-status": {EDGE_AGENT: 404}})
        assert caller.apply(**gateway.assignment())["warnings"] == []  # it does not say that it is not found


def test_socket_that_accepts_and_never_answers(new_world):
    gateway = Gateway(new_world())
    w = gateway.world
    set_confirm_timeout(w, 1)
    w.helpers_environment(**w.clock())
    with Caller(w) as caller:
        caller.stop_helper()
        before = snapshot(w)
        w.standin_faults(identityd="silent")
        under_way = caller.begin_apply(**gateway.assignment())
        w.fast_forward("the end of its patience", under_way.done)
        kind, sentence = caller.failure(under_way)
        assert kind == "confirm-timeout" and "gives no answer" in sentence
        assert snapshot(w) == before
        w.standin_faults()
        assert caller.apply(**gateway.assignment())["changed"] is False


# --- Quiesce ---

def quiesced(world, caller, jobs):
    wait_for("the stop", lambda: {("stop", unit) for unit in UNITS} <= set(queued(world)[jobs:]))
    return all(not runs(caller, unit) for unit in UNITS) and runs(caller, EDGED) and stopped_path(world).exists()


@pytest.mark.smoke
def test_quiesce_and_resume(new_world):
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller, Caller(w) as other:
        jobs = len(queued(w))
        caller.ask("Quiesce", "u", 4)
        assert quiesced(w, caller, jobs)
        caller.ask("Quiesce", "u", 4)  # renewed: nothing more to stop
        assert len(queued(w)) == jobs + len(UNITS)
        other.ask("Resume")
        all_run(w, caller)
        jobs = len(queued(w))
        other.ask("Resume")
        caller.ask("Quiesce", "u", 4)
        caller.apply(**gateway.assignment())  # ends it as well
        all_run(w, caller)
        assert not [job for job in queued(w)[jobs:] if job[1].startswith("aziot-edged")]
    assert not w.standin_events("registers-itself")


def test_renewal_that_fails(new_world):
    """systemd has no time to answer, as while it reloads: who asked for it goes by what was promised before.

    Takes 5 s of real time: the helper waits that long for systemd within poll(), which the shim does not shorten.
    """
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        jobs = len(queued(w))
        caller.ask("Quiesce", "u", 4)
        assert quiesced(w, caller, jobs)
        jobs = len(queued(w))
        w.standin_faults(slow=60)
        assert caller.refused("Quiesce", "u", 4)[0] == "restart-failed"
        w.standin_faults()
        caller.ask("Quiesce", "u", 4)
        assert not queued(w)[jobs:] and stopped_path(w).exists()
        assert not any(runs(caller, unit) for unit in UNITS)
        caller.ask("Resume")
        all_run(w, caller)


def test_quiesce_while_a_start_is_to_be_tried_again(new_world):
    """What could not be started is not started in the middle of the next Quiesce."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        helper = caller.start_helper(environment=w.clock())
        caller.ask("Quiesce", "u", 4)
        w.standin_faults(units={"aziot-tpmd.service": {"start": "fail"}})
        assert caller.refused("Resume")[0] == "restart-failed"
        w.standin_faults()
        caller.ask("Quiesce", "u", 4)
        for _ in range(2):
            assert not any(runs(caller, unit) for unit in UNITS)
            w.let_pass(145)
            caller.introspect(caller.name)
        assert not any(runs(caller, unit) for unit in UNITS)
        w.let_pass(15)
        helper.wait_for_line("was not renewed in time")  # a start in between would have ended its time
        all_run(w, caller)


CALLER = textwrap.dedent("""\
    import asyncio, sys
    import dbus_next, dbus_next.aio

    async def main():
        bus = await dbus_next.aio.MessageBus(sys.argv[1]).connect()
        reply = await bus.call(dbus_next.Message("org.dps.HandOff1", "/org/dps/HandOff1", "org.dps.HandOff1", "Quiesce", signature="u", body=[4]))
        print(reply.message_type, flush=True)
        await bus.wait_for_disconnect()

    asyncio.run(main())
    """)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_caller_that_is_killed(new_world, number):
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        jobs = len(queued(w))
        process = subprocess.Popen([sys.executable, "-c", CALLER, w.environment["DBUS_SYSTEM_BUS_ADDRESS"]],
                                   stdout=subprocess.PIPE, text=True)
        try:
            assert "METHOD_RETURN" in process.stdout.readline()
            assert quiesced(w, caller, jobs)
        finally:
            process.send_signal(number)
            process.wait(DEADLINE)
        all_run(w, caller)
        assert ("restart", EDGED) not in queued(w)[jobs:]


def test_caller_that_leaves_at_once(new_world):
    """Before its call was answered, and while it waits for another one."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        for busy in (False, True):
            if busy:
                w.standin_faults(identityd="hold")
                check = caller.begin("Check", "us", 4, gateway.id)
            jobs = len(queued(w))
            other = Caller(w)
            other.begin("Quiesce", "u", 4).cancel()
            other.close()
            w.standin_faults()
            if busy:
                caller.end(check)
            caller.verify()
            all_run(w, caller)
            assert not [job for job in queued(w)[jobs:] if job[1].startswith("aziot-edged")]


def test_caller_that_leaves_during_an_apply(new_world):
    """The daemon is restarted in the middle of it: what is under way goes on to its end."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        gateway.make_old(caller)
        helper = caller.start_helper()
        with Caller(w) as other:
            other.ask("Quiesce", "u", 4)
            w.standin_faults(units={APPLY: {"delay": 60}})
            jobs = len(queued(w))
            under_way = caller.begin_apply(**gateway.assignment(keyChanged=True))
            wait_for("the apply", lambda: ("start", APPLY) in queued(w)[jobs:])
        helper.wait_for_line("has left the bus")
        w.standin_faults()
        caller.end(under_way)
        assert len([line for line in helper.lines if "has left the bus" in line]) == 1
        all_run(w, caller)


def test_helper_that_is_killed_while_it_holds(new_world):
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        caller.ask("Quiesce", "u", 4)
        caller.stop_helper()
        assert stopped_path(w).exists() and not runs(caller, IDENTITYD)
        caller.verify()  # systemd starts it by itself (Restart=on-failure); here somebody has to call
        all_run(w, caller)


@pytest.mark.parametrize("doing", ["nothing", "Apply"])
def test_helper_that_is_told_to_end(new_world, doing):
    """There may be no next one, as when the package is removed."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        jobs = len(queued(w))
        caller.ask("Quiesce", "u", 4)
        assert quiesced(w, caller, jobs)
        if doing == "Apply":
            gateway.make_old(caller)
            w.standin_faults(units={APPLY: {"start": "hang"}})
            jobs = len(queued(w))
            under_way = caller.begin_apply(**gateway.assignment(keyChanged=True))
            wait_for("the apply", lambda: ("start", APPLY) in queued(w)[jobs:])
            assert not runs(caller, EDGED)
        for pid in w.helper_pids("dps-handoffd"):
            os.kill(pid, signal.SIGTERM)
        if doing == "Apply":
            caller.failure(under_way)
        wait_for("its end", lambda: not caller.has_owner())
        for unit in (EDGED, *UNITS):
            wait_for(f"{unit} to run", lambda u=unit: runs(caller, u))
        assert not caller.has_owner()


def test_quiesce_ends_after_five_minutes(new_world):
    """Each Quiesce begins them anew."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        helper = caller.start_helper(environment=w.clock())
        jobs = len(queued(w))
        caller.ask("Quiesce", "u", 4)
        assert quiesced(w, caller, jobs)
        for _ in range(2):
            w.let_pass(240)  # of 300: the rest is for a busy machine
            caller.introspect(caller.name)
            assert not any(runs(caller, unit) for unit in UNITS)
            caller.ask("Quiesce", "u", 4)
        w.let_pass(305)
        helper.wait_for_line("was not renewed in time")
        all_run(w, caller)


def test_daemon_killed_in_the_middle_of_a_move(new_world):
    w = new_world(polls=1)
    w.start_gateway()
    w.move()
    w.faults("slow:poll=50")
    jobs = len(queued(w))
    w.bus.call("Reprovision")
    w.wait("the poll", lambda p: p["Step"] == "poll")
    assert ("stop", IDENTITYD) in queued(w)[jobs:]
    w.stop_daemon(signal.SIGKILL)
    with Caller(w) as caller:
        all_run(w, caller)
    assert ("restart", EDGED) not in queued(w)[jobs:]
    w.faults()
    w.start_daemon()
    w.wait("the move", lambda p: p["State"] == "handed-off" and p["AssignedHub"].startswith("hub-b"))


def test_order_of_stopping_and_starting(new_world):
    """identityd writes its old device_info back when it stops, and tpmd reads the handle when it starts."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        gateway.make_old(caller)
        jobs = len(queued(w))
        caller.apply(**gateway.assignment(keyChanged=True))
        stops = [unit for verb, unit in queued(w)[jobs:] if verb == "stop"]
        assert stops == ["aziot-edged.mgmt.socket", "aziot-edged.workload.socket", EDGED, "aziot-identityd.socket",
                         IDENTITYD, "aziot-tpmd.socket", "aziot-tpmd.service"]
        assert info_path(w).stat().st_mode & 0o7777 == 0o644
