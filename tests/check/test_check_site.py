"""Suite "check": what IoT Edge and the container engine need of the site: their own proxy settings, and a registry."""
import re
import socket
import threading

import pytest
from checking import FRESH, check, expect, line
from handoff import prepared
from harness import wait_for
from power import kinds

PROXY = "http://127.0.0.1:9"
ALL = ["aziot-identityd.service", "aziot-edged.service", "docker.service"]
AGENT = '[agent]\nname = "edgeAgent"\ntype = "docker"\nconfig = { image = "mcr.microsoft.com/azureiotedge-agent:1.6" }\n' \
        '[agent.env]\n'
NAMES = {"aziot-identityd.service": "aziot-identityd", "aziot-edged.service": "aziot-edged",
         "docker.service": "the container engine", "agent": "edgeAgent"}


def variables(**values):
    return [f"{name}={value}" for name, value in values.items()]


def lacking(world):
    """The parts that `check` says have no proxy. Only the lines of IoT Edge count: the proxy does not exist."""
    found = [x for x in check(world)[1] if x["id"] == "iotedge-proxy"]
    if not found:
        return None
    assert (found[0]["result"] == "warn") == (found[0]["kind"] == "proxy-missing"), found
    if found[0]["result"] == "ok":
        return set()
    assert "systemctl edit" in found[0]["remedy"] and "https_proxy" in found[0]["remedy"], found
    return set(re.search("these do not: (.*)", found[0]["message"])[1].split(", "))


def test_who_has_no_proxy(fresh):
    """systemd passes on its own environment, a unit's variables, and those in files. docker has a file of settings."""
    w = fresh()
    everyone = set(NAMES.values())
    assert lacking(w) is None
    w.write_config(Network={"Proxy": PROXY})
    assert lacking(w) == everyone
    for name, variable in (("https_proxy", PROXY), ("HTTPS_PROXY", PROXY), ("no_proxy", "*"),
                           ("NO_PROXY", "10.0.0.1,.azure-devices.net,mcr.microsoft.com")):
        w.standin_faults(environment={unit: variables(**{name: variable}) for unit in ALL})
        w.config_toml.write_text(AGENT + f'{name} = "{variable}"\n')
        assert lacking(w) == set(), name
        w.config_toml.write_text("")
    assert lacking(w) == {"edgeAgent"}
    for unit in ALL:
        w.standin_faults(environment={other: variables(https_proxy=PROXY) for other in ALL if other != unit})
        assert lacking(w) == {NAMES[unit], "edgeAgent"}
    for variable in (variables(https_proxy=""), variables(http_proxy=PROXY), variables(no_proxy="other.example")):
        w.standin_faults(environment={unit: variable for unit in ALL})
        assert lacking(w) == everyone, variable
    w.standin_faults(environment={"systemd": variables(https_proxy=PROXY)})
    assert lacking(w) == {"edgeAgent"}
    (w.root / "etc/proxy.env").write_text(f'# the site\nLANG=C\n  HTTPS_PROXY="{PROXY}"\n')
    w.standin_faults(**{"environment-files": {unit: ["/etc/proxy.env"] for unit in ALL}})
    assert lacking(w) == {"edgeAgent"}
    (w.root / "etc/docker").mkdir(parents=True)
    w.standin_faults()
    for proxies in ('{"no-proxy": null}', '{"https-proxy": null, "no-proxy": ["x"]}', '{"https-proxy": 7}', "null"):
        (w.root / "etc/docker/daemon.json").write_text(f'{{"proxies": {proxies}}}')
        assert lacking(w) == everyone, proxies
    (w.root / "etc/docker/daemon.json").write_text(f'{{"proxies": {{"https-proxy": "{PROXY}"}}}}')
    w.standin_faults()
    assert lacking(w) == everyone - {"the container engine"}
    w.standin_faults(environment={"dps-provisiond.service": variables(no_proxy=".azure-devices.net")})
    assert lacking(w) == set()  # the hub needs no proxy at this site
    w.standin_faults()
    w.write_config(Network={"Proxy": None})
    assert lacking(w) is None
    w.standin_faults(environment={"dps-provisiond.service": variables(https_proxy=PROXY)})
    assert lacking(w) == everyone - {"the container engine"}


def test_hub_that_only_the_proxy_reaches(new_world):
    """The failure, the warning and `check` have the same hint."""
    w = prepared(new_world)
    w.standin_faults(environment={"dps-provisiond.service": variables(HTTPS_PROXY=PROXY)})
    w.write_config(HandOff={"AllowedHubs": "*.invalid"})
    w.enroll(w.enrollment(capabilities={"iotEdge": True}, iotHubHostName="contoso-fleet-1.invalid"))
    w.start_daemon()
    p = w.wait_for_failure("hub-unreachable")
    hint = p["LastError"][3]
    assert "https_proxy" in hint and "aziot-identityd" in hint
    assert kinds(p) == ["proxy-missing"] and p["Warnings"][0][2] == hint and "aziot-identityd" in p["Warnings"][0][1]
    lines = check(w)[1]
    assert [x["kind"] for x in lines if x["remedy"] == hint] == ["hub-unreachable", "proxy-missing"], lines
    w.standin_faults(environment={"dps-provisiond.service": variables(HTTPS_PROXY=PROXY),
                                  "aziot-identityd.service": variables(HTTPS_PROXY=PROXY)})
    w.retry()
    p = w.wait("another hint", lambda p: p["LastError"][0] == "hub-unreachable" and p["LastError"][3] != hint)
    assert "firewall" in p["LastError"][3]


def test_engine_on_tcp(fresh):
    """Only `check` can look at it. Nothing asks docker's socket."""
    w = fresh()
    w.standin_faults(engine={"status": 500})
    server, _ = listener()
    w.config_toml.write_text(f'[moby_runtime]\nuri = "http://127.0.0.1:{server.getsockname()[1]}"\nnetwork = "n"\n')
    assert check(w)[0] == FRESH
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    expect(w, "iotedge-engine", "warn", "engine-unreachable", "127.0.0.1", "Start the container engine")


# --- the registry ---

def listener(answer=None):
    """A server; a proxy answers each request with `answer`."""
    server = socket.create_server(("127.0.0.1", 0))
    seen = []

    def serve():
        while True:
            try:
                client = server.accept()[0]
            except OSError:
                return
            with client:
                if answer:
                    seen.append(client.recv(4096).split(b"\r\n")[0].decode())
                    client.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return server, seen


def agent_of(registry):
    return AGENT.replace("mcr.microsoft.com", registry).removesuffix("[agent.env]\n")


@pytest.mark.root
def test_registry(fresh):
    """One connection, if the engine does not have the image."""
    w = fresh()
    assert "azureiotedge-agent" in line(check(w)[1], "registry")["message"]
    w.standin_faults(engine={"images": []})
    server, _ = listener()
    port = server.getsockname()[1]
    w.config_toml.write_text(agent_of(f"localhost:{port}"))
    bad, lines = check(w)
    assert bad == FRESH and f"localhost:{port}" in line(lines, "registry")["message"], lines
    assert check(w, "--no-network")[0]["registry"] == ("skip", None)
    server.shutdown(socket.SHUT_RDWR)  # close() alone does not end an accept()
    server.close()
    bad, lines = check(w)
    assert bad == {**FRESH, "registry": ("warn", "registry-unreachable")}, lines
    found = line(lines, "registry")
    assert f"localhost:{port}" in found["message"] and "docker load" in found["remedy"], found
    w.standin_faults(engine={"images": [f"localhost:{port}/azureiotedge-agent:1.6"]})
    assert check(w)[0] == FRESH
    w.config_toml.write_text(agent_of("$upstream:443"))
    w.standin_faults(engine={"images": []})
    assert not [x for x in check(w)[1] if x["id"] == "registry"]


@pytest.mark.root
def test_registry_through_the_proxy_of_the_engine(fresh):
    w = fresh()
    w.config_toml.write_text(agent_of("registry.invalid"))
    server, seen = listener(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
    w.standin_faults(engine={"images": []}, environment={"docker.service": variables(https_proxy=proxy)})
    bad, lines = check(w)
    assert bad == {**FRESH, "registry": ("warn", "registry-unreachable")}, lines
    wait_for("the request", lambda: seen)
    assert seen[0].startswith("CONNECT registry.invalid:443"), seen
    w.standin_faults(engine={"images": []}, environment={"docker.service": variables(https_proxy=proxy, no_proxy=".invalid")})
    del seen[:]
    assert check(w)[0]["registry"] == ("warn", "registry-unreachable") and seen == []
    server.shutdown(socket.SHUT_RDWR)  # close() alone does not end an accept()
    server.close()
