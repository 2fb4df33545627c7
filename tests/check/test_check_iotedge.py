"""Suite "check", IoT Edge: machines that are broken for real; see test_check.py."""
import concurrent.futures
import re
import socket

import pytest
from checking import FRESH, NOBODY, check, expect, line
from harness import own_etc, wait_for


def test_iotedge_missing(new_world):
    w = new_world()
    w.enroll(w.enrollment())
    base = {name: FRESH[name] for name in FRESH if name != "identityd"}
    expect(w, "iotedge", "fail", "runtime-missing", "not installed", "aziot-edge", base=base)


@pytest.mark.parametrize("unit, load, message", [("aziot-identityd.service", "not-found", "no unit 'aziot-identityd.service'"),
                                                 ("aziot-edged.service", "masked", "is masked"),
                                                 ("aziot-edged.service", "bad-setting", "can't load 'aziot-edged.service'")])
def test_iotedge_unusable(fresh, unit, load, message):
    w = fresh()
    w.standin_faults(units={unit: {"load": load}})
    base = {name: FRESH[name] for name in FRESH if name != "identityd"}
    expect(w, "iotedge", "fail", "runtime-missing", message, "daemon-reload" if load == "bad-setting" else "unmask", base=base)


OTHERS = '[provisioning]\nsource = "dps"\nglobal_endpoint = "https://x"\nid_scope = "0neTHEIRS"\n' \
         '[provisioning.attestation]\nmethod = "x509"\n'


@pytest.mark.parametrize("text, result, kind, message, remedy", [
    (OTHERS, "fail", "config-conflict", "did not write.*0neTHEIRS", "ReplaceProvisioning="),
    ("parent_hostname = \"p\"\n", "fail", "config-conflict", "parent_hostname", "Remove or correct"),
    ("[tpm]\nauth_key_index = 7\n", "fail", "config-conflict", "auth_key_index 0x7", "Remove or correct"),
    ("a = 1\nb = = 2\n", "fail", "config-conflict", r"config\.toml:2: not TOML", "Remove or correct"),
    ('auto_reprovisioning_mode = "AlwaysOnStartup"\n', "warn", "reprovisions-itself", "AlwaysOnStartup", "adopt"),
])
def test_config_toml(fresh, text, result, kind, message, remedy):
    w = fresh()
    w.config_toml.write_text(text)
    expect(w, "iotedge-config", result, kind, message, remedy)


def write_base(world, text):
    path = world.root / "etc/dps-provisiond/iotedge-base.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("text, result, kind, message, remedy", [
    ('auto_reprovisioning_mode = "AlwaysOnStartup"\n', "warn", "reprovisions-itself",
     r"iotedge-base\.toml' sets auto_reprovisioning_mode = \"AlwaysOnStartup\".*Identity=register", "named file"),
    ("a = 1\nb = = 2\n", "fail", "config-conflict", r"iotedge-base\.toml:2: not TOML", "named file"),
    ('parent_hostname = "p"\n', "fail", "config-conflict", r"iotedge-base\.toml' sets parent_hostname", "named file"),
    ("[[provisioning]]\n", "fail", "config-conflict", r"iotedge-base\.toml:1: provisioning is an array", "named file"),
    (OTHERS, "warn", None, r"iotedge-base\.toml' has a provisioning.*replaced", r"Remove \[provisioning\]"),
])
def test_what_a_new_config_toml_begins_with(fresh, text, result, kind, message, remedy):
    """The check says beforehand what the hand-off then does, which doesn't look at it when there is a config.toml."""
    w = fresh()
    write_base(w, text)
    expect(w, "iotedge-config", result, kind, message, remedy)
    w.start_daemon()
    if result == "fail":
        assert re.search(message, w.wait_for_failure(kind)["LastError"][2])
    else:
        warnings = w.wait_for_state("handed-off")["Warnings"]
        assert [x[0] for x in warnings] == [kind] * (kind is not None), warnings
        assert "0neTHEIRS" not in w.config_toml.read_text()
        w.stop_daemon()
        write_base(w, "= =")
        assert check(w)[0].get("iotedge-config", ("ok", None)) == (("warn", kind) if kind else ("ok", None))


def test_two_things_about_what_a_new_config_toml_begins_with(fresh):
    w = fresh()
    write_base(w, 'auto_reprovisioning_mode = "AlwaysOnStartup"\n' + OTHERS)
    lines = [x for x in check(w)[1] if x["id"] == "iotedge-config"]
    assert [(x["result"], x["kind"]) for x in lines] == [("warn", None), ("warn", "reprovisions-itself")], lines


@pytest.mark.root
def test_what_a_new_config_toml_begins_with_is_for_root(fresh):
    w = fresh()
    path = write_base(w, "= =")
    for directory in [w.dir, *w.dir.rglob("*")]:
        if directory.is_dir():
            directory.chmod(0o755)
    path.chmod(0o600)
    bad, lines = check(w, "--no-network", prefix=NOBODY)
    assert bad["iotedge-config"] == ("skip", None) and "root" in line(lines, "iotedge-config")["remedy"], lines


@pytest.mark.namespaces
@pytest.mark.parametrize("place", ["file", "directory"])
def test_config_toml_can_not_be_written(fresh, place):
    w = fresh()
    w.config_toml.write_text("hostname = 'gw'\n")
    prefix = ("unshare", "-m", "--propagation", "private", "sh", "-c",
              f'mount --bind {w.config_toml.parent} {w.config_toml.parent} && mount -o remount,bind,ro '
              f'{w.config_toml.parent} && exec "$@"', "sh")
    if place == "file":
        w.config_toml.rename(w.dir / "elsewhere")
        w.config_toml.symlink_to(w.dir / "elsewhere")
        expect(w, "iotedge-config", "fail", "config-conflict", "config.toml", "Remove or correct")
    else:
        expect(w, "iotedge-apply", "fail", "storage", "can't be written to: Read-only", ".", prefix=prefix)


def test_iotedge_1_1_was_never_imported(fresh):
    w = fresh()
    (w.root / "etc/iotedge").mkdir(parents=True)
    (w.root / "etc/iotedge/config.yaml").write_text("provisioning:\n")
    expect(w, "iotedge-config", "fail", "config-conflict", "never imported", "config")


def test_the_container_runtime_is_dead(new_world, hub_ports):
    """`iotedge config apply` needs it the second time."""
    w = new_world()
    w.start_gateway()
    bad, lines = check(w)
    assert line(lines, "iotedge-apply")["message"] == "Nothing is left to do", lines
    w.stop_daemon()
    (w.root / "var/run/docker.sock").unlink()
    assert "iotedge-apply" not in check(w)[0]
    w.write_config(Provisioning={"IdScope": "0ne00OTHER"})
    bad, lines = check(w)
    assert bad.pop("iotedge-apply") == ("fail", "engine-unreachable"), lines
    assert set(bad) == {"daemon", "enrollment"} and "docker.sock" in line(lines, "iotedge-apply")["message"], lines


PODMAN = '[moby_runtime]\nuri = "unix:///run/podman/podman.sock"\nnetwork = "azure-iot-edge"\n'


@pytest.mark.parametrize("release, faults, text, result, kind, message, hint", [
    (None, {"min": "1.42"}, "", "fail", "engine-unsuitable", "refuses version", "DOCKER_MIN_API_VERSION"),
    (None, {"max": "1.30"}, "", "fail", "engine-unsuitable", "too new", "Upgrade the container engine"),
    (None, {"min": "1.40"}, "", None, None, "", ""),  # one of the versions is accepted
    ("1.5.21", {"min": "1.40"}, "", "fail", "engine-unsuitable", "1.34", "1.6 or later"),
    ("1.6.1", {"min": "1.40"}, "", None, None, "", ""),
    (None, {"status": 500}, "", "warn", "engine-unreachable", "internal error", "Start the container engine"),
    (None, {"status": 503, "message": "starting"}, "", "warn", "engine-unreachable", "starting", "Start the container engine"),
    (None, {"status": 500}, PODMAN, "warn", "engine-unreachable", r"podman\.sock", r"\[moby_runtime\]"),
    (None, {}, PODMAN.replace("unix:///run/podman/podman.sock", "tcp://127.0.0.1:2375"), "fail", "config-conflict", "scheme",
     "unix:///var/run/docker.sock"),
    (None, {}, PODMAN.replace("unix:///run/podman/podman.sock", "UNIX:/var/run/docker.sock"), None, None, "", ""),
])
def test_the_container_engine_of_a_new_gateway(fresh, release, faults, text, result, kind, message, hint):
    """It has to accept what the installed release asks for. One that is not up yet may come later."""
    w = fresh()
    if release:
        (w.root / "var/lib/dpkg").mkdir(parents=True)
        (w.root / "var/lib/dpkg/status").write_text(f"Package: aziot-edge\nVersion: {release}-1\n")
    w.config_toml.write_text(text)
    w.standin_faults(engine=faults)
    if result:
        expect(w, "iotedge-apply", result, kind, message, hint)
    else:
        assert check(w)[0] == FRESH


@pytest.mark.parametrize("load, message, hint", [("not-found", "No container engine is installed.*docker.sock", "moby-engine"),
                                                 ("masked", "'docker.service' is masked", "systemctl unmask")])
def test_no_container_engine(fresh, load, message, hint):
    w = fresh()
    w.standin_faults(units={"docker.service": {"load": load}})
    (w.root / "var/run/docker.sock").unlink()
    expect(w, "iotedge-apply", "fail", "runtime-missing", message, hint)


def test_a_container_engine_that_is_silent(fresh):
    """As dockerd while it starts: its socket unit takes the connections."""
    w = fresh()
    w.standin_faults(engine={"silent": True})
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ends = pool.submit(expect, w, "iotedge-apply", "warn", "engine-unreachable", "silent for 5 seconds",
                           "Start the container engine", environment=w.clock())
        wait_for("the question", lambda: ends.done() or w.standin_events("engine-silent"))
        w.fast_forward("the end of its patience", ends.done)
        ends.result()


def test_a_container_engine_with_another_socket(fresh):
    w = fresh()
    socket_path = w.root / "run/podman/podman.sock"
    socket_path.parent.mkdir(parents=True)
    (w.root / "var/run/docker.sock").rename(socket_path)
    w.config_toml.write_text(PODMAN)
    assert check(w)[0] == FRESH


def test_config_toml_that_may_be_replaced(fresh):
    w = fresh(HandOff={"ReplaceProvisioning": "yes"})
    w.config_toml.write_text(OTHERS)
    expect(w, "iotedge-config", "warn", "config-conflict", "is replaced", "ReplaceProvisioning=")


ASSIGNED = {"enrollment": ("skip", None)}


@pytest.mark.parametrize("text, message", [(None, "config.toml' is gone"), ("aziot_keys = {}\n", "provisioning is gone")])
def test_config_toml_is_lost(new_world, hub_ports, text, message):
    """As by an A/B update. The remedy helps."""
    w = new_world()
    w.start_gateway()
    w.config_toml.unlink()
    if text:
        w.config_toml.write_text(text)
    expect(w, "iotedge-config", "fail", None, message, "systemctl restart dps-provisiond", base=ASSIGNED)
    w.restart_daemon()
    w.wait("the hand-off", lambda p: p["State"] == "handed-off" and p["Step"] == "idle" and w.config_toml.exists() and
           "id_scope" in w.config_toml.read_text())
    assert check(w)[0] == ASSIGNED


@pytest.mark.parametrize("change", ["payload", "record", "tpm", "url"])
def test_a_healthy_gateway_is_not_for_an_earlier_configuration(new_world, hub_ports, change):
    """`check` does not compare what it does not know, and compares URLs by what they mean."""
    w = new_world()
    if change == "payload":
        (w.dir / "säge 1.json").write_text("{}")
        w.write_config(Provisioning={"Payload": w.dir / "säge 1.json"})
    w.start_gateway()
    base = ASSIGNED
    if change in ("record", "tpm"):
        w.stop_daemon()
        w.kill_helper("dps-handoffd")
        (w.root / "var/lib/dps-handoffd/record.json").unlink()
        base = {**ASSIGNED, "daemon": ("warn", None)}
    if change == "tpm":
        w.write_config(Tpm={"Tcti": f"swtpm:path={w.dir}/nowhere"})
        base = {**base, "tpm-answers": ("fail", "tpm-missing"), "ek": ("skip", None), "enrollment": ("skip", None)}
    if change == "url":
        w.config_toml.write_text(w.config_toml.read_text().replace("https://localhost:", "https://LOCALHOST:0"))
    bad, lines = check(w)
    assert bad == base, lines
    assert line(lines, "iotedge-config")["message"] == "Provisioned as this device is configured", lines
    assert line(lines, "iotedge-apply")["message"] == "Nothing is left to do", lines


def test_an_earlier_configuration(new_world):
    w = new_world()
    w.start_gateway()
    w.stop_daemon()
    w.write_config(Provisioning={"IdScope": "0ne00OTHER"})
    lines = check(w)[1]
    assert "earlier configuration" in line(lines, "iotedge-config")["message"], lines
    assert line(lines, "iotedge-apply")["message"] == "It can be written and applied", lines


IDENTITYD = "var/lib/aziot/identityd"


@pytest.mark.parametrize("change, message", [("copy", "00-super.toml' does not say"), ("edged", "edged/config.d/00-super.toml' is missing"),
                                             ("device", "device_info' names 'other'")])
def test_what_was_handed_off_is_another(new_world, hub_ports, change, message):
    """Verify calls it lost, or moved. The hint helps."""
    w = new_world()
    w.start_gateway()
    service = "edged" if change == "edged" else "identityd"
    copy, info = w.root / f"etc/aziot/{service}/config.d/00-super.toml", w.root / IDENTITYD / "device_info"
    if change != "device":
        copy.unlink()
    else:
        info.write_text(info.read_text().replace(w.bus.properties()["DeviceId"], "other"))
    expect(w, "iotedge-apply", "fail", None, message, "systemctl restart dps-provisiond", base=ASSIGNED)
    w.restart_daemon()
    w.wait("the hand-off", lambda p: p["State"] == "handed-off" and p["Step"] == "idle" and copy.exists() and
           p["DeviceId"] in info.read_text())
    assert "iotedge-apply" not in check(w)[0]


def test_device_info_is_lost(new_world, hub_ports):
    """IoT Edge runs on, but would register at its next start. The hint works."""
    w = new_world()
    w.start_gateway()
    (w.root / "var/lib/aziot/identityd/device_info").unlink()
    expect(w, "iotedge-apply", "fail", None, "device_info' does not exist", "systemctl restart dps-provisiond", base=ASSIGNED)
    w.restart_daemon()
    w.wait("the hand-off", lambda p: p["State"] == "handed-off" and p["Step"] == "idle" and
           (w.root / "var/lib/aziot/identityd/device_info").exists())
    assert check(w)[0] == ASSIGNED


@pytest.mark.parametrize("daemon", [True, False])
def test_a_payload_that_iot_edge_ignores(new_world, hub_ports, daemon):
    """There is one line: the daemon's warning if the daemon runs, else the probe's."""
    w = new_world()
    (w.dir / "payload.json").write_text("{}")
    w.write_config(Provisioning={"Payload": w.dir / "payload.json"})
    w.standin_faults(release="1.3")
    w.start_gateway()
    base = ASSIGNED
    if not daemon:
        w.stop_daemon()
        base = {**ASSIGNED, "daemon": ("warn", None)}
    expect(w, "daemon-error" if daemon else "iotedge-apply", "warn", "payload-ignored", r"payload\.json", "1.4", base=base)


def test_config_toml_is_lost_and_can_not_be_made_again(new_world, hub_ports):
    w = new_world()
    w.start_gateway()
    w.config_toml.unlink()
    write_base(w, "= =")
    texts = [x["message"] for x in check(w)[1] if x["id"] == "iotedge-config"]
    assert len(texts) == 2 and "config.toml' is gone" in texts[0] and "iotedge-base.toml:1: not TOML" in texts[1], texts


@pytest.mark.parametrize("daemon", [True, False])
def test_the_hub_is_no_longer_allowed(new_world, hub_ports, daemon):
    """It works on, and one line says so: the daemon's own, if it runs."""
    w = new_world()
    w.start_gateway()
    base = ASSIGNED
    if not daemon:
        w.stop_daemon()
        base = {**ASSIGNED, "daemon": ("warn", None)}
    assert "AllowedHubs=" in line(check(w)[1], "hub-allowed")["message"]
    allowed = w.config["HandOff"]["AllowedHubs"]
    w.write_config(HandOff={"AllowedHubs": "contoso-*.azure-devices.net"})
    if daemon:
        w.wait("the warning", lambda p: p["Warnings"])
    expect(w, "daemon-error" if daemon else "hub-allowed", "warn", "hub-not-allowed", rf"'localhost:{w.port}'",
           "AllowedHubs=", base=base)
    w.write_config(HandOff={"AllowedHubs": allowed})
    if daemon:
        w.wait("no warning", lambda p: not p["Warnings"])
    assert check(w)[0] == base


def test_a_hub_that_was_never_allowed(new_world):
    """The daemon says so already."""
    w = new_world(HandOff={"AllowedHubs": "contoso-*.azure-devices.net"})
    w.start_standins()
    w.enroll(w.enrollment(capabilities={"iotEdge": True}))
    w.start_daemon()
    w.wait_for_failure("hub-not-allowed")
    bad, lines = check(w)
    assert bad["daemon-error"] == ("fail", "hub-not-allowed") and "hub-allowed" not in bad, lines


def test_the_hub_key_is_lost(new_world, hub_ports):
    """The hint helps, and costs no registration."""
    w = new_world()
    w.start_gateway()
    w.tpm2("evictcontrol", "-c", "0x81000100")
    expect(w, "hub-key", "fail", None, "gone from 0x81000100", "systemctl restart dps-provisiond", base=ASSIGNED)
    registrations = w.registrations()
    w.restart_daemon()
    wait_for("the key", w.hub_key)
    w.wait("the end of the look", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    assert check(w)[0] == ASSIGNED and w.registrations() == registrations


def test_no_clock_that_runs_without_power(fresh):
    w = fresh()
    (w.root / "sys/class/rtc/rtc0").rmdir()
    expect(w, "boot-clock", "warn", None, "no clock that runs without power", "systemd-time-wait-sync.service")
    w.standin_faults(enabled=["chrony-wait.service"])
    bad, lines = check(w)
    assert bad == FRESH and "waits for 'chrony-wait.service'" in line(lines, "boot-clock")["message"], lines


def test_a_unit_that_fails(new_world, hub_ports):
    w = new_world()
    w.start_gateway()
    starts = len(w.standin_events("edged-start"))
    w.standin_faults(units={"aziot-edged.service": {"start": "flap"}})
    starts = len(w.standin_events("edged-start"))
    w.bus.systemd("RestartUnit", "aziot-edged.service")
    wait_for("the job", lambda: w.jobs()[-1] == ("restart", "aziot-edged.service") and
             len(w.standin_events("edged-start")) > starts)
    expect(w, "iotedge-units", "fail", "restart-failed", "'aziot-edged.service' has failed: exit-code", "journalctl",
           base=ASSIGNED)


@pytest.mark.parametrize("name", ["aziot-identityd", "aziot-tpmd", "aziot-keyd", "aziot-certd"])
def test_a_socket_that_was_stopped(new_world, hub_ports, name):
    """Its service may rest, but no client could start it. The hint names what starts them all."""
    w = new_world()
    w.start_gateway()
    for unit in (f"{name}.socket", f"{name}.service"):
        jobs = len(w.jobs())
        w.bus.systemd("StopUnit", unit)
        wait_for("the job", lambda n=jobs: len(w.jobs()) > n)
    expect(w, "iotedge-units", "fail", "restart-failed", f"'{name}.socket' does not run", "'iotedge system restart'",
           base={**ASSIGNED, **({"identityd": ("skip", None)} if name == "aziot-identityd" else {})})


def run_job(world, method, unit):
    jobs = len(world.jobs())
    world.bus.systemd(method, unit)
    wait_for("the job", lambda: len(world.jobs()) > jobs)


UNITS = ("aziot-edged.service", "aziot-edged.mgmt.socket", "aziot-edged.workload.socket", "aziot-identityd.service",
         "aziot-tpmd.service", "aziot-keyd.service", "aziot-keyd.socket", "aziot-certd.service", "aziot-certd.socket")


@pytest.mark.parametrize("unit, fault, message", [
    ("aziot-edged.service", {"start": "crash-loop", "restart": 86400}, "ends again and again: exit-code"),
    ("aziot-edged.service", {"start": "fail"}, "has failed"),
    ("aziot-identityd.service", {"start": "crash-loop", "restart": 86400}, "ends again and again"),
    ("aziot-keyd.service", {"start": "fail"}, "has failed"),
])
def test_a_dead_gateway_is_not_called_healthy(new_world, hub_ports, unit, fault, message):
    w = new_world()
    w.start_gateway()
    w.standin_faults(units={unit: fault})
    run_job(w, "RestartUnit", unit)
    lines = check(w)[1]
    units = line(lines, "iotedge-units")
    assert (units["result"], units["kind"]) == ("fail", "restart-failed") and unit in units["message"], units
    assert message in units["message"] and "iotedge system restart" in units["remedy"], units
    assert "identityd" in unit or [x["id"] for x in lines if x["result"] == "fail"] == ["iotedge-units"], lines


def test_everything_was_stopped(new_world, hub_ports):
    """As `iotedge system stop` does. There is one line, and its hint starts everything."""
    w = new_world()
    w.start_gateway()
    for unit in UNITS:
        run_job(w, "StopUnit", unit)
    lines = check(w)[1]
    units = line(lines, "iotedge-units")
    assert units["result"] == "fail" and "'aziot-keyd.socket' does not run; also down: " in units["message"], units
    assert "aziot-edged.service" in units["message"] and "iotedge system restart" in units["remedy"], units


def test_aziot_edged_without_its_identity(new_world, hub_ports):
    w = new_world()
    w.start_gateway()
    (w.root / "var/lib/aziot/edged/cache/provisioning_state").unlink()
    expect(w, "iotedge-units", "fail", "restart-failed", "has not got its identity", "iotedge system restart", base=ASSIGNED)


def test_aziot_edged_fails_for_its_engine(new_world, hub_ports):
    w = new_world()
    w.start_gateway()
    (w.root / "var/run/docker.sock").unlink()
    w.standin_faults(units={"aziot-edged.service": {"start": "crash-loop", "restart": 86400}})
    run_job(w, "RestartUnit", "aziot-edged.service")
    expect(w, "iotedge-units", "fail", "engine-unreachable", "docker.sock", "engine", base=ASSIGNED)


def test_a_fresh_gateway_is_not_called_broken(fresh):
    """Before anything was applied, IoT Edge's services end with the status 153."""
    w = fresh()
    w.standin_faults(units={unit: {"start": "fail"} for unit in ("aziot-edged.service", "aziot-keyd.service")})
    run_job(w, "StartUnit", "aziot-edged.service")
    run_job(w, "StartUnit", "aziot-keyd.service")
    bad, lines = check(w)
    assert bad == FRESH and "does not run yet" in line(lines, "iotedge-units")["message"], lines


def test_identityd_is_silent(new_world, hub_ports):
    w = new_world()
    w.start_gateway()
    w.standin_faults(identityd="silent")
    asked = len(w.standin_events("connected"))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ends = pool.submit(expect, w, "identityd", "fail", "confirm-timeout", "does not answer", "journalctl", base=ASSIGNED,
                           environment=w.clock())
        wait_for("the question", lambda: ends.done() or len(w.standin_events("connected")) > asked)
        w.fast_forward("the end of its patience", ends.done)
        ends.result()


def test_identityd_has_no_socket(new_world, hub_ports):
    """No proxy is blamed for it."""
    w = new_world()
    w.start_gateway()
    (w.root / "run/aziot/identityd.sock").unlink()
    expect(w, "identityd", "fail", "confirm-timeout", "does not answer: The connection to 'identityd.sock' failed",
           "journalctl", base=ASSIGNED)


@pytest.mark.namespaces
def test_a_firewall_before_the_hub(new_world):
    """DPS is reached, the hub is not: its name leads to an address where nobody answers, as behind a firewall."""
    w = new_world()
    w.start_standins()
    w.enroll(w.enrollment(capabilities={"iotEdge": True}, iotHubHostName=f"hub-b.localhost:{w.port}"))
    w.start_daemon()
    w.wait_for_state("handed-off")
    prefix = own_etc(w, hosts="127.0.0.1 localhost\n127.0.9.9 hub-b.localhost\n")
    bad, lines = check(w, prefix=prefix)
    assert bad == {"enrollment": ("skip", None), "hub-443": ("fail", "hub-unreachable"),
                   "hub-5671": ("warn", "hub-unreachable"), "hub-8883": ("warn", "hub-unreachable")}, lines
    assert "firewall" in line(lines, "hub-443")["remedy"] and "AmqpWs" in line(lines, "hub-5671")["remedy"]
    with socket.create_server(("127.0.9.9", w.port)):
        bad, lines = check(w, prefix=prefix)
    assert "hub-443" not in bad and bad["hub-5671"][0] == "warn", lines
