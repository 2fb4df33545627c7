"""Suite "daemon": an assignment for which IoT Edge has to register itself survives every failure.

A gateway runs as one device and is assigned another. The first Apply fails, or the processes are killed during Apply, or the
clock is behind. The gateway ends as the new device. The tests count registrations at the emulator and unit stops at the
fake systemd.
"""
import contextlib
import signal
import tomllib

import pytest
from bus import BusError
from handoff import APPLY, EDGED, IDENTITYD, edge, info_path, write_config_toml
from harness import DEADLINE, wait_for
from samples import Samples, assignments, billed

OLD, NEW = "old-device", "new-device"
LONG = 50  # seconds: until the fault is taken away
SECRET = "hunter2"
REPROVISION = "POST /identities/device/reprovision"


# --- the gateway that is to become another device ---

def owner_authorization(world):
    """Sets an owner authorization that aziot-tpmd knows and dps-tpmd does not, so no key can be adopted."""
    world.tpm2("changeauth", "-c", "o", SECRET)
    write_config_toml(world, f'[tpm.hierarchy_authorization]\nowner = "{SECRET}"\n')


class Move:
    """The gateway, what it was, and what it is to become.

    mode: why IoT Edge has to register by itself: "register" (Identity=), "owner" (the TPM's owner authorization is not
    known), "no-key" (DPS' reply to us, and only that one, has no hub key).
    """

    def __init__(self, new_world, change, mode="register"):
        self.change, self.mode = change, mode
        self.w = w = new_world(HandOff={"Identity": "register"} if mode == "register" else {})
        self.permanent = [] if change == "hub" else ["keep-old-device"]
        self.one_shot = ["no-hub-key=1"] if mode == "no-key" else []
        if mode == "owner":
            owner_authorization(w)
        w.start_standins()
        w.enroll(edge(w, deviceId=OLD))
        w.set_clock(0)
        w.start_daemon(environment=w.clock())
        p = w.wait_for_state("handed-off")
        self.old = (p["AssignedHub"], p["DeviceId"])
        wait_for("edged as the old device", lambda: self.edged_is(self.old))
        self.registrations = billed(w)
        assert self.registrations == (1, 0 if mode == "no-key" else 1)
        self.events = len(w.standin_events())
        self.samples = Samples(w)
        self.new = self.old

    def faults(self, *lines):
        """Writing the file restarts the counts, so no-hub-key=1 stays in force until DPS has assigned."""
        self.w.faults(*self.permanent, *self.one_shot, *lines)

    def begin(self, *faults):
        """Makes the change."""
        w, hub = self.w, f"hub-b.localhost:{self.w.port}"
        self.faults(*faults)
        if self.change == "forced":
            w.bus.call("Reprovision")
            return
        self.new = (hub, OLD if self.change.startswith("hub") else NEW)
        changes = {"deviceId": self.new[1], "iotHubHostName": hub}
        if self.change == "registration":
            w.enroll(edge(w, registrationId="renamed", **changes))
            w.write_config(Provisioning={"RegistrationId": "renamed"})
        elif self.change == "scope":
            w.enroll(edge(w, **changes))
            w.stop_emulator()
            w.start_emulator("--scope=0ne00OTHER1", port=w.port)
            w.write_config(Provisioning={"IdScope": "0ne00OTHER1"})
        else:
            w.enroll(edge(w, **changes))
            w.bus.call("Reprovision")

    def target(self):
        return (self.w.config["Provisioning"]["IdScope"], "renamed" if self.change == "registration" else None)

    def edged_is(self, device):
        events = self.w.standin_events("edged-device")
        return events and (events[-1]["hub"], events[-1]["device"]) == device

    def since(self, event, **where):
        return [e for e in self.w.standin_events()[self.events:]
                if e["event"] == event and all(e.get(k) == v for k, v in where.items())]

    def device_info(self):
        info = tomllib.loads(info_path(self.w).read_text())
        return info["hub_name"], info["device_id"]

    def spent(self):
        """(ours, identityd's) since the change."""
        return tuple(now - then for now, then in zip(billed(self.w), self.registrations))

    # --- holding and killing the hand-off ---

    def hold(self, standins=None, faults=()):
        """Makes the change and waits for the assignment. The faults are in force from CONFIRM on."""
        self.begin(f"slow:confirm={LONG}")
        self.w.wait("confirm", lambda p: p["Step"] == "confirm")
        self.w.standin_faults(**(standins or {}))
        self.faults(*faults)
        self.w.wait("the assignment", lambda p: p["State"] == "assigned")
        self.one_shot = []

    def kill(self):
        self.w.stop_daemon(signal.SIGKILL)
        self.w.kill_helper("dps-handoffd")
        wait_for("the helper's end", lambda: not self.w.helper_pids("dps-handoffd"))
        self.w.standin_faults()
        self.faults()
        self.w.start_daemon(environment=self.w.clock())

    # --- the end ---

    def becomes_new(self, theirs=1, stops=2):
        """Waits for the new device. We have registered once, identityd at least once and at most `theirs` times. edged was
        stopped at most `stops` times: by `iotedge config apply`, and to start as the new device."""
        w = self.w
        w.wait("a registration", lambda p: self.spent()[0] >= 1)
        p = w.wait_for_state("handed-off")
        assert (p["AssignedHub"], p["DeviceId"]) == self.new
        p = w.wait("rest", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
        assert p["LastError"][0] == ""
        assert self.device_info() == self.new
        wait_for("edged as the new device", lambda: self.edged_is(self.new), DEADLINE / 4)
        assert w.requests(kind="hub", hub=self.new[0], deviceId=self.new[1], authorized=True)
        ours, identityds = self.spent()
        assert ours == 1 and 1 <= identityds <= theirs, (ours, identityds)
        assert len(self.since("stop", unit=EDGED)) <= stops
        self.check_samples()

    def check_samples(self):
        samples = self.samples.stop()
        begun = next(i for i, (p, _) in enumerate(samples) if p["State"] != "handed-off")
        for p, _ in samples[begun:]:
            assert p["State"] != "handed-off" or (p["AssignedHub"], p["DeviceId"]) == self.new, p
        if self.change in ("registration", "scope"):  # for the others it is the same target that has both
            scope, rid = self.target()
            for _, record in samples:
                for found_scope, found_rid, *device in assignments(record):
                    assert not (found_scope == scope and rid in (None, found_rid) and tuple(device) == self.old), record


# --- as it is meant ---

@pytest.mark.parametrize("change, mode", [
    ("registration", "register"), ("scope", "register"), ("hub", "register"), ("hub-kept", "register"),
    ("forced", "register"), ("registration", "owner"), ("registration", "no-key"),
])
def test_nothing_goes_wrong(new_world, change, mode):
    move = Move(new_world, change, mode)
    move.begin()
    move.becomes_new(stops=2 if change in ("registration", "scope") else 1)


# --- the first Apply fails ---

FAILURES = {
    "apply": {"apply": "told to fail"},  # `iotedge config apply`
    "edged": {"units": {EDGED: {"start": "fail"}}},
    "reprovision": {"identityd-status": {REPROVISION: 500}},
}


@pytest.mark.parametrize("change, failure, mode", [
    ("registration", "apply", "register"), ("registration", "edged", "register"),
    ("registration", "reprovision", "register"), ("scope", "apply", "register"),
    ("hub", "edged", "register"), ("hub-kept", "edged", "register"), ("hub-kept", "reprovision", "register"),
    ("forced", "reprovision", "register"), ("forced", "edged", "register"),
    ("registration", "apply", "owner"), ("hub-kept", "reprovision", "owner"), ("forced", "reprovision", "owner"),
    ("registration", "apply", "no-key"), ("hub-kept", "reprovision", "no-key"), ("forced", "reprovision", "no-key"),
])
def test_first_apply_fails(new_world, change, failure, mode):
    move = Move(new_world, change, mode)
    move.hold(FAILURES[failure])
    p = move.w.wait("the failure", lambda p: p["LastError"][0] and p["Step"] == "wait")
    assert p["State"] == "assigned" and p["LastError"][0] in ("apply-failed", "restart-failed")
    move.w.standin_faults()
    # what was told to register before the failure may be told once more; a reprovisioning that failed had the previous
    # config.toml put back
    move.becomes_new(theirs=2 if failure == "edged" else 1, stops=4 if failure == "reprovision" else 3)


# --- killed in it ---

def step_is(name):
    return lambda move: move.w.bus.properties()["Step"] == name


POINTS = {  # (the fakes' faults, the emulator's, when)
    "begin": ({"slow": LONG}, (), step_is("handoff")),
    "apply": ({"units": {APPLY: {"delay": LONG}}}, (), lambda move: move.since("start", unit=APPLY)),
    "edged": ({"units": {EDGED: {"delay": LONG}}}, (), lambda move: move.since("start", unit=EDGED)),
    # identityd registers: before it has a challenge, and when DPS has counted it
    "registers": ({}, (f"slow:register={LONG}",), lambda move: move.since("registers-itself")),
    "billed": ({}, (f"slow:poll={LONG}",), lambda move: move.spent()[1] > 0),
}


def held_at(move, point):
    standins, faults, reached = POINTS[point]
    if point == "billed":  # our own poll comes before
        move.hold({"slow": LONG})
        move.w.wait("the hand-off", lambda p: p["Step"] == "handoff")
        move.faults(*faults)
        move.w.standin_faults()
    else:
        move.hold(standins, faults)
    wait_for(point, lambda: reached(move))


@pytest.mark.parametrize("change, point, mode", [
    *[("registration", point, "register") for point in POINTS], ("scope", "apply", "register"),
    ("scope", "registers", "register"),
    ("hub", "begin", "register"), ("hub", "registers", "register"), ("hub-kept", "begin", "register"),
    ("hub-kept", "billed", "register"),
    ("forced", "begin", "register"), ("forced", "registers", "register"), ("forced", "billed", "register"),
    ("registration", "apply", "owner"), ("forced", "begin", "owner"),
    ("registration", "apply", "no-key"), ("forced", "begin", "no-key"),
])
def test_killed_in_apply(new_world, change, point, mode):
    move = Move(new_world, change, mode)
    held_at(move, point)
    move.kill()
    # a registration under way when its asker was killed may be asked for once more
    move.becomes_new(theirs=2 if point in ("edged", "registers", "billed") else 1, stops=4)


# --- the clock is behind ---

@pytest.mark.parametrize("change, mode, restart", [
    ("registration", "register", False), ("registration", "register", True), ("scope", "register", False),
    ("hub", "register", False), ("hub-kept", "register", False), ("forced", "register", False),
    ("forced", "register", True), ("registration", "owner", False), ("forced", "owner", False),
    ("registration", "no-key", False),
])
def test_clock_behind_for_a_minute(new_world, change, mode, restart):
    move = Move(new_world, change, mode)
    move.w.set_clock(-60)
    move.begin()
    p = move.w.wait_for_failure("clock-behind")
    assert p["State"] == "assigned" and move.spent()[0] == 1
    if restart:
        move.w.stop_daemon(signal.SIGKILL)
        move.w.start_daemon(environment=move.w.clock())
        assert move.w.wait_for_failure("clock-behind")["State"] == "assigned"
    move.w.set_clock(0)
    move.becomes_new()


# --- a hub key that this TPM refuses ---

@pytest.mark.parametrize("how", ["fixed/1", "long/1", "lockout"])
def test_hub_key_that_can_not_be_used(new_world, how):
    """The TPM refuses the first hub key, or dps-tpmd refuses every one: IoT Edge registers itself, once."""
    w = new_world()
    w.start_standins()
    w.enroll(edge(w))
    w.faults(f"bad-hub-key={how}")
    w.start_daemon()
    p = w.wait("the end", lambda p: p["State"] == "handed-off" or p["Step"] == "wait")
    assert (p["State"], p["LastError"][0]) == ("handed-off", "")
    assert "adoption-refused" in [warning[0] for warning in p["Warnings"]]
    assert billed(w) == (1, 1)
    key = w.hub_key()
    for end in (signal.SIGTERM, signal.SIGKILL):
        w.restart_daemon(end)
        w.wait("rest", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
        with contextlib.suppress(BusError):  # there is nothing to be retried
            w.bus.call("Retry")
        w.wait("rest", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    assert billed(w) == (1, 1) and w.hub_key() == key
    assert w.requests(kind="hub", authorized=True)


@pytest.mark.parametrize("how", ["fixed/1", "lockout"])
def test_hub_key_of_another_device_that_can_not_be_used(new_world, how):
    """The same for a handed-off gateway: the key of the old device is removed."""
    move = Move(new_world, "registration", "no-key")
    move.one_shot = []
    move.begin(f"bad-hub-key={how}")
    move.w.wait("the end", lambda p: p["State"] == "handed-off" and move.spent()[0] or p["LastError"][0])
    assert move.w.bus.properties()["LastError"][0] == ""
    move.becomes_new()


@pytest.mark.parametrize("how", ["fixed", "long", "lockout"])
def test_hub_key_that_can_not_be_used_without_iot_edge(new_world, how):
    w = new_world(HandOff={"Target": "none"})
    w.enroll(w.enrollment())
    w.faults(f"bad-hub-key={how}")
    w.start_daemon()
    for _ in range(2):  # there is no intended assignment, neither now nor after a restart
        p = w.wait_for_failure("protocol")
        assert p["State"] == "attesting" and p["AssignedHub"] == "" and w.hub_key() is None
        w.restart_daemon(signal.SIGKILL)
    w.faults()
    w.retry()
    w.wait_for_state("handed-off")


# --- DPS is away ---

def go_away(move, what):
    if what == "network":
        move.w.stop_emulator()
    else:
        move.faults(*[f"drop-connection:{kind}" for kind in ("register", "confirm", "poll", "lookup", "other")])


def come_back(move, what):
    if what == "network":
        move.w.start_emulator(port=move.w.port)
    else:
        move.faults()


@pytest.mark.parametrize("what", ["network", "DPS"])
@pytest.mark.parametrize("change, failure", [("registration", "apply"), ("hub-kept", "reprovision"),
                                             ("forced", "reprovision")])
def test_never_told_to_reprovision_while_dps_is_away(new_world, what, change, failure):
    """identityd deletes its identity before it asks DPS, so a working gateway would lose its identity."""
    move = Move(new_world, change)
    w = move.w
    move.hold(FAILURES[failure])
    w.wait("the failure", lambda p: p["LastError"][0] and p["Step"] == "wait")
    go_away(move, what)
    told = len(move.since("told-to-reprovision"))
    w.standin_faults()
    before = w.bus.properties()["Attempts"]
    p = w.wait("some attempts", lambda p: p["Attempts"] >= before + 3 or p["State"] == "handed-off")
    assert p["State"] == "assigned", "it was not asked whether DPS is there"
    assert len(move.since("told-to-reprovision")) == told
    assert move.device_info() == move.old and move.edged_is(move.old)
    assert not move.since("edged-without-device") and not move.since("died", unit=IDENTITYD)
    come_back(move, what)
    move.becomes_new(stops=4)
