#!/usr/bin/python3
"""How long a cold start takes on loopback: to the first request to DPS, and to handed-off.

    BUILD=DIR tests/measure.py [RUNS]

Each run starts the daemon and its helpers anew without a state file, with Target=none, an empty hub key handle, and the
endorsement and storage root keys in the TPM. The waits that DPS asks for between two polls are not counted. Use a build
with --buildtype=release, on an idle machine.
"""
import datetime
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "fixture"))

from harness import World, wait_for  # noqa: E402

RETRY_AFTER = 1  # seconds, what the fixture's emulator asks for


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


def measure(world):
    """Seconds to the first request and to handed-off, and how many requests, connections and TPM commands it took."""
    seen, commands = len(world.service_requests()), len(world.tpm_commands())
    started = time.time()
    world.start_daemon()
    handed_off = world.wait_for_state("handed-off")["StateChangedUSec"] / 1e6
    requests = world.service_requests()[seen:]
    first = datetime.datetime.fromisoformat(requests[0]["time"]).timestamp()
    waits = RETRY_AFTER * sum(request["status"] == 202 for request in requests)
    return {"first request": first - started, "handed-off": handed_off - started - waits, "requests": len(requests),
            "connections": len({request["connection"] for request in requests}),
            "TPM commands": len(world.tpm_commands()) - commands}


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with World(polls=1, HandOff={"Target": "none"}) as world:
        prepare(world)
        found = []
        for _ in range(runs):
            forget(world)
            found.append(measure(world))
    for name in ("requests", "connections", "TPM commands"):
        print(f"{name}: {', '.join(str(number) for number in sorted({one[name] for one in found}))}")
    for name in ("first request", "handed-off"):
        times = sorted(one[name] * 1000 for one in found)
        print(f"{name}: median {statistics.median(times):.1f} ms, {times[0]:.1f} to {times[-1]:.1f}, {runs} runs")


if __name__ == "__main__":
    main()
