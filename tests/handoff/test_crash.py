"""Suite "handoff": the helper is killed at every system call of Apply that changes a file or tells somebody something.

One run for each such call. What lies on the disk then is whole, the old or the new; the next call finishes the work;
nothing is left over and nothing stays stopped. The summary says how many points were tried.
"""
import json
import re
import subprocess

import dbus_next
import pytest
from handoff import (members, APPLY, EDGED, IDENTITYD, OPERATORS, SERVICES, SOCKETS, Caller, Gateway, backups, info_path,
                     info_text, queued, record, record_path, snapshot, stopped_path, temporary_files)
from harness import BUILD, wait_for

SHARDS = 4
# where to kill has nothing to do with what a sanitizer finds, nor with the lines that are run
STEP = 5 * SHARDS if re.search("asan|coverage", str(BUILD)) else SHARDS
KILLED = 77  # crash-at's exit status


def crash_at(world, n):
    return [BUILD / "tests/tools/crash-at", f"--log={world.dir}/calls", str(n)]


def runs(caller, unit):
    return caller.unit(unit) == "active"


def killed_apply(gateway, caller, n):
    """Apply, killed at its n-th call; the name of that call, or None when there are fewer. It may have been about to
    fail."""
    w = gateway.world
    helper = caller.start_helper(*crash_at(w, n))
    reply = caller.outcome("Apply", "a{sv}b", members(**gateway.assignment()), False)
    done = reply.message_type == dbus_next.MessageType.METHOD_RETURN
    ended = done or reply.error_name.endswith("apply_failed")
    try:
        assert helper.process.wait(1 if ended else 10) == KILLED
    except subprocess.TimeoutExpired:
        assert ended
        caller.stop_helper()
        return None
    assert ended or reply.error_name == "org.freedesktop.DBus.Error.NoReply", reply.body
    return (w.dir / "calls").read_text().splitlines()[-1]  # done: by the next helper, this one had just begun


def text_of(path):
    return path.read_text() if path.exists() else None


def check_wholeness(gateway, old, new):
    """What a power cut here would leave; identityd, which is not ours, may be writing at this moment."""
    w = gateway.world
    config = text_of(w.config_toml)
    assert config in (old["config"], new["config"])
    sets = [old["info"], new["info"]] if config == new["config"] else [old["info"]]  # config.toml comes first
    wait_for("a whole device_info", lambda: text_of(info_path(w)) in sets)
    if record_path(w).exists():
        assert set(json.loads(record_path(w).read_text())) >= {"handedOff"}
    for path in backups(w):
        assert path.read_text() == old["config"]
    assert len(temporary_files(w)) <= 3
    if stopped_path(w).exists():
        assert set(stopped_path(w).read_text().splitlines()) <= {*SERVICES, *SOCKETS}


def check_finished(gateway, caller, new):
    w = gateway.world
    caller.apply(**gateway.assignment())
    assert w.config_toml.read_text() == new["config"]
    assert info_path(w).read_text() == new["info"]
    after = record(w)
    assert after["handedOff"] and after["hub"] == gateway.hub and "pending" not in after and "previousHub" not in after
    assert len(backups(w)) == 1 and not temporary_files(w) and not stopped_path(w).exists()
    for unit in (EDGED, IDENTITYD, *SOCKETS):
        wait_for(f"{unit} to run", lambda u=unit: runs(caller, u))


@pytest.mark.parametrize("scenario, shard", [(s, n) for s in ("move", "first", "undo") for n in range(SHARDS)])
@pytest.mark.smoke
def test_killed_at_every_call(new_world, record_property, scenario, shard):
    """IoT Edge runs and moves to another hub under another registration ID, or gets its first identity, or is to move and
    `iotedge config apply` fails in the middle, so that the old files are put back.

    Takes half a minute, and a minute with the release build, most of it processor time: each call has a separate run,
    below a tracer.
    """
    gateway = Gateway(new_world())
    w = gateway.world
    points = []
    with Caller(w) as caller:
        gateway.make_new() if scenario == "first" else gateway.make_old(caller)
        gateway.save()
        old = {"config": w.config_toml.read_text(), "info": text_of(info_path(w))}
        caller.apply(**gateway.assignment())
        new = {"config": w.config_toml.read_text(), "info": info_text(gateway.hub, gateway.device)}
        assert old["config"] != new["config"] and new["config"].startswith(OPERATORS)
        for n in range(shard + 1, 1000, STEP):
            gateway.restore_new(caller) if scenario == "first" else gateway.restore()
            if scenario == "undo":
                w.standin_faults(**{"apply-breaks": ["identityd", "whole"]})
            point = killed_apply(gateway, caller, n)
            if point is None:
                break
            w.standin_faults()
            check_wholeness(gateway, old, new)
            check_finished(gateway, caller, new)
            points.append(point)
    record_property("crash points", len(points))
    assert len(points) > 20 * SHARDS / STEP
    assert not w.standin_events("registers-itself")


def test_what_is_renamed_is_on_the_disk(new_world):
    """A power cut keeps what was written only if it was synced: the file before its new name, the directory after."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        gateway.make_old(caller)
        killed_apply(gateway, caller, 0)
    calls = [line.split(" ", 2)[1:] for line in (w.dir / "calls").read_text().splitlines()]
    renames = [i for i, (name, _) in enumerate(calls) if name == "rename"]
    names = {re.sub(r"^\.|\.dps-\w{6}$", "", calls[i][1]) for i in renames}
    assert {"config.toml", "device_info", "record.json", "stopped"} <= names
    for i in renames:
        assert [name for name, path in calls[:i] if path.endswith(calls[i][1])][-1] == "fsync"
        assert calls[i + 1][0] == "fsync" and not calls[i + 1][1].endswith(calls[i][1])
    assert [path for name, path in calls if name == "link"] == ["config.toml"]  # the backup
    for i in (i for i, (name, path) in enumerate(calls) if (name, path) in (("unlink", "stopped"), ("link", "config.toml"))):
        assert calls[i + 1][0] == "fsync"


def test_nothing_to_do_changes_nothing(new_world):
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        before, jobs = snapshot(w), len(queued(w))
        for _ in range(2):
            assert caller.apply(**gateway.assignment())["changed"] is False
        killed_apply(gateway, caller, 0)
        assert snapshot(w) == before and len(queued(w)) == jobs
    assert {line.split(" ")[1] for line in (w.dir / "calls").read_text().splitlines()} <= {"send", "mkdir", "unlink"}
    assert APPLY not in [unit for _, unit in queued(w)[jobs:]]
