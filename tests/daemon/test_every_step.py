"""Suite "daemon": every kind of death and failure in every step; the gateway recovers from each.

A point is a step, what happens in it, how IoT Edge gets its identity, and whether the gateway is new or moves to another
hub. A case goes through its points in one fixture. Registrations, tokens, stops and starts are counted at the emulator and
at the fake systemd. The summary has the number of points.
"""
import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import types
from typing import NamedTuple

import pytest
from handoff import APPLY, EDGED, IDENTITYD, Caller, stopped_path
from harness import SCOPE, wait_for
from power import Since, boot, power_cut
from script_client import EK, SRK, Script

LONG = 50          # seconds: until the fault is taken away
WAIT = 30          # seconds between attempts, which the test lets pass
REFILL = 4 * 3600  # seconds after which the registration budget is full again
BUSY = "0x902"     # TPM_RC_OBJECT_MEMORY: neither the TSS nor lib/tpm asks again
HUB_KEY = "0x81000100"
HANDOFFD, TPMD = "dps-handoffd", "dps-tpmd"
UNITS = (EDGED, IDENTITYD, "aziot-tpmd.service")
RETRY = {f"{kind}Sec": WAIT for kind in ("Initial", "Max", "ThrottledMax", "OperatorInitial", "OperatorMax",
                                         "OperatorLongMax")}


class Tpm(NamedTuple):
    """The n-th such command of the attempt."""
    command: str
    nth: int = 1
    helper: str = TPMD


class Dps(NamedTuple):
    """A request. `helper`: who holds IoT Edge meanwhile, in a move."""
    kind: str
    helper: str = None


class Edge(NamedTuple):
    """The fakes' faults that hold the step, and that make it fail. VERIFY sends no request: pausing its helper holds it, an
    unreadable file makes it fail."""
    hold: dict = None
    fail: dict = None
    helper: str = HANDOFFD


STEPS = {
    "identity": Tpm("GetCapability"),
    "prepare": Edge({"slow": LONG}, {"units": {IDENTITYD: {"load": "masked"}}}),
    "register": Dps("register"),
    "activate": Tpm("ActivateCredential"),
    "quiesce": Edge({"slow": LONG}, {"units": {IDENTITYD: {"stop": "failed"}}}),
    "confirm": Dps("confirm", HANDOFFD),
    "poll": Dps("poll", HANDOFFD),
    "import": Tpm("ActivateCredential", 2),
    "adopt": Tpm("EvictControl"),
    "adopt without a key": Tpm("EvictControl", 2),  # the old key is gone, the new one is not persistent yet
    "handoff": Edge({"units": {unit: {"delay": LONG} for unit in (APPLY, EDGED)}},
                    {"apply": "told to fail", "units": {EDGED: {"start": "fail"}}}),
    "verify": Edge(),
}
IN_A_MOVE = ("quiesce", "adopt without a key", "verify")
OF_A_KEY = ("import", "adopt", "adopt without a key")
# In a move IoT Edge is started as the old device, when its key is gone or is the new device's. So it registers itself.
KEYLESS = [("adopt", "daemon"), ("adopt without a key", "daemon"), ("adopt without a key", "reboot")]


def steps_of(identity, moves, event):
    for name, step in STEPS.items():
        occurs = ((moves or name not in IN_A_MOVE) and (identity != "register" or name not in OF_A_KEY) and
                  (identity != "none" or not isinstance(step, Edge)))
        holds = moves and identity != "none" or not isinstance(step, Dps)
        if occurs and (event != "helper" or step.helper and holds):
            yield name


def is_ours(request):
    return request.get("userAgent", "").startswith("dps-provisiond/")


class Gateway:
    def __init__(self, new_world, identity, moves):
        self.edge, self.identity, self.moves = identity != "none", identity, moves
        self.w = new_world(emulator=["--rotate-keys"], emulator_clock=True, Retry=RETRY,
                           HandOff={"Identity": identity} if self.edge else {"Target": "none"})
        self.hubs = (f"hub-{n}.localhost:{self.w.port}" for n in itertools.count(1))
        self.hub = self.since = None
        self.paused = []
        self.no_faults()
        if self.edge:
            self.w.start_standins()

    def set_up(self, name):
        """Before the point: a gateway without provisioning, or one that works and whose enrollment names another hub."""
        w = self.w
        if self.hub is None and self.moves:
            self.enroll(next(self.hubs))
            self.since = Since(w)
            self.start_daemon()
            self.settle()
        if self.moves:
            w.let_pass(REFILL)
        elif self.hub:
            self.make_new()
        if name != "verify":
            self.enroll(next(self.hubs))
        self.since, self.commands = Since(w), len(w.tpm_commands())

    def enroll(self, hub, **rules):
        self.hub = hub
        self.w.enroll(self.w.enrollment(capabilities={"iotEdge": self.edge}, iotHubHostName=hub, **rules))

    def make_new(self):
        w = self.w
        w.stop_daemon(signal.SIGKILL)
        self.kill(HANDOFFD, TPMD)
        if self.edge:
            w.standins.kill()
        for directory in ("etc", "var", "run"):
            shutil.rmtree(w.root / directory, ignore_errors=True)
        (w.dir / "state/state.json").unlink()
        w.tpm2("evictcontrol", "-c", HUB_KEY)
        if self.edge:
            w.start_standins()

    def start_daemon(self):
        self.w.start_daemon(environment=self.w.clock())

    def begin(self, name):
        """Makes the daemon go through the steps."""
        if name == "verify":
            self.w.stop_daemon()
        if name == "verify" or not self.moves:
            self.start_daemon()
        else:
            self.w.bus.call("Reprovision")

    # --- what happens ---

    def faults(self, *lines):
        """The old hub keeps the device, so that IoT Edge works there until it is handed over."""
        self.w.faults("keep-old-device", *lines)

    def no_faults(self):
        self.w.tpm_faults()
        self.faults()
        self.w.standin_faults()
        for pid in self.paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.paused = []

    def tpm_fault(self, step, **what):
        self.w.tpm_faults(rules=[{**what, "command": step.command, "nth": step.nth}])

    def hold(self, name):
        step = STEPS[name]
        if isinstance(step, Tpm):
            self.tpm_fault(step, delay=LONG)
        elif isinstance(step, Dps):
            self.faults(f"slow:{step.kind}={LONG}")
        elif step.hold:
            self.w.standin_faults(**step.hold)
        else:
            self.w.bus.introspect("org.dps.HandOff1")  # it runs, and stops
            self.paused = self.w.helper_pids(HANDOFFD)
            for pid in self.paused:
                os.kill(pid, signal.SIGSTOP)

    def is_at_work(self, name):
        step, since = STEPS[name], self.since
        if isinstance(step, Tpm):
            return self.w.tpm_commands()[self.commands:].count(step.command) >= step.nth
        if isinstance(step, Dps):
            return any(is_ours(request) for request in since.requests(kind=step.kind))
        if name == "handoff":
            return since.events("start", unit=APPLY) or since.events("start", unit=EDGED)
        return self.w.helper_pids(HANDOFFD)

    def pass_poll_wait(self, properties):
        if properties["Step"] == "poll" and not self.is_at_work("poll"):
            self.w.let_pass(1)

    def hold_in(self, name):
        w, before = self.w, "activate" if name == "quiesce" else name
        self.hold(before)
        self.begin(name)
        if name == "quiesce":  # PREPARE asks the same helper
            w.wait(before, lambda p: p["Step"] == before and self.is_at_work(before))
            self.hold(name)
            assert w.bus.properties()["Step"] == before, "the TPM did not hold it"
            w.tpm_faults()

        def met(p):
            self.pass_poll_wait(p)
            return p["Step"] == name.partition(" ")[0] and self.is_at_work(name)
        w.wait(name, met)

    def kill(self, *helpers):
        for name in helpers:
            old = set(self.w.helper_pids(name))
            self.w.kill_helper(name)
            wait_for(f"the end of {name}", lambda n=name, o=old: not o & set(self.w.helper_pids(n)))

    def strike(self, name, event):
        w, helper = self.w, STEPS[name].helper
        if event == "daemon":
            w.stop_daemon(signal.SIGKILL)
            self.no_faults()
            self.start_daemon()
        elif event == "helper":
            assert w.helper_pids(helper)
            self.kill(helper)
            if helper == TPMD:  # as the kernel's resource manager does
                for kind in ("-t", "-l", "-s"):
                    w.tpm2("flushcontext", kind)
            self.no_faults()
        else:
            power_cut(w)
            self.no_faults()
            if self.edge:
                boot(w)
            w.start_daemon(environment=w.rebooted_clock())

    def fail_once(self, name):
        w, step = self.w, STEPS[name]
        lines = w.daemon.lines if w.daemon and self.moves and name != "verify" else []
        seen, away = len(lines), w.config_toml.with_name("away")
        if isinstance(step, Dps):
            self.enroll(self.hub, emulator=[{"status": 503, "on": step.kind, "times": 1}])
        elif isinstance(step, Tpm):
            self.tpm_fault(step, answer=BUSY)
        elif step.fail:
            w.standin_faults(**step.fail)
        else:
            w.config_toml.rename(away)
            w.config_toml.mkdir()
        self.begin(name)

        def met(p):
            self.pass_poll_wait(p)
            return any("DPS_FAILURE=" in line for line in w.daemon.lines[seen:])
        w.wait("the failure", met)
        if away.exists():
            w.config_toml.rmdir()
            away.rename(w.config_toml)
        self.no_faults()

    def settle(self):
        """Lets the waits pass; returns the properties at the end."""
        w, begun = self.w, self.w.passed
        while True:
            p = w.wait("rest or a wait", lambda p: p["Step"] in ("wait", "idle", "poll"))
            if (p["Step"], p["State"], p["AssignedHub"]) == ("idle", "handed-off", self.hub):
                return p
            assert w.passed - begun < 20 * WAIT, p
            w.let_pass(max(math.ceil(p["NextAttemptUSec"] / 1e6 - w.now()), 1))

    # --- afterwards ---

    def stored(self):
        return json.loads((self.w.dir / "state/state.json").read_text())

    def signs(self, device):
        """Whether the hub accepts a token that the key at the handle has signed."""
        w = self.w

        def hmac(key, text):
            (w.dir / "text").write_text(text)
            w.tpm2("hmac", "-c", key, "-g", "sha256", "-o", "mac", "text")
            return (w.dir / "mac").read_bytes()
        script = Script(f"https://localhost:{w.port}", w.dir / "emulator/ca.pem", types.SimpleNamespace(hmac=hmac), SCOPE,
                        device, life=w.passed + 3600)
        return script.modules(self.hub, device, HUB_KEY).status == 200

    def check(self, name, event, p):
        w, stored, device = self.w, self.stored(), p["DeviceId"]
        confirms = self.since.requests(kind="confirm")
        ours = [request["status"] for request in confirms if is_ours(request)]
        if name == "verify":
            assert not self.since.requests(kind="register")
        else:  # DPS may have counted a confirmation that it answers with 503
            again = (name, event) == ("confirm", "fail") or name in ("confirm", "poll") and event in ("daemon", "reboot")
            assert len(ours) == 1 + again and set(ours) <= {202, 503}
            assert stored["registrationsSpent"] == len(ours)
        for which in ("intended", "confirmed"):
            assert (stored[which]["hub"], stored[which]["deviceId"]) == (self.hub, device)
        assert p["LastError"][0] == "" and w.persistent_handles() == [SRK, HUB_KEY, EK] and self.signs(device)
        if self.edge:
            self.check_edge(name, event, device, len(confirms) - len(ours))

    def check_edge(self, name, event, device, theirs):
        """IoT Edge runs as the new device. `theirs`: how many registrations identityd has confirmed."""
        since = self.since
        if name != "verify":
            since.wait_for_event("edged-device", hub=self.hub, device=device)
        wait_for("what was stopped to be started", lambda: not stopped_path(self.w).exists())
        with Caller(self.w) as caller:
            for unit in UNITS:
                wait_for(f"{unit} to run", lambda u=unit: caller.unit(u) == "active")
        if self.identity == "register":
            assert theirs == (name != "verify")
        elif self.moves and (name, event) in KEYLESS:
            assert theirs <= 1
        else:
            assert theirs == 0 and not since.events("registers-itself") and since.refusals() == []
        tries = 0 if name == "verify" else 2 if name == "handoff" else 1
        assert len(since.events("stop", unit=EDGED)) <= tries


@pytest.mark.parametrize("event", ["daemon", "helper", "reboot", "fail"])
@pytest.mark.parametrize("moves", [False, True], ids=["new", "move"])
@pytest.mark.parametrize("identity", ["adopt", "register", "none"])
def test_every_step(new_world, record_property, identity, moves, event):
    gateway = Gateway(new_world, identity, moves)
    names = list(steps_of(identity, moves, event))
    for name in names:
        gateway.set_up(name)
        if event == "fail":
            gateway.fail_once(name)
        else:
            gateway.hold_in(name)
            gateway.strike(name, event)
        gateway.check(name, event, gateway.settle())
    record_property("points of every step", len(names))
