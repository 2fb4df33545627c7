"""Suite "handoff": IoT Edge writes URLs in canonical form, which can differ from what an operator wrote."""
import contextlib
import json
import shutil
import socket
import socketserver
import threading
import tomllib

import pytest
from handoff import APPLY, applied_path, edge, info_path, record_path
from harness import DEADLINE


class Connect(socketserver.StreamRequestHandler):
    """A proxy through which port 443 of each host is the emulator's."""

    def handle(self):
        self.server.seen.append(self.rfile.readline().decode().split()[1])
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.server.target)) as target:
            def copy(source, sink):
                with contextlib.suppress(OSError):
                    while data := source.recv(65536):
                        sink.sendall(data)
                    sink.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=copy, args=(target, self.connection), daemon=True)
            thread.start()
            copy(self.connection, target)
            thread.join(DEADLINE)


@contextlib.contextmanager
def port_443(world):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connect) as server:
        server.daemon_threads = True
        server.target, server.seen = world.port, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        world.write_config(Network={"Proxy": f"http://127.0.0.1:{server.server_address[1]}"},
                           Provisioning={"GlobalEndpoint": "https://LOCALHOST:443"})
        yield server
        server.shutdown()


def provisioning(path):
    return tomllib.loads(path.read_text())["provisioning"]


def starts_change_nothing(world, times=3):
    """The next starts of the daemon change no file, start no unit, and register nothing."""
    files = [path.read_bytes() for path in (world.config_toml, applied_path(world), info_path(world))]
    for _ in range(times):
        world.stop_daemon()
        seen = len(world.standin_events())
        world.start_daemon()
        world.wait("the end of the look", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
        assert not [e for e in world.standin_events()[seen:] if e["event"] in ("queued", "job", "apply", "edged-start")]
    assert files == [path.read_bytes() for path in (world.config_toml, applied_path(world), info_path(world))]
    assert len(world.standin_events("edged-start")) == len(world.standin_events("apply")) == world.registrations() == 1


@pytest.mark.smoke
def test_an_endpoint_with_the_default_port(new_world):
    w = new_world()
    with port_443(w) as proxy:
        p = w.start_gateway()
        assert set(proxy.seen) == {"localhost:443"}
        assert p["GlobalEndpoint"] == "https://localhost"
        assert provisioning(w.config_toml)["global_endpoint"] == "https://localhost/"
        starts_change_nothing(w)


def test_another_spelling_of_the_endpoint_is_no_change(new_world):
    """An earlier version may have stored it in the record."""
    w = new_world()
    w.start_gateway()
    spelling = f"https://LocalHost:0{w.port}/"
    seen = len(w.daemon.lines)
    w.write_config(Provisioning={"GlobalEndpoint": spelling})
    w.daemon.wait_for_line("configuration is unchanged", start=seen)
    w.stop_daemon()
    path = w.dir / "state/state.json"
    path.write_text(path.read_text().replace(f"https://localhost:{w.port}", spelling))
    assert spelling in json.dumps(json.loads(path.read_text()))
    w.start_daemon()
    w.wait("the end of the look", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    starts_change_nothing(w)


@pytest.mark.parametrize("name, url", [
    ("a site.json", "a%20site.json"), ("säge.json", "s%C3%A4ge.json"), ("100%20.json", "100%2520.json"),
    ("a\\b{c}.json", "a%5Cb%7Bc%7D.json")])
def test_a_payload_s_name(new_world, name, url):
    w = new_world()
    path = w.dir / name
    path.write_text('{"site": "north"}')
    w.write_config(Provisioning={"Payload": path})
    w.start_gateway()
    for file in (w.config_toml, applied_path(w)):
        assert provisioning(file)["payload"] == {"uri": f"file://{w.dir}/{url}"}
    starts_change_nothing(w)


def test_an_operator_s_spelling_of_the_same_provisioning(new_world):
    """A provisioning that means what we would write is neither written nor applied again."""
    w = new_world()
    enrollment = edge(w)
    path = w.dir / "säge 1.json"
    path.write_text("{}")
    w.write_config(Provisioning={"Payload": path})
    w.config_toml.parent.mkdir(parents=True)
    w.config_toml.write_text(f"""[provisioning]
source = "dps"
global_endpoint = "HTTPS://LocalHost:{w.port}"
id_scope = "{w.config["Provisioning"]["IdScope"]}"
payload.uri = "file://localhost{w.dir}/x/../%73äge 1.json"
[provisioning.attestation]
method = "tpm"
registration_id = "{enrollment["registrationId"]}"
""")
    text = w.config_toml.read_text()
    w.enroll(enrollment)
    w.start_standins("--configured")
    assert provisioning(applied_path(w))["payload"] == {"uri": f"file://{w.dir}/%73%C3%A4ge%201.json"}
    w.start_daemon()
    w.wait_for_state("handed-off")
    assert w.config_toml.read_text() == text and not w.standin_events("apply")


def test_a_gateway_without_the_helper_s_record(new_world):
    """The helper compares IoT Edge's files, so it does not need its record."""
    w = new_world()
    with port_443(w):
        w.start_gateway()
        w.stop_daemon()
        w.kill_helper("dps-handoffd")
        shutil.move(record_path(w), w.dir)
        w.start_daemon()
        w.wait("the end of the look", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
        starts_change_nothing(w)


def told(world):
    return [warning for warning in world.bus.properties()["Warnings"] if warning[0] == "payload-ignored"]


@pytest.mark.smoke
def test_iot_edge_1_3_ignores_the_payload(new_world):
    """The payload is applied once. Each start of the daemon has one warning."""
    w = new_world()
    w.standin_faults(release="1.3")
    path = w.dir / "payload.json"
    path.write_text("{}")
    w.write_config(Provisioning={"Payload": path})
    w.start_gateway()
    assert "payload" in provisioning(w.config_toml) and "payload" not in provisioning(applied_path(w))
    assert len(told(w)) == 1
    starts_change_nothing(w)
    assert len(told(w)) == 1 and str(path) in told(w)[0][1]
    w.daemon.wait_for_line("ignores the payload")
    assert sum("ignores the payload" in line for line in w.daemon.lines) == 1

    w.standin_faults()  # upgraded, and applied as the warning says
    w.bus.systemd("StartUnit", APPLY)
    w.wait("the payload", lambda p: "payload" in provisioning(applied_path(w)))
    w.restart_daemon()
    w.wait("the end of the look", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    assert not told(w)


def test_iot_edge_1_3_without_the_record(new_world):
    """Without the record the payload is applied once more."""
    w = new_world()
    w.standin_faults(release="1.3")
    (w.dir / "payload.json").write_text("{}")
    w.write_config(Provisioning={"Payload": w.dir / "payload.json"})
    w.start_gateway()
    w.stop_daemon()
    w.kill_helper("dps-handoffd")
    record_path(w).unlink()
    for _ in range(3):
        w.start_daemon()
        w.wait("the end of the look", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
        assert len(told(w)) == 1
        w.stop_daemon()
    assert len(w.standin_events("apply")) == 2


def test_a_changed_configuration_is_applied_on_iot_edge_1_3(new_world):
    w = new_world()
    w.standin_faults(release="1.3")
    for name in ("one.json", "two.json"):
        (w.dir / name).write_text("{}")
    w.write_config(Provisioning={"Payload": w.dir / "one.json"})
    w.start_gateway()
    w.stop_daemon()
    w.write_config(Provisioning={"Payload": w.dir / "two.json"})
    w.start_daemon()
    w.wait("the new payload", lambda p: "two.json" in w.config_toml.read_text() and p["State"] == "handed-off" and
           p["Step"] == "idle")
    assert len(w.standin_events("apply")) == 2 and "two.json" in told(w)[0][1]
