#!/usr/bin/python3
"""What a cold start takes on loopback: requests, TPM commands, the time to the first request and to handed-off.

    BUILD=DIR tests/measure.py [RUNS]

Each run starts the daemon and its helpers anew without a state file, with Target=none, an empty hub key handle, and the
endorsement and storage root keys in the TPM. The waits that DPS asks for between two polls are not counted. TPM commands
are counted in a first run through the proxy; in the others the helper talks to swtpm itself.

Use the build "build-release" of the suite smoke. Run as root, all processes have real-time priority, and the figures are
nearly the same on a busy machine.
"""
import datetime
import os
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "fixture"))

from harness import World, wait_for  # noqa: E402

RETRY_AFTER = 1  # seconds, what the fixture's emulator asks for


def leave_the_machine_out():
    """Neither other processes nor the disk count."""
    if os.geteuid() == 0:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    if os.access("/dev/shm", os.W_OK):
        tempfile.tempdir = "/dev/shm"


def prepare(world):
    """The first start makes the keys that the TPM keeps."""
    world.enroll(world.enrollment())
    world.start_daemon()
    world.wait_for_state("handed-off")


def forget(world):
    """No process and no file is left that knows anything."""
    world.stop_daemon()
    pids = world.helper_pids("dps-tpmd")
    world.kill_helper("dps-tpmd")
    wait_for("the helper's end", lambda: not set(pids) & set(world.helper_pids("dps-tpmd")))
    world.tpm2("evictcontrol", "-c", "0x81000100")
    (world.dir / "state/state.json").unlink()


def start(world):
    """Milliseconds to the first request and to handed-off, and the requests to DPS."""
    seen, started = len(world.service_requests()), time.time()
    world.start_daemon()
    handed_off = world.wait_for_state("handed-off")["StateChangedUSec"] / 1e6
    requests = world.service_requests()[seen:]
    first = datetime.datetime.fromisoformat(requests[0]["time"]).timestamp()
    waits = RETRY_AFTER * sum(request["status"] == 202 for request in requests)
    return (first - started) * 1000, (handed_off - started - waits) * 1000, requests


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    leave_the_machine_out()
    with World(polls=1, HandOff={"Target": "none"}) as world:
        prepare(world)
        forget(world)
        commands = len(world.tpm_commands())
        requests = start(world)[2]
        print(f"{len(requests)} requests on {len({request['connection'] for request in requests})} connection, "
              f"{len(world.tpm_commands()) - commands} TPM commands")
        world.write_config(Tpm={"Tcti": f"swtpm:path={world.dir}/swtpm"})
        found = []
        for _ in range(runs):
            forget(world)
            found.append(start(world))
    for name, times in zip(("the first request", "handed-off"), zip(*found)):
        print(f"{name} after {statistics.median(times):.1f} ms, {min(times):.1f} to {max(times):.1f} in {runs} runs")


if __name__ == "__main__":
    main()
