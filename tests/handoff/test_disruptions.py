"""Suite "handoff": how often the helper disrupts a working IoT Edge, and for how long it holds IoT Edge.

Disruptions and holds are counted at the fake systemd. Time passes for the helper and for systemd when a test says so.
"""
import collections
import json
import subprocess

import pytest
from bus import BusError
from handoff import (APPLY, EDGED, IDENTITYD, Caller, Gateway, edged_state_path, info_path, info_text, record, record_path,
                     set_confirm_timeout, stopped_path)
from harness import own_etc, wait_for

MINUTE, HOUR, DAY = 60, 3600, 86400
WEEK = 7 * DAY
VERSION = 4
DENIED = "AccessDenied"
HIJACKER = 65534  # whom the helper of that case knows as dps-provision; the bus has to know the user, too


def budgets_path(world):
    return world.root / "var/lib/dps-handoffd/budgets.json"


def budgets(world):
    return json.loads(budgets_path(world).read_text())


def working_gateway(new_world, **settings):
    """IoT Edge works as the attested device, and its budgets are full."""
    w = new_world(**settings)
    w.helpers_environment(**w.clock())
    gateway = Gateway(w)
    set_confirm_timeout(w, 1)
    return gateway


class Counter:
    """What the fake systemd was made to do since then to units that were active."""

    def __init__(self, world):
        self.world = world
        self.seen = len(world.standin_events())

    def stops(self, unit=EDGED):
        return len([e for e in self.world.standin_events()[self.seen:] if e["event"] == "stop" and e["unit"] == unit])

    def held(self, unit=IDENTITYD):
        """For how many seconds the unit was down."""
        total, since = 0, None
        for e in self.world.standin_events()[self.seen:]:
            if e.get("unit") == unit and e["event"] == "stop":
                since = e["time"]
            elif e.get("unit") == unit and e["event"] == "start" and since is not None:
                total, since = total + e["time"] - since, None
        return total


def be_another(gateway):
    """IoT Edge runs as another device by what is on the disk, so that Apply has to stop it."""
    w = gateway.world
    info_path(w).write_text(info_text("old.localhost", gateway.device))
    if record_path(w).exists():
        record_path(w).write_text(json.dumps({**record(w), "hub": "old.localhost"}))


def outcome(caller, under_way):
    """The result of a call: the kind of its failure or "", and the seconds until the call may be repeated."""
    try:
        caller.end(under_way)
        return "", 0
    except BusError as error:
        return error.kind, error.retry_after


def disrupt(gateway, caller):
    """An Apply that has to stop aziot-edged."""
    be_another(gateway)
    return outcome(caller, caller.begin_apply(**gateway.assignment(keyChanged=True)))


# --- disruptions ---

def test_disruptions_become_rare(new_world):
    gateway = working_gateway(new_world)
    w = gateway.world
    with Caller(w, allows=False) as caller:
        for gap in (HOUR, 6 * HOUR):
            count = Counter(w)
            assert disrupt(gateway, caller) == ("", 0) and count.stops() == 1
            kind, retry_after = disrupt(gateway, caller)
            assert kind == "disruption-budget" and gap - 60 < retry_after <= gap and count.stops() == 1
            w.let_pass(gap - 60)
            kind, retry_after = disrupt(gateway, caller)
            assert kind == "disruption-budget" and 0 < retry_after <= 60 and count.stops() == 1
            w.let_pass(61)
        assert disrupt(gateway, caller) == ("", 0)
        w.let_pass(DAY - 60)
        assert disrupt(gateway, caller)[0] == "disruption-budget"
        w.let_pass(120)  # the hub has accepted it, and it has run for a day
        assert disrupt(gateway, caller) == ("", 0) and budgets(w)["disruptions"]["count"] == 1


def test_a_refused_apply_changes_nothing(new_world):
    gateway = working_gateway(new_world)
    w = gateway.world
    with Caller(w, allows=False) as caller:
        assert disrupt(gateway, caller) == ("", 0)
        be_another(gateway)
        count, before = Counter(w), (w.config_toml.read_bytes(), record(w), info_path(w).read_bytes())
        assert caller.apply_refused(**gateway.assignment(keyChanged=True))[0] == "disruption-budget"
        assert caller.refused("Forget", "b", True)[0] == "disruption-budget"
        assert before == (w.config_toml.read_bytes(), record(w), info_path(w).read_bytes())
        assert count.stops() == count.stops(IDENTITYD) == 0
        assert HOUR - 60 < caller.ask("Check", "us", VERSION, gateway.id)["disruptionWaitUSec"] / 1e6 <= HOUR


def test_one_that_could_not_be_counted_is_not_made(new_world):
    gateway = working_gateway(new_world)
    w = gateway.world
    path = budgets_path(w)
    with Caller(w, allows=False) as caller:
        caller.ask("Check", "us", VERSION, gateway.id)
        helper, count = w.helper_pids("dps-handoffd"), Counter(w)
        path.unlink(missing_ok=True)
        path.mkdir()
        assert disrupt(gateway, caller)[0] == "storage" and count.stops() == count.stops(IDENTITYD) == 0
        path.rmdir()
        assert disrupt(gateway, caller) == ("", 0) and budgets(w)["disruptions"]["count"] == 1
        assert w.helper_pids("dps-handoffd") == helper


@pytest.mark.parametrize("how", ["is down", "waits to be started again", "never had an identity"])
def test_what_costs_nothing(new_world, how):
    gateway = working_gateway(new_world)
    w = gateway.world
    with Caller(w, allows=False) as caller:
        assert disrupt(gateway, caller) == ("", 0)
        for _ in range(4):
            if how == "is down":
                caller.job("StopUnit", EDGED)
            elif how == "waits to be started again":
                w.standin_faults(units={EDGED: {"start": "crash-loop", "restart": DAY}})
                caller.job("RestartUnit", EDGED)
                w.standin_faults()
            else:
                edged_state_path(w).unlink(missing_ok=True)
            assert caller.ask("Check", "us", VERSION, gateway.id)["disruptionWaitUSec"] == 0
            assert disrupt(gateway, caller) == ("", 0)
            if how == "never had an identity":
                wait_for("its identity", edged_state_path(w).exists)
            assert budgets(w)["disruptions"]["count"] == 1


def test_a_retry_that_stops_nothing_does_not_wait(new_world):
    gateway = working_gateway(new_world)
    w = gateway.world
    away = gateway.assignment(hub="away.localhost:1", keyChanged=True)
    with Caller(w, allows=False) as caller:
        for n in range(4):
            under_way = caller.begin_apply(**away)
            w.fast_forward("the end of its patience", under_way.done)
            assert outcome(caller, under_way) == ("hub-unreachable", 0)
            assert budgets(w)["disruptions"]["count"] == 1 and not budgets(w)["disruptions"]["confirmed"]


@pytest.mark.root
def test_allow(new_world):
    gateway = working_gateway(new_world)
    w = gateway.world
    with Caller(w, allows=False) as caller:
        for _ in range(3):
            assert disrupt(gateway, caller) == ("", 0)
            assert disrupt(gateway, caller)[0] == "disruption-budget"
            caller.ask("Allow")
            caller.stop_helper()
        assert disrupt(gateway, caller) == ("", 0)


def start_after_boot(gateway, caller, boot_id, uptime=60):
    w = gateway.world
    caller.start_helper(environment={**w.rebooted_clock(uptime), "DPS_BOOT_ID": boot_id})


def change_disruptions(gateway, caller, **values):
    """What an earlier life of this gateway has left."""
    w = gateway.world
    caller.stop_helper()
    path = budgets_path(w)
    path.write_text(json.dumps({**budgets(w), "disruptions": {**budgets(w)["disruptions"], **values}}))


@pytest.mark.parametrize("boots, days", [(False, 1), (True, 90)])
def test_a_gateway_that_worked_has_a_full_budget(new_world, boots, days):
    """The helper did not run in between. In the second case the gateway has rebooted for maintenance."""
    gateway = working_gateway(new_world)
    w = gateway.world
    with Caller(w, allows=False) as caller:
        assert disrupt(gateway, caller) == ("", 0)
        change_disruptions(gateway, caller, count=3, waitUSec=DAY * 1_000_000)
        w.let_pass(days * DAY + 60)
        if boots:
            start_after_boot(gateway, caller, "boot-1")
        caller.verify(**gateway.assignment())
        assert budgets(w)["disruptions"]["count"] == 0
        assert disrupt(gateway, caller) == ("", 0) and budgets(w)["disruptions"]["count"] == 1


@pytest.mark.parametrize("before, after", [(-56 * 365 * DAY, 0), (0, 40 * 365 * DAY), (0, -56 * 365 * DAY),
                                           (-56 * 365 * DAY, -56 * 365 * DAY)])
def test_a_wrong_clock_after_a_boot(new_world, before, after):
    """It ends no wait at once, and four boots end any wait."""
    w = new_world()
    gateway = Gateway(w)
    w.set_clock(before)
    with Caller(w, allows=False) as caller:
        caller.start_helper(environment=w.clock())
        assert disrupt(gateway, caller) == ("", 0)
        change_disruptions(gateway, caller, confirmed=False)
        w.set_clock(after)
        for n in range(3):
            start_after_boot(gateway, caller, f"boot-{n}")
            kind, retry_after = disrupt(gateway, caller)
            if kind == "" and n > 0:
                return  # the local clock has helped twice
            assert kind == "disruption-budget" and HOUR * (4 - 2 * (n + 1)) / 4 - 180 <= retry_after <= HOUR * (3 - n) / 4
        start_after_boot(gateway, caller, "boot-4")
        assert disrupt(gateway, caller) == ("", 0)


def test_a_boot_that_lasts_long_enough(new_world):
    """Without any clock, a gateway that reboots each day is not blocked."""
    w = new_world()
    gateway = Gateway(w)
    w.set_clock(-56 * 365 * DAY)
    with Caller(w, allows=False) as caller:
        caller.start_helper(environment=w.clock())
        assert disrupt(gateway, caller) == ("", 0)
        start_after_boot(gateway, caller, "boot-1", uptime=HOUR + 60)
        assert disrupt(gateway, caller) == ("", 0)


# --- a week of each cause ---

def fails(**units):
    return {"units": units}


CAUSES = {
    "apply fails": {"apply": "told to fail"},
    "apply writes nothing": {"apply-skips-files": True},
    **{f"apply ends with {how}": fails(**{APPLY: {"start": how}}) for how in ("fail", "timeout", "canceled", "dependency", "skipped")},
    **{f"edged does not stop: {how}": fails(**{EDGED: {"stop": how}}) for how in ("failed", "timeout")},
    "identityd does not stop": fails(**{IDENTITYD: {"stop": "canceled"}}),
    "tpmd does not stop": fails(**{"aziot-tpmd.service": {"stop": "failed"}}),
    **{f"edged does not start: {how}": fails(**{EDGED: {"start": how}}) for how in ("fail", "timeout", "dependency", "flap", "crash-loop")},
    "identityd does not start": fails(**{IDENTITYD: {"start": "fail"}}),
    "identityd is silent": {"identityd": "silent"},
    "identityd has an error": {"identityd-status": {"POST /identities/device": 500}},
    "the hub is away": None,
}
PARTS = 6


def make_ready(gateway, caller):
    """An old IoT Edge that works, and another assignment for it, with another provisioning."""
    w = gateway.world
    w.standin_faults()
    caller.stop_helper()
    gateway.restore()
    for unit in (EDGED, "aziot-tpmd.service", IDENTITYD):
        caller.job("StopUnit", unit)
    for unit in ("aziot-tpmd.socket", "aziot-identityd.socket", "aziot-edged.mgmt.socket", "aziot-edged.workload.socket",
                 IDENTITYD, EDGED):
        caller.job("StartUnit", unit)
    caller.ask("Allow")


def attempt(gateway, caller, hub):
    w = gateway.world
    under_way = caller.begin_apply(**gateway.assignment(hub=hub))
    w.fast_forward("its end", under_way.done)
    return outcome(caller, under_way)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_week_of_each_cause(new_world, part, record_property):
    """Attempts as early as the helper allows, else every six hours. At most 10 of them stop a working aziot-edged. No attempt
    waits while aziot-edged is down."""
    gateway = working_gateway(new_world)
    w = gateway.world
    with Caller(w, allows=False) as caller:
        gateway.make_old(caller)
        gateway.save()
        for name, faults in list(CAUSES.items())[part::PARTS]:
            make_ready(gateway, caller)
            w.standin_faults(**(faults or {}))
            hub = gateway.hub if faults else "away.localhost:1"
            kinds, disruptions, end = [], 0, w.passed + WEEK
            while w.passed < end:
                count = Counter(w)
                kind, retry_after = attempt(gateway, caller, hub)
                assert kind, name
                stops = count.stops()
                assert stops == 0 or kind != "disruption-budget"
                kinds.append(kind)
                disruptions += stops > 0
                w.let_pass(int(retry_after) + 1 if retry_after else 6 * HOUR)
            print(f"{name}: {disruptions} disruptions in {collections.Counter(kinds)}")
            assert disruptions <= 10, name
            assert "disruption-budget" in kinds or len(kinds) >= WEEK / (6 * HOUR) - 1, name
    record_property("causes of a week", len(CAUSES))


# --- holds ---

def is_held(world):
    return stopped_path(world).exists()


def hold(caller, seconds, step=290):
    """Renews a hold for so long; returns the first failure's kind and retry_after."""
    w = caller.world
    for _ in range(0, seconds, step):
        failure = outcome(caller, caller.send("Quiesce", "u", (VERSION,)))
        if failure[0]:
            return failure
        w.let_pass(step)
        wait_for("the helper", lambda: caller.introspect(caller.name))
    return "", 0


def test_a_hold_ends_after_30_minutes(new_world):
    """Whatever is renewed. The next one comes after a minute in which IoT Edge runs, also for another helper."""
    gateway = working_gateway(new_world)
    w = gateway.world
    with Caller(w, allows=False) as caller:
        count = Counter(w)
        assert hold(caller, 29 * MINUTE) == ("", 0) and is_held(w)
        w.let_pass(2 * MINUTE)
        w.bus_process.wait_for_line("held for 30 minutes")
        wait_for("IoT Edge to run", lambda: not is_held(w))
        assert count.stops(IDENTITYD) == 1 and 29 * MINUTE < count.held() < 33 * MINUTE
        kind, retry_after = hold(caller, 1)
        assert kind == "disruption-budget" and 0 < retry_after <= MINUTE
        caller.refused("Check", "us", 99, gateway.id)  # this helper leaves
        wait_for("its end", lambda: not caller.has_owner())
        assert hold(caller, 1)[0] == "disruption-budget"
        w.let_pass(MINUTE)
        assert hold(caller, 1) == ("", 0) and is_held(w)
        caller.ask("Resume")


def test_an_iot_edge_that_does_not_start_again_is_not_held(new_world):
    gateway = working_gateway(new_world)
    w = gateway.world
    with Caller(w, allows=False) as caller:
        assert hold(caller, 29 * MINUTE) == ("", 0)
        w.standin_faults(units={IDENTITYD: {"start": "fail"}})
        w.let_pass(2 * MINUTE)
        w.bus_process.wait_for_line("could not be started")
        for _ in range(3):
            assert hold(caller, 1)[0] == "disruption-budget"
            w.let_pass(MINUTE)
        w.standin_faults()


def test_normal_holds_are_not_limited(new_world):
    """20 minutes each hour, and short ones a few seconds apart."""
    gateway = working_gateway(new_world)
    w = gateway.world
    with Caller(w, allows=False) as caller:
        for _ in range(12):
            assert hold(caller, 20 * MINUTE) == ("", 0)
            caller.ask("Resume")
            for _ in range(3):
                w.let_pass(5)
                assert hold(caller, 5, step=5) == ("", 0)
                caller.ask("Resume")
            w.let_pass(40 * MINUTE)


@pytest.mark.root
def test_root_allows_a_hold_at_once(new_world):
    gateway = working_gateway(new_world)
    w = gateway.world
    with Caller(w, allows=False) as caller:
        assert hold(caller, 1) == ("", 0)
        caller.ask("Resume")
        caller.stop_helper()
        budgets_path(w).write_text(json.dumps({**budgets(w), "holds": {**budgets(w)["holds"], "usedUSec": 6 * HOUR * 1_000_000}}))
        kind, retry_after = hold(caller, 1)
        assert kind == "disruption-budget" and retry_after > HOUR
        caller.ask("Allow")
        assert hold(caller, 1) == ("", 0) and is_held(w)
        caller.ask("Resume")


# --- a hijacked dps-provisiond ---

PROGRAM = """
import asyncio, json, sys
from dbus_next import Message, Variant
from dbus_next.aio import MessageBus

def value(v):
    return {k: Variant(*i) for k, i in v.items()} if isinstance(v, dict) else v

async def main(address):
    bus = await MessageBus(address).connect()
    print(flush=True)
    for line in sys.stdin:
        member, signature, body = json.loads(line)
        reply = await bus.call(Message("org.dps.HandOff1", "/org/dps/HandOff1", "org.dps.HandOff1", member,
                                       signature=signature, body=[value(v) for v in body]))
        name = (reply.error_name or "").rpartition(".")[2].replace("_", "-")
        print(json.dumps([name, reply.body[1] / 1e6 if name and len(reply.body) > 1 else 0]), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


class Hijacked:
    """Calls the helper as the user dps-provision."""

    def __init__(self, world):
        self.process = subprocess.Popen(
            ["setpriv", f"--reuid={HIJACKER}", f"--regid={HIJACKER}", "--clear-groups", "/usr/bin/python3", "-c", PROGRAM,
             world.environment["DBUS_SYSTEM_BUS_ADDRESS"]],
            env=world.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def call(self, member, signature="", *body):
        self.process.stdin.write(json.dumps([member, signature, body]) + "\n")
        self.process.stdin.flush()
        return tuple(json.loads(self.process.stdout.readline()))

    def apply(self, gateway):
        values = {"registrationId": ["s", gateway.id], "hub": ["s", gateway.hub], "deviceId": ["s", gateway.device],
                  "handOver": ["s", "adopt"], "keyChanged": ["b", True]}
        return self.call("Apply", "a{sv}b", values, True)


def hijack(gateway, caller):
    """The helper in a system that has the user."""
    w = gateway.world
    w.dir.chmod(0o755)
    (w.dir / "bus").chmod(0o777)
    prefix = own_etc(w, passwd=f"root:x:0:0::/root:/bin/sh\ndps-provision:x:{HIJACKER}:{HIJACKER}::/:/bin/false\n")
    path = w.dir / "services/org.dps.HandOff1.service"
    wrapper = w.dir / "handoffd"
    command = path.read_text().split("Exec=")[1].split("\n")[0]
    wrapper.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in prefix) + f" {command}\n")
    wrapper.chmod(0o755)
    path.write_text(path.read_text().replace(command, str(wrapper)))
    w.reload_bus()
    caller.stop_helper()


@pytest.mark.root
def test_what_a_hijacked_daemon_can_do_in_a_day(new_world, record_property):
    """See docs/architecture.md. First it holds IoT Edge for as long as it can, then it disrupts IoT Edge as often as it can."""
    gateway = working_gateway(new_world)
    w = gateway.world
    with Caller(w, allows=False) as caller:
        hijack(gateway, caller)
        with Hijacked(w) as daemon:
            assert daemon.call("Allow")[0] == DENIED
            count, end = Counter(w), w.passed + DAY
            while w.passed < end:
                kind, retry_after = daemon.call("Quiesce", "u", VERSION)
                assert kind in ("", "disruption-budget")
                w.let_pass(min(int(retry_after) + 1, end - w.passed) if kind else 290)
            held = count.held() / HOUR
            daemon.call("Resume")
            assert 11 < held <= 12.1 and count.stops() == 0

            count, end, accepted = Counter(w), w.passed + DAY, []
            while w.passed < end:
                be_another(gateway)
                for call in (lambda: daemon.apply(gateway), lambda: daemon.call("Forget", "b", False),
                             lambda: daemon.call("Verify", "a{sv}b", {}, False), lambda: daemon.call("Allow")):
                    accepted.append(call()[0])
                w.let_pass(20 * MINUTE)
            assert accepted.count(DENIED) >= 72 and accepted.count("disruption-budget") >= 72
            assert 2 <= count.stops() <= 3
            record_property("hours of holds in a hijacked day", round(held, 2))
            record_property("disruptions in a hijacked day", count.stops())
