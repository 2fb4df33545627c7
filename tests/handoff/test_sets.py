"""Suite "handoff": `iotedge config apply` fails in each way that the fake knows. config.toml, device_info and the five
applied copies are then all old or all new, and the units are as before."""
import json
import os
import pathlib
import signal

import pytest
from handoff import (APPLY, EDGED, IDENTITYD, SERVICES, SOCKETS, Caller, Gateway, info_path, info_text, queued, record_path,
                     stopped_path, temporary_files)
from harness import BUILD, wait_for

# faults of the fake → what the hand-off fails with
WAYS = {
    "refused": ({"apply": "told to fail"}, "apply-failed"),
    "user missing": ({"apply-user-missing": "aziotid"}, "apply-failed"),
    "no file": ({"apply-breaks": ["keyd", "missing"]}, "apply-failed"),
    "half of the second": ({"apply-breaks": ["certd", "half"]}, "apply-failed"),
    "two of five": ({"apply-breaks": ["certd", "whole"]}, "apply-failed"),
    "identityd's missing": ({"apply-breaks": ["identityd", "missing"]}, "apply-failed"),
    "half of identityd's": ({"apply-breaks": ["identityd", "half"]}, "apply-failed"),
    "three of five": ({"apply-breaks": ["identityd", "whole"]}, "apply-failed"),
    "half of the last": ({"apply-breaks": ["edged", "half"]}, "apply-failed"),
    "killed while stopping": ({"apply-ends-after": ["stop", "aziot-keyd.service"]}, "apply-failed"),
    "killed while starting": ({"apply-ends-after": ["start", "aziot-identityd.socket"]}, "apply-failed"),
    "killed at the end": ({"apply-ends-after": ["start", EDGED]}, "apply-failed"),
    "writes nothing": ({"apply-skips-files": True}, "apply-failed"),
    "aziot-edged does not start": ({"units": {EDGED: {"start": "fail"}}}, "restart-failed"),
    "aziot-edged ends at once": ({"units": {EDGED: {"start": "flap"}}}, "restart-failed"),
    "killed by systemd": ({"units": {APPLY: {"start": "timeout"}}}, "apply-failed"),
}


def text_of(path):
    return path.read_text() if path.exists() else None


def record_of(world):
    path = record_path(world)
    return json.loads(path.read_text()) if path.exists() else {"handedOff": False}


def files(world):
    """config.toml and device_info, and the five applied copies with mode and owner."""
    seen = []
    wait_for("identityd, which writes in place", lambda: seen.append(text_of(info_path(world))) or seen[-1] != "")
    copies = {path.parts[-3]: (path.read_text(), path.stat().st_mode, path.stat().st_uid, path.stat().st_gid)
              for path in world.root.glob("etc/aziot/*/config.d/00-super.toml")}
    return (text_of(world.config_toml), seen[-1]), copies


def units(caller):
    return {name: caller.unit(name) == "active" for name in (*SERVICES, *SOCKETS)}


def settled(caller, name, runs):
    wait_for(f"{name} to {'run' if runs else 'end'}", lambda: (caller.unit(name) == "active") == runs)


def starts_of_edged(world, since):
    events = world.standin_events()[since:]
    return [e["event"] for e in events if e.get("unit") == EDGED and e["event"] in ("start", "stop")]


@pytest.mark.parametrize("scenario", ["first", "first, key replaced", "move", "move, key replaced"])
@pytest.mark.parametrize("part", range(2))
def test_old_set_or_new_set(new_world, scenario, part):
    """After each failure an attempt that works, which stops and starts aziot-edged once."""
    gateway = Gateway(new_world())
    w, move, replaced = gateway.world, "move" in scenario, "replaced" in scenario
    with Caller(w) as caller:
        gateway.make_old(caller) if move else gateway.make_new()
        gateway.save()
        for way, (faults, kind) in list(WAYS.items())[part::2]:
            gateway.restore() if move else gateway.restore_new(caller)
            if move:
                settled(caller, "aziot-identityd.service", True)
            before, running, record = files(w), units(caller), record_of(w)
            w.standin_faults(**faults)
            found, sentence = caller.apply_refused(**gateway.assignment(keyChanged=replaced))
            assert found == kind, (way, sentence)
            w.standin_faults()
            after = files(w)
            if (move and replaced) or (not move and kind == "restart-failed"):  # there the new set stays
                assert after[0][1] == info_text(gateway.hub, gateway.device) and gateway.id in after[0][0], way
                assert kind == "restart-failed" or after[1] == before[1], way
            else:
                assert after == before, way
                assert record_of(w) == record, way
            assert not temporary_files(w) and not list(w.root.glob("etc/aziot/*/config.d/.*")), way
            if kind != "restart-failed":
                assert not stopped_path(w).exists(), way
                for name, runs in running.items():
                    settled(caller, name, runs)
            seen = len(w.standin_events())
            caller.stop_helper()
            caller.apply(**gateway.assignment(keyChanged=replaced))
            assert files(w)[0][1] == info_text(gateway.hub, gateway.device), way
            assert len(files(w)[1]) == 5 and gateway.id in files(w)[1]["identityd"][0], way
            if kind != "restart-failed":
                assert starts_of_edged(w, seen) == (["stop", "start"] if move else ["start"]), way
    assert not w.standin_events("registers-itself")


@pytest.mark.root
@pytest.mark.parametrize("name", ["certd", "identityd"])
def test_copy_that_is_a_link(new_world, name):
    """`iotedge config apply` replaces the link by a file. A hand-off that fails puts the link back."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        gateway.make_old(caller)
        path, target = w.root / f"etc/aziot/{name}/config.d/00-super.toml", w.root / f"etc/aziot/{name}/by-hand.toml"
        path.rename(target)
        path.symlink_to("../by-hand.toml")
        os.chown(path, 1234, 4321, follow_symlinks=False)
        before, content = files(w), target.read_bytes()
        assert caller.ask("Check", "us", 4, gateway.id)["result"] == "ready"
        w.standin_faults(**{"apply-breaks": ["tpmd", "half"]})
        assert caller.apply_refused(**gateway.assignment())[0] == "apply-failed"
        status = path.lstat()
        assert (os.readlink(path), status.st_uid, status.st_gid) == ("../by-hand.toml", 1234, 4321)
        assert files(w) == before and not list(path.parent.glob(".*"))
        w.standin_faults()
        caller.apply(**gateway.assignment())
        assert not path.is_symlink() and path.stat().st_size and target.read_bytes() == content


@pytest.mark.parametrize("make", [pathlib.Path.mkdir, os.mkfifo])
def test_copy_that_can_not_be_put_back(new_world, make):
    """Known before the service is asked."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        gateway.make_old(caller)
        path, jobs = w.root / "etc/aziot/certd/config.d/00-super.toml", len(queued(w))
        path.unlink()
        make(path)
        kind, sentence = caller.refused("Check", "us", 4, gateway.id)
        assert kind == "storage" and str(path) in sentence
        assert caller.apply_refused(**gateway.assignment())[0] == "storage" and len(queued(w)) == jobs


@pytest.mark.parametrize("replaced", [False, True])
def test_apply_that_takes_too_long_is_ended(new_world, replaced):
    """`iotedge config apply` waits for the container engine for longer than its job may take. If it went on, it would
    write what it has read before config.toml was put back."""
    gateway = Gateway(new_world())
    w = gateway.world
    w.helpers_environment(**w.clock())
    with Caller(w) as caller:
        gateway.make_old(caller)
        before, record, running = files(w), record_of(w), units(caller)
        w.standin_faults(**{"apply-waits": 50})
        under_way = caller.begin_apply(**gateway.assignment(keyChanged=replaced))
        wait_for("the question", lambda: w.standin_events("apply-waits"))
        w.let_pass(330)
        assert caller.failure(under_way)[0] == "apply-failed"
        assert caller.unit(APPLY) == "inactive" and w.standin_events("killed", unit=APPLY)
        w.standin_faults()
        after = files(w)
        assert after[1] == before[1]
        if replaced:
            assert after[0][1] == info_text(gateway.hub, gateway.device) and gateway.id in after[0][0]
        else:
            assert after == before and record_of(w) == record
        for name, runs in running.items():
            settled(caller, name, runs)
        caller.apply(**gateway.assignment(keyChanged=replaced))


@pytest.mark.parametrize("replaced", [False, True])
def test_apply_that_can_not_be_ended(new_world, replaced):
    """systemd is executed again: its jobs are forgotten, and their processes live on. What `iotedge config apply` then
    writes fits the files that it has read."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        gateway.make_old(caller)
        w.standin_faults(**{"apply-waits": 50}, units={APPLY: {"start": "reexec"}})
        assert caller.apply_refused(**gateway.assignment(keyChanged=replaced))[0] == "apply-failed"
        applied = len(w.standin_events("applied"))
        w.standin_faults()
        wait_for("its end", lambda: len(w.standin_events("applied")) > applied)
        found, copies = files(w)
        assert gateway.id in found[0] and gateway.id in copies["identityd"][0]
        assert found[1] == info_text(gateway.hub, gateway.device)
        assert record_of(w)["applying"] and not temporary_files(w)
        caller.apply(**gateway.assignment(keyChanged=replaced))
        assert "applying" not in record_of(w) and not stopped_path(w).exists()


def test_stop_that_fails_costs_no_disruption(new_world):
    """The key of the same device is replaced, so aziot-edged keeps running: also when the attempt before has failed."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        before, seen = record_of(w), len(w.standin_events())
        w.standin_faults(units={IDENTITYD: {"stop": "failed"}})
        assert caller.apply_refused(**gateway.assignment(keyChanged=True))[0] == "restart-failed"
        assert record_of(w) == before
        w.standin_faults()
        caller.apply(**gateway.assignment(keyChanged=True))
        assert not starts_of_edged(w, seen)


def test_edited_after_the_record_was_written(new_world):
    """Nothing was placed, so the next attempt begins as this one did."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        gateway.make_old(caller)
        before, text = record_of(w), w.config_toml.read_text()
        helper = caller.start_helper(BUILD / "tests/tools/crash-at", f"--log={w.dir}/calls", "--pause=link config.toml", "0")
        under_way = caller.begin_apply(**gateway.assignment())
        wait_for("the backup", lambda: "link config.toml" in (w.dir / "calls").read_text())
        assert record_of(w) != before
        w.config_toml.write_text(text + "# one more line\n")
        helper.process.send_signal(signal.SIGUSR1)
        assert caller.failure(under_way)[0] == "storage"
        assert record_of(w) == before and w.config_toml.read_text() == text + "# one more line\n"


def test_both_files_in_one_disruption(new_world):
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        gateway.make_old(caller)
        seen, jobs = len(w.standin_events()), len(queued(w))
        caller.apply(**gateway.assignment(keyChanged=True))
        assert starts_of_edged(w, seen) == ["stop", "start"]
        assert queued(w)[jobs:].count(("start", APPLY)) == 1


def test_apply_that_was_cut_is_run_again(new_world):
    """identityd's copy is new, and aziot-edged's copy is missing."""
    gateway = Gateway(new_world())
    w = gateway.world
    with Caller(w) as caller:
        gateway.make_old(caller)
        w.standin_faults(units={APPLY: {"delay": 50}})
        under_way = caller.begin_apply(**gateway.assignment())
        wait_for("the apply", lambda: len(w.standin_events("start", unit=APPLY)) == 3)
        caller.stop_helper()
        caller.failure(under_way)
        w.standin_faults()
        wait_for("its end", lambda: len(w.standin_events("applied")) == 3)
        copy = w.root / "etc/aziot/edged/config.d/00-super.toml"
        copy.unlink()
        caller.apply(**gateway.assignment())
        assert copy.exists()
