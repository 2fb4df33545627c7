#!/usr/bin/python3
"""The whole way of a gateway, on this machine and without Azure: from an ID scope to IoT Edge running as the device
that was assigned, and on to another hub.

Real are: our daemon, its two helpers and the command-line tool; the TPM commands (swtpm); TLS, tokens and keys, which
the emulator of the service makes and checks. Played are systemd, IoT Edge and its identity service, by the stand-ins
under tests/standins. Exit status 0 means that every step was verified.
"""
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "fixture"))

from harness import BUILD, SCOPE, World, wait_for  # noqa: E402

BOLD, GREEN, DIM, PLAIN = ("\033[1m", "\033[32m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("",) * 4


def title(text):
    print(f"\n{BOLD}== {text}{PLAIN}")


def verified(text, condition):
    if not condition:
        sys.exit(f"NOT VERIFIED: {text}")
    print(f"   {GREEN}✓{PLAIN} {text}")


def run(world, *arguments, status=0):
    """A command of ours, shown as the user types it."""
    shown = [a for a in arguments if not a.startswith("--config=")]
    print(f"{BOLD}$ dps-provision {' '.join(shown)}{PLAIN}")
    result = subprocess.run([BUILD / "cli/dps-provision", *arguments], env=world.environment, text=True,
                            capture_output=True, timeout=60, check=False)
    print("".join(f"  {line}\n" for line in (result.stdout + result.stderr).splitlines()), end="")
    verified(f"exit status {status}", result.returncode == status)
    return result.stdout


def show_states(world, since):
    """What the journal shows: the daemon's own sentences about its states."""
    for line in world.daemon.lines[since:]:
        if "DPS_STATE=" in line or "DPS_FAILURE=" in line:
            print(f"  {DIM}{line.partition(' [')[0].partition(': ')[2]}{PLAIN}")


def hub_took_adopted_key(world, hub):
    """identityd signs with the key at 0x81000100 in the TPM; the emulator has the other copy of it."""
    used = world.standin_events("provisioned-with-backup", hub=hub)
    asked = world.requests(kind="hub", hub=hub, authorized=True)
    return bool(used and asked and world.standin_events("hub", hub=hub, status=200))


def first_assignment(world):
    title("A gateway is switched on: nothing is configured")
    world.start_daemon()
    world.wait_for_state("unprovisioned")
    run(world, "status", status=3)

    title("Step 1: set the ID scope")
    run(world, "set-scope", SCOPE, f"--config={world.config_path}")
    world.wait_for_failure("enrollment-missing")
    show_states(world, 0)
    verified("DPS was asked once and does not know the device yet; IoT Edge was not touched",
             len(world.requests()) == 1 and not world.jobs() and not world.config_toml.exists())

    title("Step 2: get registration ID and endorsement key")
    text = run(world, "enrollment", f"--config={world.config_path}")
    key = world.enrollment()["attestation"]["tpm"]["endorsementKey"]
    verified("the endorsement key is the one in the TPM", key in text)

    title("Step 3: create the enrolment (here: in the emulator)")
    world.enroll(world.enrollment(capabilities={"iotEdge": True}))
    since = len(world.daemon.lines)
    run(world, "retry")
    world.wait_for_state("handed-off")
    show_states(world, since)

    title("What IoT Edge was given")
    print("".join(f"  {line}\n" for line in world.config_toml.read_text().splitlines()), end="")
    run(world, "status")
    hub = world.bus.properties()["AssignedHub"]
    verified("the hub accepted a token signed with the adopted key", hub_took_adopted_key(world, hub))
    verified("the assignment took one registration, and IoT Edge made none of its own",
             len(world.requests(kind="confirm", status=202)) == 1 and not world.standin_events("registers-itself"))
    wait_for("IoT Edge's question who it is", lambda: world.standin_events("edged-device"))
    verified("IoT Edge runs as the assigned device", world.standin_events("edged-device", hub=hub))


def moved_to_another_hub(world):
    title("The enrolment moves to another hub")
    other = f"hub-b.localhost:{world.port}"
    world.enroll(world.enrollment(capabilities={"iotEdge": True}, iotHubHostName=other))
    since = len(world.daemon.lines)
    jobs = len(world.jobs())
    run(world, "reprovision", "--wait", "--yes")
    show_states(world, since)
    run(world, "status")
    verified("the device is on the other hub", world.bus.properties()["AssignedHub"] == other)
    verified("the other hub accepted a token signed with its own adopted key", hub_took_adopted_key(world, other))
    verified("one more registration, none by IoT Edge itself",
             len(world.requests(kind="confirm", status=202)) == 2 and not world.standin_events("registers-itself"))
    verified("aziot-edged was restarted once",
             world.jobs()[jobs:].count(("restart", "aziot-edged.service")) == 1)
    verified("nothing is left behind in the TPM", not world.loaded())


def main():
    begun = time.monotonic()
    os.environ.setdefault("NO_COLOR", "1")
    with World(polls=1, tpm=None, Provisioning={"IdScope": None}) as world:
        world.start_standins()
        first_assignment(world)
        moved_to_another_hub(world)
    print(f"\n{GREEN}Every step was verified.{PLAIN} It took {time.monotonic() - begun:.1f} s.")


if __name__ == "__main__":
    main()
