"""Suite "daemon": the step PREPARE finds files that can't be written: nothing is registered and no unit is stopped. Once
the cause is mended, the next attempt goes on."""
import contextlib
import os
import re
import shutil
import signal

import pytest
from handoff import EDGED, IDENTITYD, Caller, edge, prepared
from harness import SCOPE, wait_for

# shell commands in the mount namespace of the helper → the failure's kind and a word of its message
OBSTACLES = {
    "read-only /var/lib/aziot": ("""mount --bind "$ROOT/var/lib/aziot" "$ROOT/var/lib/aziot"
        mount -o remount,bind,ro "$ROOT/var/lib/aziot\"""", "storage", "device_info"),
    "full /var/lib/aziot": ("""cp -a "$ROOT/var/lib/aziot" "$ROOT/copy"
        mount -t tmpfs -o size=64k,mode=755 tmpfs "$ROOT/var/lib/aziot"
        cp -a "$ROOT/copy/." "$ROOT/var/lib/aziot"
        rm -r "$ROOT/copy"
        dd if=/dev/zero of="$ROOT/var/lib/aziot/filler" bs=4096 2>/dev/null || true""", "storage", "device_info"),
    "config.toml is a mount point": ("""touch "$ROOT/config.toml" "$ROOT/etc/aziot/config.toml"
        mount --bind "$ROOT/config.toml" "$ROOT/etc/aziot/config.toml\"""", "storage", "mount point"),
    "device_info is a mount point": ("""touch "$ROOT/info" "$ROOT/var/lib/aziot/identityd/device_info"
        mount --bind "$ROOT/info" "$ROOT/var/lib/aziot/identityd/device_info\"""", "storage", "mount point"),
}


def helpers_in(world, script):
    """From now on the bus starts the hand-off helper in a separate mount namespace, after these commands."""
    program = world.dir / "in-namespace"
    program.write_text(f'set -e\nROOT={world.root}\n{script}\nexec "$@"\n')
    path = world.dir / "services/org.dps.HandOff1.service"
    if "in-namespace" not in path.read_text():
        path.write_text(re.sub("^Exec=", f"Exec=/usr/bin/env unshare --mount --propagation private sh {program} ", path.read_text(),
                               flags=re.MULTILINE))
        world.reload_bus()
    running = world.helper_pids("dps-handoffd")
    for pid in running:
        with contextlib.suppress(ProcessLookupError):  # one that met EROFS ends itself
            os.kill(pid, signal.SIGTERM)
    wait_for("the helper's end", lambda: not set(running) & set(world.helper_pids("dps-handoffd")))


def refused_in_prepare(world, kind, word):
    """No request is sent to DPS, and no job begins."""
    requests, jobs = len(world.service_requests()), len(world.jobs())
    p = world.wait_for_failure(kind)
    assert word in p["LastError"][2], p["LastError"]
    assert len(world.service_requests()) == requests and len(world.jobs()) == jobs


@pytest.mark.namespaces
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_obstacle(new_world, obstacle):
    script, kind, word = OBSTACLES[obstacle]
    w = prepared(new_world)
    helpers_in(w, script)
    w.start_daemon()
    refused_in_prepare(w, kind, word)
    helpers_in(w, "")
    w.retry()
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


@pytest.mark.namespaces
def test_obstacle_to_a_move(new_world):
    """IoT Edge runs on, and moves when the file system can be written to."""
    w = new_world()
    w.start_gateway()
    helpers_in(w, OBSTACLES["read-only /var/lib/aziot"][0])
    w.move()
    w.bus.call("Reprovision")
    refused_in_prepare(w, "storage", "device_info")
    assert w.registrations() == 1
    helpers_in(w, "")
    w.retry()
    w.wait("the other hub", lambda p: p["State"] == "handed-off" and p["AssignedHub"].startswith("hub-b."))


@pytest.mark.parametrize("missing, word", [("etc/aziot", "etc/aziot"), ("etc/aziot/tpmd", "tpmd/config.d"),
                                           ("var/lib/aziot/identityd", "identityd")])
def test_missing_directory(new_world, missing, word):
    w = prepared(new_world)
    shutil.move(w.root / missing, w.dir / "away")
    w.start_daemon()
    refused_in_prepare(w, "runtime-missing", word)
    shutil.move(w.dir / "away", w.root / missing)
    w.retry()
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


# The mounts of ProtectSystem=strict and ReadWritePaths=-/etc/aziot -/var/lib/aziot.
STRICT = """for path in etc var/lib; do
        mount --bind "$ROOT/$path" "$ROOT/$path"
        mount -o remount,bind,ro "$ROOT/$path"
done
mount --bind "$ROOT/copy-of-state" "$ROOT/var/lib/dps-handoffd"
for path in etc/aziot var/lib/aziot; do
        [ ! -d "$ROOT/$path" ] || { mount --bind "$ROOT/$path" "$ROOT/$path"; mount -o remount,bind,rw "$ROOT/$path"; }
done"""


@pytest.mark.namespaces
def test_installed_while_the_helper_ran(new_world):
    """The directories are read-only to a helper that started before them, for as long as it runs."""
    w = new_world()
    for directory in ("copy-of-state", "var/lib/dps-handoffd"):
        (w.root / directory).mkdir(parents=True)
    w.standin_faults(units={EDGED: {"load": "not-found"}, IDENTITYD: {"load": "not-found"}})
    w.start_standins()
    w.enroll(edge(w))
    for directory in ("etc", "var/lib"):
        shutil.move(w.root / directory / "aziot", w.dir / f"{directory.replace('/', '-')}-aziot")
    helpers_in(w, STRICT)
    with Caller(w) as caller:
        w.start_daemon()
        w.wait_for_failure("runtime-missing")
        before = w.helper_pids("dps-handoffd")
        for directory in ("etc", "var/lib"):
            shutil.copytree(w.dir / f"{directory.replace('/', '-')}-aziot", w.root / directory / "aziot")
        w.standin_faults()
        w.retry()
        w.wait_for_failure("storage")
        wait_for("its end", lambda: not set(before) & set(w.helper_pids("dps-handoffd")))
        w.wait_for_state("handed-off")
        assert w.registrations() == 1 and SCOPE in w.config_toml.read_text() and caller.has_owner()
