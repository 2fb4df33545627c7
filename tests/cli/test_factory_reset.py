"""Suite "cli": factory-reset with real processes: what goes, what stays, and what a kill in between leaves."""
import json
import re
import signal
import subprocess

import dbus_next
import pytest
from bus import BusError
from handoff import Caller, Gateway, applied_path, stopped_path, temporary_files
from harness import BUILD, NAME, PATH, SCOPE, own_etc, wait_for

pytestmark = pytest.mark.root  # factory-reset is root's
NO_EDGE = {"HandOff": {"Target": "none"}}
KILLED = 77  # crash-at's exit status


def cli(world, *arguments, prefix=(), **options):
    return subprocess.run([*prefix, BUILD / "cli/dps-provision", *arguments], env=world.environment, text=True,
                          capture_output=True, timeout=120, check=False, **options)


def reset(world, *arguments):
    return cli(world, "factory-reset", "--yes", f"--config={world.config_path}", *arguments)


def device_info(world):
    return world.root / "var/lib/aziot/identityd/device_info"


def record(world):
    return world.root / "var/lib/dps-handoffd/record.json"


def assert_everything_is_gone(world):
    p = world.bus.properties()
    assert (p["State"], p["Step"], p["AssignedHub"], p["DeviceId"]) == ("unprovisioned", "idle", "", "")
    assert p["LastError"] == ["", "", "", ""] and p["LastSuccessUSec"] == 0
    state = json.loads((world.dir / "state/state.json").read_text())
    assert not set(state) & {"intended", "confirmed", "leftKeyName"}, state
    assert not state["reset"]
    assert world.hub_key() is None and world.loaded() == ""
    assert {"0x81000001", "0x81010001"} <= {h.lower() for h in world.persistent_handles()}
    assert not device_info(world).exists() and not record(world).exists()
    config = world.config_toml.read_text() if world.config_toml.exists() else ""
    assert "[provisioning" not in config
    assert not (world.root / "etc/aziot/identityd/config.d/00-super.toml").exists()
    assert not (world.root / "var/lib/dps-handoffd/stopped").exists()


@pytest.mark.smoke
def test_everything_goes(new_world):
    w = new_world()
    w.config_toml.parent.mkdir(parents=True)
    w.config_toml.write_text('# mine\nhostname = "gw"\n\n[watchdog]\nmax_retries = 3\n')
    w.start_gateway()
    registrations = w.registrations()
    assert w.hub_key() and device_info(w).exists()
    result = reset(w, "--iotedge-config")
    assert result.returncode == 0, result
    assert "This device is unprovisioned." in result.stdout and str(w.config_path) in result.stdout
    assert_everything_is_gone(w)
    assert "IdScope" not in w.config_path.read_text()
    assert w.config_toml.read_text() == '# mine\nhostname = "gw"\n\n[watchdog]\nmax_retries = 3\n\n'
    assert w.jobs()[-1][0] == "start" and not w.standin_events("registers-itself")
    # a later start has nothing to go on with, and the next owner's scope has
    w.restart_daemon()
    assert w.wait_for_state("unprovisioned")["Step"] == "idle"
    assert w.registrations() == registrations
    w.write_config(Provisioning={"IdScope": SCOPE})
    w.wait_for_state("handed-off")
    assert w.registrations() == registrations + 1


def test_it_can_be_repeated(new_world):
    w = new_world()
    w.start_gateway()
    assert reset(w, "--iotedge-config").returncode == 0
    jobs = len(w.jobs())
    for _ in range(2):
        result = reset(w, "--iotedge-config")
        assert result.returncode == 0, result
        assert_everything_is_gone(w)
    assert len(w.jobs()) == jobs  # nothing of ours is left, so nothing was stopped for it


def test_keeping_the_scope_ends_at_rest(new_world):
    w = new_world()
    w.start_gateway()
    requests = len(w.service_requests())
    result = reset(w, "--iotedge-config", "--keep-scope")
    assert result.returncode == 0 and "next start" in result.stdout, result
    assert_everything_is_gone(w)
    assert f"IdScope={SCOPE}" in w.config_path.read_text()
    assert cli(w, "status").returncode == 3
    assert len(w.service_requests()) == requests
    w.bus.call("Reprovision")
    w.wait_for_state("handed-off")


def test_iotedge_config_stays_without_the_option(new_world):
    w = new_world()
    w.start_gateway()
    before = w.config_toml.read_text()
    w.enroll()  # so that IoT Edge's own registration gets nowhere
    old = w.hub_key()
    result = reset(w)
    assert result.returncode == 0 and "registers by itself" in result.stdout, result
    assert w.config_toml.read_text() == before
    assert w.hub_key() in (None,) or w.hub_key() != old
    assert not device_info(w).exists()
    assert set(json.loads(record(w).read_text())) == {"provisioningDigest", "handedOff"}
    # what was ours still is: the next owner's scope may take its place
    w.emulator_options = []
    w.stop_emulator()
    w.emulator_options = ["--scope=0ne00OTHER1"]
    w.start_emulator(port=w.port)
    w.enroll(w.enrollment(capabilities={"iotEdge": True}))
    w.write_config(Provisioning={"IdScope": "0ne00OTHER1"})
    w.wait_for_state("handed-off")
    assert "0ne00OTHER1" in w.config_toml.read_text()


def test_what_is_not_ours_stays(new_world):
    w = new_world()
    w.start_gateway()
    w.tpm2("evictcontrol", "-c", "0x81000100")
    w.tpm2("createprimary", "-C", "o", "-g", "sha256", "-G", "ecc", "-c", "x.ctx")
    w.tpm2("evictcontrol", "-c", "x.ctx", "0x81000100")
    w.tpm2("evictcontrol", "-c", "x.ctx", "0x81000123")
    w.tpm2("flushcontext", "-t")
    foreign = w.hub_key()
    other = '[provisioning]\nsource = "manual"\nconnection_string = "x"\n'
    w.config_toml.write_text(other)
    applied = applied_path(w).read_text().replace(w.bus.properties()["RegistrationId"], "theirs")
    applied_path(w).write_text(applied)
    device_info(w).write_text('hub_name = "h.example"\nlocal_gateway_hostname = "h.example"\ndevice_id = "theirs"\n')
    result = reset(w, "--iotedge-config")
    assert result.returncode == 0, result
    for what in ("0x81000100", "theirs", "config.toml"):
        assert re.search(rf"{what}.* stays\.", result.stdout), result.stdout
    assert w.hub_key() == foreign and "0x81000123" in w.persistent_handles()
    assert w.config_toml.read_text() == other and "theirs" in device_info(w).read_text()
    assert applied_path(w).read_text() == applied
    assert w.jobs()[-1] == ("start", "aziot-edged.service")  # it runs on as whom it was
    assert w.bus.properties()["State"] == "unprovisioned"


@pytest.mark.namespaces
def test_a_scope_that_is_only_overridden_comes_back(new_world):
    """A package's under ours, a credential under both: nothing is done. One that ours hides stays hidden."""
    w = new_world(**NO_EDGE)
    w.start_daemon()
    (own := w.dir / "etc/dps-provisiond/provisiond.conf.d").mkdir(parents=True)
    (vendor := w.dir / "lib/dps-provisiond/provisiond.conf.d").mkdir(parents=True)
    prefix = own_etc(w)
    prefix = (*prefix[:-2], f"mount -t overlay -o lowerdir={w.dir}/lib:/usr/lib none /usr/lib && {prefix[-2]}", prefix[-1])

    def ask(*arguments):
        return cli(w, "factory-reset", "--yes", *arguments, prefix=prefix)
    ours = "[Provisioning]\nIdScope=0ne00OURS\n"
    (own / "50-scope.conf").write_text(ours)
    (vendor / "10-vendor.conf").write_text("[Provisioning]\nIdScope=0ne00VENDOR\n")
    result = ask()
    assert (own / "50-scope.conf").read_text() == ours, result
    assert result.returncode == 1 and re.search(r"set by '/usr/lib/dps-provisiond/.*/10-vendor.conf'.*\n.*Nothing was done", result.stderr)
    (vendor / "10-vendor.conf").rename(vendor / "50-scope.conf")
    (w.dir / "etc/credstore").mkdir()
    (w.dir / "etc/credstore/dps.id_scope").write_text("0ne00CRED")
    result = ask()
    assert (own / "50-scope.conf").read_text() == ours, result
    assert result.returncode == 1 and re.search("dps.id_scope in '/etc/credstore'.*\n.*Nothing was done", result.stderr), result
    (w.dir / "etc/credstore/dps.id_scope").unlink()
    ask()
    assert "IdScope" not in (own / "50-scope.conf").read_text()
    assert "#IdScope=\n" in cli(w, "config", prefix=prefix).stdout


def test_root_only(new_world):
    w = new_world(**NO_EDGE)
    w.dir.chmod(0o755)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    result = cli(w, "factory-reset", "--yes", f"--config={w.config_path}", prefix=nobody)
    assert result.returncode == 1 and "Only root" in result.stderr, result
    call = ("call", NAME, PATH, NAME, "FactoryReset", "b", "true")
    direct = subprocess.run([*nobody, "busctl", "--system", *call], env=w.environment, text=True, capture_output=True,
                            timeout=60, check=False)
    assert direct.returncode != 0 and "Access denied" in direct.stderr, direct
    assert w.bus.properties()["State"] == "handed-off" and w.hub_key()
    assert "IdScope" in w.config_path.read_text()


def test_asks_first(new_world):
    w = new_world(**NO_EDGE)
    w.start_daemon()
    result = cli(w, "factory-reset", f"--config={w.config_path}", stdin=subprocess.DEVNULL)
    assert result.returncode == 1 and "--yes" in result.stderr and "This will go" in result.stdout, result
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run([BUILD / "cli/dps-provision", "factory-reset", f"--config={w.config_path}"], text=True,
                                env=w.environment, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert result.returncode == 1 and "can't be shown. Nothing was done" in result.stderr and "[y/N]" not in result.stderr
    assert "IdScope" in w.config_path.read_text()


def test_without_the_daemon_nothing_is_touched(new_world):
    w = new_world(**NO_EDGE)
    result = reset(w)
    assert result.returncode == 1 and "daemon does not run" in result.stderr, result
    assert "IdScope" in w.config_path.read_text()


def test_a_configuration_that_can_not_be_read_sets_no_scope(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    for path in ("/no/such", w.dir):
        result = cli(w, "factory-reset", "--yes", f"--config={path}")
        assert result.returncode == 1 and result.stdout == "" and f"'{path}' can't be read" in result.stderr, result
        assert "Nothing was done" in result.stderr and "credential" not in result.stderr
    assert w.bus.properties()["State"] == "handed-off"


def test_target_none_needs_no_systemd(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    assert reset(w).returncode == 0
    assert w.hub_key() is None and w.bus.properties()["State"] == "unprovisioned"


def test_while_it_attests(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.faults("slow:confirm=50")
    w.start_daemon()
    w.wait("confirm", lambda p: p["Step"] == "confirm")
    assert reset(w).returncode == 0
    assert w.bus.properties()["State"] == "unprovisioned" and w.hub_key() is None


def test_it_outruns_a_reprovision_that_waits(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(rules=[{"command": "GetCapability", "delay": 50}])
    w.start_daemon()
    w.wait("the step", lambda p: p["Step"] == "identity")
    reprovision = w.bus.begin("Reprovision")
    w.daemon.wait_for_line("Reprovisioning was asked for")
    first = w.bus.begin("FactoryReset", "b", False)
    w.daemon.wait_for_line("A factory reset was asked for")
    w.tpm_faults()
    w.bus.end(first)
    with pytest.raises(BusError, match="factory reset is under way"):
        w.bus.end(reprovision)
    assert_everything_is_gone(w)
    assert not w.requests()


def test_one_that_was_refused_does_not_happen_later(new_world):
    """The disk fails when the file has been replaced already: it may be there after a restart, or not."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    tracer = w.start(["strace", "-o", w.dir / "strace", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=2",
                      "-p", w.daemon.process.pid], "strace")
    tracer.wait_for_line("attached")
    with pytest.raises(BusError) as caught:
        w.bus.call("FactoryReset", "b", False)
    assert caught.value.kind == "storage"
    tracer.kill(signal.SIGTERM)
    assert "INJECTED" in (w.dir / "strace").read_text()
    w.restart_daemon(signal.SIGKILL)
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    assert w.hub_key() and w.bus.properties()["Warnings"] == []


@pytest.mark.parametrize("other", [False, True], ids=["first", "other"])
def test_a_key_whose_name_was_never_told(new_world, other):
    """Power was cut after the key was made persistent, and what comes next is a factory reset."""
    w = new_world(Retry={"InitialSec": 600, "MaxSec": 600}, **NO_EDGE)
    w.enroll(w.enrollment())
    cut = {"command": "EvictControl", "nth": 2 if other else 1, "cut": "after", "startup": True}
    if other:
        w.start_daemon()
        w.wait_for_state("handed-off")
        w.enroll(w.enrollment(iotHubHostName=f"hub-b.localhost:{w.port}"))
        w.tpm_faults(rules=[cut])
        w.bus.call("Reprovision")
    else:
        w.tpm_faults(rules=[cut])
        w.start_daemon()
    w.wait("the failure", lambda p: p["State"] == "assigned" and p["Step"] == "wait")
    assert w.hub_key() and "keyName" not in json.loads((w.dir / "state/state.json").read_text())["intended"]
    result = reset(w)
    assert result.returncode == 0 and "stays" not in result.stdout + result.stderr, result
    assert_everything_is_gone(w)


def test_a_failure_is_told_and_mended_by_the_daemon(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    w.tpm_faults(absent=True)
    result = reset(w, "--keep-scope")
    assert result.returncode == 1 and "goes on trying" in result.stderr, result
    w.wait("the wait", lambda p: (p["State"], p["Step"], p["LastError"][0]) == ("unprovisioned", "wait", "tpm-missing"))
    with pytest.raises(BusError, match="factory reset"):
        w.bus.call("Reprovision")
    w.tpm_faults()
    w.wait("the end", lambda p: p["Step"] == "idle" and p["State"] == "unprovisioned")
    assert w.hub_key() is None and w.registrations() == 1


def hold(world, place):
    """Makes the next reset slow at this place; returns what waits until it is there."""
    commands = len(world.tpm_commands())
    if place == "stop":
        world.standin_faults(slow=50)
        return lambda: wait_for("the step", lambda: world.bus.properties()["Step"] == "forget")
    if place == "start":
        world.standin_faults(units={"aziot-tpmd.socket": {"delay": 50}})
        before = len(world.standin_events("start", unit="aziot-tpmd.socket"))
        return lambda: wait_for("the start", lambda: len(world.standin_events("start", unit="aziot-tpmd.socket")) > before)
    world.tpm_faults(rules=[{"command": "EvictControl", "delay": 50}])
    return lambda: wait_for("the eviction", lambda: "EvictControl" in world.tpm_commands()[commands:])


@pytest.mark.parametrize("victim", ["daemon", "helpers", "all"])
@pytest.mark.parametrize("place", ["stop", "start", "key"])
def test_killed_anywhere_it_is_completed(new_world, place, victim):
    w = new_world()
    w.start_gateway()
    registrations = w.registrations()
    arrived = hold(w, place)
    with subprocess.Popen([BUILD / "cli/dps-provision", "factory-reset", "--yes", "--iotedge-config",
                           f"--config={w.config_path}"], env=w.environment, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as client:
        arrived()
        client.kill()
    if victim in ("daemon", "all"):
        w.stop_daemon(signal.SIGKILL)
    if victim in ("helpers", "all"):
        w.kill_helper("dps-tpmd")
        w.kill_helper("dps-handoffd")
    w.tpm_faults()
    w.standin_faults()
    if victim in ("daemon", "all"):
        w.start_daemon()
    result = reset(w, "--iotedge-config")
    if result.returncode == 1:  # it was told of a helper's death
        result = reset(w, "--iotedge-config")
    assert result.returncode == 0, result
    assert_everything_is_gone(w)
    assert w.registrations() == registrations and not w.standin_events("registers-itself")


@pytest.mark.parametrize("place", ["start", "key"])
def test_one_that_goes_further_while_another_is_under_way(new_world, place):
    """The first one's client was interrupted, and the option that was forgotten is given now."""
    w = new_world()
    w.start_gateway()
    w.enroll()  # so that IoT Edge's own registration gets nowhere
    w.write_config(Provisioning={"IdScope": None})
    w.daemon.wait_for_line("The configuration has changed")
    arrived = hold(w, place)
    first = w.bus.begin("FactoryReset", "b", False)
    arrived()
    second = w.bus.begin("FactoryReset", "b", True)
    with pytest.raises(BusError):
        w.bus.end(first)
    allowed = w.bus.begin("Allow", name="org.dps.HandOff1")  # as the command does; it waits for the first one's Forget
    w.tpm_faults()
    w.standin_faults()
    w.bus.end(allowed)
    w.bus.end(second)
    assert_everything_is_gone(w)


SHARDS = 2


@pytest.mark.parametrize("shard", range(SHARDS))
def test_the_helper_killed_at_every_call(new_world, record_property, shard):
    """Forget, killed at each of its system calls that changes a file or sends a message, and called again.

    Takes up to half a minute, most of it processor time: each call has a separate run, below a tracer.
    """
    gateway = Gateway(new_world())
    w = gateway.world
    points = []
    with Caller(w) as caller:
        gateway.save()
        old = (w.config_toml.read_text(), device_info(w).read_text())
        for n in range(shard + 1, 1000, SHARDS):
            gateway.restore()
            caller.apply(**gateway.assignment())  # IoT Edge runs again
            caller.ask("Allow")
            helper = caller.start_helper(BUILD / "tests/tools/crash-at", f"--log={w.dir}/calls", str(n))
            done = caller.outcome("Forget", "b", True).message_type == dbus_next.MessageType.METHOD_RETURN
            try:
                assert helper.process.wait(1 if done else 10) == KILLED
            except subprocess.TimeoutExpired:
                assert done
                break
            points.append((w.dir / "calls").read_text().splitlines()[-1])
            for path, text in zip((w.config_toml, device_info(w)), old):  # whole, or gone
                assert not path.exists() or path.read_text() == text, points
            caller.ask("Allow")
            assert caller.ask("Forget", "b", True) == []  # done, and there is nothing to note
            for path in (w.config_toml, device_info(w), record(w), applied_path(w), stopped_path(w)):
                assert not path.exists(), (path, points[-1], done)
            assert not temporary_files(w)
            for unit in ("aziot-identityd.socket", "aziot-tpmd.socket", "aziot-edged.mgmt.socket"):
                wait_for(f"{unit} to listen", lambda u=unit: caller.unit(u) == "active")
    record_property("crash points", len(points))
    assert len(points) > 10 and not w.standin_events("registers-itself"), points
