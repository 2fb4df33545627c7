#!/usr/bin/python3
"""Which State the daemon publishes at its start: the inputs, and the way to ask a build.

    BUILD=DIR tests/daemon/state_at_start.py >tests/daemon/state-at-start.csv

One line per state file of version 1 and content of the TPM, one column per configuration. A cell is the first State
that is published, then, if it differs, the one that stays. A daemon that connects to DPS adds " dps". Nothing answers:
connections to DPS are refused, the hand-off helper is not there, and the TPM helper answers Identity only.
"""
import base64
import csv
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fixture"))

import dbus_next  # noqa: E402
from bus import Bus  # noqa: E402
from harness import BUS_CONFIG, NAME, SCOPE  # noqa: E402
from observe import BUILD, DEADLINE, Timeout, listens, reserve_port, wait_for  # noqa: E402

TPM = "org.dps.Tpm1"
HANDLE = 0x81000100


# --- what the TPM holds ---

class Key:
    """A wrapped hub key and its TPM name (TPM 2.0 part 1, 16): the hash algorithm and the digest of the public area."""

    def __init__(self, seed):
        unique = hashlib.sha256(seed).digest()
        area = bytes.fromhex("0008 000b 00040472 0000 0005 000b 0020") + unique  # TPMT_PUBLIC of an HMAC key
        self.public = len(area).to_bytes(2, "big") + area
        self.private = (126).to_bytes(2, "big") + bytes(126)
        self.name = b"\x00\x0b" + hashlib.sha256(area).digest()


EK, OTHER_EK, SRK = b"\x01\x3a" + b"E" * 314, b"\x01\x3a" + b"e" * 314, b"\x01\x3a" + b"S" * 314
OLD_KEY, NEW_KEY, FOREIGN_KEY = Key(b"old"), Key(b"new"), Key(b"foreign")

# What Identity answers: the endorsement key, the kind of object at the hub key's handle, its name, and whether the
# owner authorization is known. A kind of None: the key that the record says was adopted.
TPMS = {
    "as recorded": (EK, None, None, True),
    "unreadable": None,
    "another": (OTHER_EK, "empty", b"", True),
    "handle empty": (EK, "empty", b"", True),
    "another hub key": (EK, "hmac", FOREIGN_KEY.name, True),
    "another object": (EK, "foreign", FOREIGN_KEY.name, True),
    "owner unknown": (EK, None, None, False),
}
EVERYWHERE = ("as recorded", "unreadable", "another")  # the others in some columns only


# --- the configurations ---

TARGETS = {"none": {"HandOff": {"Target": "none"}}, "iotedge": {}}
CHANGES = {
    "usable": {},
    "broken": {"Network": {"RequestTimeoutSec": "soon"}},
    "broken Identity": {"HandOff": {"Identity": "registers"}},
    "no scope": {"Provisioning": {"IdScope": None}},
    "IdScope": {"Provisioning": {"IdScope": "0ne00OTHER1"}},
    "GlobalEndpoint": {"Provisioning": {"GlobalEndpoint": "https://127.0.0.1:{port}"}},
    "RegistrationId": {"Provisioning": {"RegistrationId": "renamed-1"}},
    "HubKeyHandle": {"Tpm": {"HubKeyHandle": "0x81000105"}},
    "Identity": {"HandOff": {"Identity": "register"}},
}
LOOKS_AT_HANDLE = ("usable", "HubKeyHandle")
CONFIGURATIONS = {f"{target}: {change}": (TARGETS[target], CHANGES[change]) for target in TARGETS for change in CHANGES}


def configuration(name, port):
    sections = {"Provisioning": {"IdScope": SCOPE, "GlobalEndpoint": "https://localhost:{port}"}, "Tpm": {},
                "Network": {}, "Retry": {"InitialSec": 600, "MaxSec": 600},
                "HandOff": {"AllowedHubs": "localhost *.localhost"}}
    for changes in CONFIGURATIONS[name]:
        for section, keys in changes.items():
            sections[section].update(keys)
    return "".join(f"[{section}]\n" + "".join(f"{key}={value}\n" for key, value in keys.items() if value is not None)
                   for section, keys in sections.items()).replace("{port}", str(port))


# --- the state files, version 1 ---

def records(port, now=None):
    """Every state, and in each what the steps of d4a0379 leave on disk. None: no file."""
    now = int((now or time.time()) * 1_000_000)
    hour = 3_600_000_000

    def b64(data):
        return base64.b64encode(data).decode()

    def record(state, *parts, **more):
        found = {"version": 1, "state": state, "stateChangedUSec": now - hour}
        for part in parts:
            found.update(part)
        return {**found, **more}

    whom = {"idScope": SCOPE, "globalEndpoint": f"https://localhost:{port}",
            "registrationId": hashlib.sha256(EK).hexdigest(), "endorsementKeyHash": hashlib.sha256(EK).hexdigest()}
    old = {**whom, "hub": "old.localhost", "deviceId": "gw-1", "substatus": "initialAssignment"}
    new = {**whom, "hub": "new.localhost", "deviceId": "gw-1", "substatus": "initialAssignment"}
    confirmed = {"provenHub": "old.localhost", "provenDeviceId": "gw-1", "lastSuccessUSec": now - hour}
    confirmed_new = {**confirmed, "provenHub": "new.localhost"}
    old_wrapped = {"keyPrivate": b64(OLD_KEY.private), "keyPublic": b64(OLD_KEY.public)}
    new_wrapped = {"keyPrivate": b64(NEW_KEY.private), "keyPublic": b64(NEW_KEY.public)}
    old_name, new_name = {"keyName": b64(OLD_KEY.name)}, {"keyName": b64(NEW_KEY.name)}
    changed = {"keyChanged": 1}

    def handed(target="iotedge", identity="adopt", handle=HANDLE):
        return {**confirmed, "target": target, "identity": identity, "hubKeyHandle": handle}

    adopted = (old, old_wrapped, old_name, handed())
    backoff = {"attempts": 3, "transientFailures": 3, "nextAttemptUSec": now + hour}
    throttled = {"attempts": 1, "throttledWaitedUSec": 3600000000, "throttled": 1, "nextAttemptUSec": now + hour}
    reset = {"reset": 1}

    return {
        "none": None,
        "damaged": "{",
        "newer version": {**record("handed-off", *adopted), "version": 99},
        "handed-off without a hub": record("handed-off", whom),

        "unprovisioned": record("unprovisioned"),
        "unprovisioned, an older assignment": record("unprovisioned", *adopted),
        "reset due": record("unprovisioned", *adopted, reset),
        "reset due, asked for when handed-off": record("handed-off", *adopted, reset),
        "reset due, asked for when attesting": record("attesting", reset),

        "attesting": record("attesting"),
        "attesting, backoff": record("attesting", backoff),
        "attesting, throttled": record("attesting", throttled),
        "attesting, an older assignment": record("attesting", *adopted),
        "attesting, an older assignment, target none": record("attesting", old, old_wrapped, old_name, handed("none")),
        "attesting, an older assignment, register": record("attesting", old, handed(identity="register")),
        "attesting, an older assignment, throttled": record("attesting", *adopted, throttled),
        "attesting, assigned just now": record("attesting", new),
        "attesting, assigned the confirmed hub again": record("attesting", old, old_name, handed()),
        "attesting, assigned another hub": record("attesting", new, old_name, handed()),
        "attesting, assigned another hub, register": record("attesting", new, handed(identity="register")),

        "assigned, key wrapped": record("assigned", new, new_wrapped),
        "assigned, key wrapped, same hub confirmed": record("assigned", old, new_wrapped, old_name, handed()),
        "assigned, key wrapped, other hub confirmed": record("assigned", new, new_wrapped, old_name, handed()),
        "assigned, key adopted": record("assigned", new, new_wrapped, new_name, changed),
        "assigned, key adopted, backoff": record("assigned", new, new_wrapped, new_name, changed, backoff),
        "assigned, key adopted, same hub confirmed": record("assigned", old, new_wrapped, new_name, changed, handed()),
        "assigned, key adopted, other hub confirmed": record("assigned", new, new_wrapped, new_name, changed, handed()),
        "assigned, without key": record("assigned", new),
        "assigned, without key, same hub confirmed": record("assigned", old, handed(identity="register")),
        "assigned, without key, other hub confirmed": record("assigned", new, handed(identity="register")),
        "assigned, retarget": record("assigned", new, new_wrapped, new_name, confirmed_new,
                                     {"target": "none", "identity": "adopt", "hubKeyHandle": 0x81000107}),

        "handed-off iotedge, adopt": record("handed-off", *adopted),
        "handed-off iotedge, register": record("handed-off", old, handed(identity="register")),
        "handed-off none, adopt": record("handed-off", old, old_wrapped, old_name, handed("none")),
        "handed-off none, register": record("handed-off", old, handed("none", "register")),
        "handed-off, IoT Edge was provisioned already": record("handed-off", old, handed()),
        "handed-off, key replaced by IoT Edge": record("handed-off", old, old_name, handed()),
    }


def adopted_name(record):
    return base64.b64decode(record.get("keyName", "")) if isinstance(record, dict) else b""


def tpms_of(record):
    """The contents of the handle are tried with each assignment and once without any. "As recorded" is an empty handle
    where no key was adopted."""
    tried = isinstance(record, dict) and "reset" not in record and ("hub" in record or len(record) == 3)
    return [name for name in TPMS
            if name in EVERYWHERE or tried and (adopted_name(record) or name != "handle empty")]


def identity(record, configuration_name, tpm):
    """The TPM helper's answer, or None."""
    if not TPMS[tpm]:
        return None
    ek, kind, name, owner = TPMS[tpm]
    if kind is None:
        moved = "HubKeyHandle" in configuration_name  # nothing of ours is at the other handle
        name = b"" if moved else adopted_name(record)
        kind = "hmac" if name else "empty"
    values = {"endorsementKey": ("ay", ek), "storageRootKey": ("ay", SRK), "hubKeyState": ("s", kind),
              "hubKeyName": ("ay", name), "ownerAuthUsable": ("b", owner), "storageRootKeyUnsuitable": ("b", False)}
    return {key: dbus_next.Variant(*value) for key, value in values.items()}


# --- the daemon between fakes ---

class Fixture:
    """A private bus with the TPM helper's fake on it, and a port that nobody listens on."""

    def __init__(self):
        memory = "/dev/shm"  # the daemon waits for each write to reach the disk
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="dps-", dir=memory if os.access(memory, os.W_OK) else None))
        (self.dir / "state").mkdir()
        (self.dir / "services").mkdir()
        self.config_path = self.dir / "provisiond.conf"
        self.port, self.reserved = reserve_port()
        self.environment = {**{k: v for k, v in os.environ.items() if "proxy" not in k.lower()},
                            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.dir}/bus",
                            "ASAN_OPTIONS": f"log_path={self.dir}/asan:detect_leaks=1",
                            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}
        self.environment.pop("JOURNAL_STREAM", None)
        self.bus = Bus(self.environment["DBUS_SYSTEM_BUS_ADDRESS"], NAME)
        self.daemon = self.identity = None
        self.tpm_calls = 0
        (self.dir / "bus.conf").write_text(BUS_CONFIG.format(dir=self.dir))
        self.bus_process = subprocess.Popen(["dbus-daemon", f"--config-file={self.dir}/bus.conf", "--nofork",
                                             "--nopidfile", "--nosyslog"], stderr=subprocess.DEVNULL)

    def __enter__(self):
        wait_for("the bus", lambda: listens(self.dir / "bus"))
        self.bus.own(TPM, self.on_call)
        return self

    def __exit__(self, *_):
        self.end_daemon()
        self.bus.close()
        self.bus_process.terminate()
        self.bus_process.wait()
        for sock in self.reserved:
            sock.close()
        reports = "\n".join(path.read_text() for path in self.dir.glob("asan.*"))
        shutil.rmtree(self.dir, ignore_errors=True)
        assert not reports, reports

    def on_call(self, call):
        if call.interface != TPM:
            return None
        self.tpm_calls += 1
        if call.member == "Identity" and self.identity:
            return dbus_next.Message.new_method_return(call, "a{sv}", [self.identity])
        kind = "tpm_failed" if self.identity else "tpm_missing"
        return dbus_next.Message.new_error(call, f"org.dps.Failure.{kind}", "The fake does nothing")

    def prepare(self, record, configuration_name, tpm):
        self.config_path.write_text(configuration(configuration_name, self.port))
        for path in (self.dir / "state").iterdir():
            path.unlink()
        if record is not None:
            (self.dir / "state/state.json").write_text(record if isinstance(record, str) else json.dumps(record))
        self.identity = identity(record, configuration_name, tpm)
        self.tpm_calls = 0

    def start_daemon(self):
        self.bus.changes.clear()
        with open(self.dir / "daemon.log", "wb") as log:
            self.daemon = subprocess.Popen(
                [BUILD / "daemon/provisiond/dps-provisiond", f"--config={self.config_path}",
                 f"--state-dir={self.dir}/state", "--log-target=stderr"],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end_daemon(self):
        if self.daemon:
            self.daemon.send_signal(signal.SIGTERM)
            assert self.daemon.wait(DEADLINE) == 0, self.log()
            self.daemon = None

    def log(self):
        return (self.dir / "daemon.log").read_text()

    def properties(self):
        return {key: value for change in list(self.bus.changes) for key, value in change.items()}

    def settle(self):
        """Until the daemon rests or waits after a failure; returns the properties."""
        try:
            self.bus.wait_for("rest", lambda: self.properties().get("Step") in ("idle", "wait"))
        except Timeout as timeout:
            raise Timeout(f"{timeout}: {self.properties()}\n{self.log()}") from None
        return self.properties()

    def cell(self, record, configuration_name, tpm):
        self.prepare(record, configuration_name, tpm)
        self.start_daemon()
        properties = self.settle()
        first, last = self.bus.changes[0]["State"], properties["State"]
        self.end_daemon()
        asked = " dps" if properties["LastError"][0] == "connect" else ""
        return (first if first == last else f"{first} {last}") + asked


def row(fixture, record, names):
    """{tpm: {configuration: cell}}; a cell that is not asked for is "-"."""
    cells = {tpm: dict.fromkeys(names, "-") for tpm in tpms_of(record)}
    for name in names:
        wanted = [tpm for tpm in cells if tpm in EVERYWHERE or name.partition(": ")[2] in LOOKS_AT_HANDLE]
        for tpm in wanted:
            cells[tpm][name] = fixture.cell(record, name, tpm)
            if fixture.tpm_calls == 0:  # then the TPM's content makes no difference
                for other in wanted:
                    cells[other][name] = cells[tpm][name]
                break
    return cells


def main():
    with Fixture() as fixture:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["record", "tpm", *CONFIGURATIONS])
        for name, record in records(fixture.port).items():
            for tpm, cells in row(fixture, record, list(CONFIGURATIONS)).items():
                writer.writerow([name, tpm, *cells.values()])


if __name__ == "__main__":
    main()
