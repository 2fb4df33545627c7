"""Suite "daemon": the signals that end a wait early: a default route, the right clock, the TPM's device unit."""
import os
import subprocess
import time

import pytest
from dbus_next import Message, Variant
from handoff import edge
from harness import wait_for

NO_EDGE = {"HandOff": {"Target": "none"}}
LONG = {"InitialSec": 600, "MaxSec": 600, "OperatorInitialSec": 600}
HOUR = 3600


# --- the network ---

class Network:
    """A daemon in a network namespace with a loopback interface, on which every connection is refused."""

    def __init__(self, new_world, **settings):
        self.w = new_world(Retry=LONG, **NO_EDGE, **settings)
        self.w.start_daemon(prefix=["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"])
        self.pid = self.w.daemon.process.pid
        self.w.wait("a failure", lambda p: p["LastError"][0] == "connect")

    def run(self, *commands):
        for command in commands:
            subprocess.run(["nsenter", "-t", str(self.pid), "-n", "ip", *command.split()], check=True)

    def uplink(self, number=0, gateway=True):
        """An interface with a static address, and a default route."""
        self.run(f"link add up{number} type veth peer name far{number}", f"link set far{number} up",
                 f"link set up{number} up", f"address add 192.0.{number}.2/24 dev up{number}")
        if gateway:
            self.run(f"route add default via 192.0.{number}.1 dev up{number} metric {100 + number}")

    def container(self, number):
        """As the container engine does it: a bridge with an address, and a veth of which one end goes away."""
        if number == 0:
            self.run("link add docker0 type bridge", "address add 172.17.0.1/16 dev docker0", "link set docker0 up")
        self.run(f"link add veth{number} type veth peer name inner{number}", f"link set veth{number} master docker0",
                 f"link set veth{number} up", f"link set inner{number} up")

    def attempts(self):
        return self.w.bus.properties()["Attempts"]

    def attempt_follows(self, number, limit=10):
        """Returns after how many seconds."""
        begun = time.monotonic()
        self.w.wait(f"attempt {number}", lambda p: p["Attempts"] == number, limit)
        return time.monotonic() - begun

    def brought_forward(self):
        return sum("brought forward" in line for line in self.w.daemon.lines)



@pytest.mark.namespaces
def test_the_uplink_comes_after_three_containers(new_world, record_property):
    n = Network(new_world)
    for number in range(3):
        n.container(number)
    n.attempt_follows(2)  # for the address of the bridge: there is no default route so far
    n.uplink()
    record_property("seconds from the uplink to the attempt", n.attempt_follows(3))


@pytest.mark.namespaces
def test_containers_are_no_news_beside_an_uplink(new_world):
    n = Network(new_world)
    n.uplink()
    n.attempt_follows(2)
    for number in range(3):
        n.container(number)
    n.run("address add 10.1.2.3/24 dev docker0", "route add 10.9.0.0/16 via 172.17.0.9 dev docker0")
    n.uplink(1)
    n.attempt_follows(3)
    assert n.brought_forward() == 2


@pytest.mark.namespaces
def test_a_renewed_lease_is_no_news(new_world):
    n = Network(new_world)
    n.uplink()
    n.attempt_follows(2)
    renewals = ["route replace default via 192.0.0.1 dev up0 metric 100",
                "route replace default via 192.0.0.1 dev up0 metric 100 mtu 1400",
                "address replace 192.0.0.2/24 dev up0 valid_lft 600 preferred_lft 600",
                "route add default via 192.0.0.1 dev up0 metric 300",
                "route del default metric 100", "route add default via 192.0.0.1 dev up0 metric 100"]
    n.run(*renewals)
    n.uplink(1)
    n.attempt_follows(3)
    assert n.brought_forward() == 2


@pytest.mark.namespaces
@pytest.mark.parametrize("how", ["link", "carrier", "flush", "gateway", "ipv6"])
def test_an_uplink_that_comes_back(new_world, how):
    n = Network(new_world)
    n.uplink()
    n.attempt_follows(2)
    seen = len(n.w.daemon.lines)
    if how == "link":  # the kernel removes the route without a message
        n.run("link set up0 down", "link set up0 up", "route add default via 192.0.0.1 dev up0 metric 100")
    elif how == "carrier":  # the route stays
        n.run("link set far0 down")
        n.w.daemon.wait_for_line("default routes that are up: 0", start=seen)
        n.run("link set far0 up")
    elif how == "flush":
        n.run("address flush dev up0", "address add 192.0.0.2/24 dev up0",
              "route add default via 192.0.0.1 dev up0 metric 100")
    elif how == "gateway":
        n.run("route replace default via 192.0.0.3 dev up0 metric 100")
    else:
        n.run("-6 route add default via fe80::1 dev up0")
    n.attempt_follows(3)


@pytest.mark.namespaces
def test_a_site_without_a_default_route(new_world):
    """A proxy or DPS is in a network of the site."""
    n = Network(new_world)
    n.uplink(gateway=False)
    n.attempt_follows(2)


@pytest.mark.namespaces
def test_a_route_to_a_network_of_the_site(new_world):
    n = Network(new_world)
    n.run("link add up0 type veth peer name far0", "link set far0 up", "link set up0 up",
          "route add 10.0.0.0/8 via 10.255.0.1 dev up0 onlink")
    n.attempt_follows(2)


@pytest.mark.namespaces
def test_more_messages_than_the_socket_holds(new_world):
    """The daemon is stopped meanwhile; some messages are lost, and it lists the routes."""
    n = Network(new_world)
    n.uplink()
    n.attempt_follows(2)
    os.kill(n.pid, 19)
    try:
        batch = "".join(f"address add 10.{i >> 8}.{i & 255}.1/32 dev lo\n" for i in range(2000))
        subprocess.run(["nsenter", "-t", str(n.pid), "-n", "ip", "-batch", "-"], input=batch, text=True, check=True)
        n.uplink(1)
    finally:
        os.kill(n.pid, 18)
    n.attempt_follows(3)


# --- the TPM ---

TCTI, UNIT = "device:/nonexistent/tpm-rm0", r"nonexistent-tpm\x2drm0.device"


def without_tpm(new_world):
    """A device node that does not exist; its unit can be plugged all the same."""
    w = new_world(tcti=TCTI, Retry=LONG, **NO_EDGE)
    w.start_standins()
    return w


def test_the_tpm_appears(new_world):
    w = without_tpm(new_world)
    w.start_daemon()
    w.wait_for_failure("tpm-missing")
    w.bus.plug("dev-other.device", "active")
    w.bus.plug(UNIT, "active")
    w.daemon.wait_for_line("brought forward: the TPM has appeared")
    w.wait("another attempt", lambda p: p["Attempts"] == 2)
    assert len(w.standin_events("subscribed")) == 1


def test_the_tpm_comes_and_goes(new_world):
    """Another unit needs the device's, so systemd knows it before the device is there."""
    w = without_tpm(new_world)
    w.bus.plug(UNIT, "inactive")
    w.start_daemon()
    w.wait_for_failure("tpm-missing")
    for attempts in (2, 3):
        w.bus.plug(UNIT, "active")
        w.wait("another attempt", lambda p, n=attempts: p["Attempts"] == n)
        w.bus.plug(UNIT, "inactive")
        w.bus.plug(UNIT, "")
    assert sum("brought forward" in line for line in w.daemon.lines) == 2


def test_a_device_that_was_there_is_no_news(new_world):
    w = without_tpm(new_world)
    w.bus.plug(UNIT, "active")
    w.start_daemon()
    w.wait_for_failure("tpm-missing")
    w.bus.plug(UNIT, "")
    w.bus.plug(UNIT, "active")
    w.wait("another attempt", lambda p: p["Attempts"] == 2)
    assert sum("brought forward" in line for line in w.daemon.lines) == 1


def test_another_tcti_is_watched_from_then_on(new_world):
    w = new_world(Retry=LONG, **NO_EDGE)
    w.start_standins()
    w.start_daemon()
    w.wait_for_failure("enrollment-missing")
    assert not w.standin_events("subscribed")
    w.write_config(Tpm={"Tcti": TCTI})
    w.wait_for_failure("tpm-missing")
    attempts = w.bus.properties()["Attempts"]
    w.bus.plug(UNIT, "active")
    w.wait("another attempt", lambda p: p["Attempts"] == attempts + 1)


# --- the clock ---

def say_synchronized(w, really=True):
    """As systemd-timesyncd does."""
    path = w.root / "run/systemd/timesync/synchronized"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch() if really else path.unlink()


class Timedated:
    """Plays systemd-timedated for another time service; counts how often it is asked."""

    def __init__(self, w, synchronized):
        self.asked = 0
        self.synchronized = synchronized
        w.new_bus().own("org.freedesktop.timedate1", self.answer)

    def answer(self, message):
        assert message.body == ["org.freedesktop.timedate1", "NTPSynchronized"]
        self.asked += 1
        return Message.new_method_return(message, "v", [Variant("b", self.synchronized)])


def test_a_clock_in_the_far_future(new_world):
    """An RTC that says 2066: the certificate has expired by it. No request is sent, and setting the clock is enough."""
    w = new_world(Retry=LONG, **NO_EDGE)
    w.enroll(w.enrollment())
    w.set_clock(40 * 365 * 24 * HOUR)
    w.start_daemon(environment=w.clock())
    p = w.wait_for_failure("tls-clock")
    assert p["State"] == "attesting" and not w.requests()
    w.set_clock(0)
    w.daemon.wait_for_line("brought forward: the clock was set")
    assert w.wait_for_state("handed-off")["Warnings"] == []


def gateway(new_world, offset=0):
    w = new_world(Retry=LONG)
    w.start_standins()
    w.enroll(edge(w))
    w.set_clock(offset)
    w.start_daemon(environment=w.clock())
    return w


def idle(w):
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")


def hand_over_again(w):
    """Without a request to DPS, so its Date stays as old as it is. Returns what waits for the end."""
    seen = len(w.daemon.lines)
    w.write_config(HandOff={"Identity": "register" if w.config["HandOff"].get("Identity") != "register" else "adopt"})
    return lambda: w.daemon.wait_for_line("Handed off: ", start=seen)


def test_a_time_server_that_is_an_hour_off(new_world):
    """DPS' Date wins, also when it is no longer fresh; the clock has to be set right."""
    w = gateway(new_world, -HOUR)
    say_synchronized(w)
    assert w.wait_for_failure("clock-behind")["State"] == "assigned"
    w.let_pass(660)  # more than the wait
    w.wait("another attempt", lambda p: p["Attempts"] == 2)
    assert w.wait_for_failure("clock-behind")["State"] == "assigned"
    w.set_clock(0)
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


@pytest.mark.parametrize("synchronized", [True, False])
def test_an_old_date_yields_to_a_synchronized_clock(new_world, synchronized):
    w = gateway(new_world)
    idle(w)
    if synchronized:
        say_synchronized(w)
    w.let_pass(5 * 24 * HOUR)
    w.set_clock(-HOUR)
    handed_over = hand_over_again(w)
    if not synchronized:
        w.wait_for_failure("clock-behind")
        w.set_clock(0)
    handed_over()
    assert synchronized == (not any("DPS_FAILURE=clock-behind" in line for line in w.daemon.lines))


def test_a_fresh_date_does_not_yield(new_world):
    w = gateway(new_world)
    idle(w)
    say_synchronized(w)
    w.let_pass(60)
    w.set_clock(-HOUR)
    hand_over_again(w)
    w.wait_for_failure("clock-behind")


def test_days_of_drift_do_not_count(new_world):
    """The clock was corrected after it had been fast by 100 ppm, like the clock that the estimate runs by."""
    w = gateway(new_world)
    idle(w)
    w.let_pass(7 * 24 * HOUR)
    w.set_clock(-60)
    hand_over_again(w)()
    assert not any("DPS_FAILURE=clock-behind" in line for line in w.daemon.lines)


def test_timedated_knows_other_time_services(new_world):
    w = gateway(new_world)
    idle(w)
    timedated = Timedated(w, True)
    w.let_pass(24 * HOUR)
    w.set_clock(-HOUR)
    assert timedated.asked == 0
    hand_over_again(w)()
    assert timedated.asked == 1
    w.daemon.wait_for_line("brought forward: the clock was set")
    hand_over_again(w)()
    assert timedated.asked == 1


def test_timedated_says_no(new_world):
    w = gateway(new_world)
    idle(w)
    timedated = Timedated(w, False)
    w.let_pass(24 * HOUR)
    w.set_clock(-HOUR)
    handed_over = hand_over_again(w)
    w.wait_for_failure("clock-behind")
    wait_for("the question", lambda: timedated.asked == 1)
    w.set_clock(0)
    handed_over()


def test_timedated_is_not_asked_for_a_right_clock(new_world):
    w = gateway(new_world)
    timedated = Timedated(w, True)
    idle(w)
    w.bus.call("Reprovision")
    wait_for("another registration", lambda: w.registrations() == 2)
    idle(w)
    assert timedated.asked == 0


def test_restart_with_a_clock_that_is_an_hour_off(new_world):
    """The Date from the state file is a lower bound, so it yields to a synchronized clock and to no other."""
    w = gateway(new_world)
    idle(w)
    w.stop_daemon()
    w.set_clock(-HOUR)
    w.write_config(HandOff={"Identity": "register"})
    w.start_daemon(environment=w.clock())
    w.wait_for_failure("clock-behind")
    w.stop_daemon()
    say_synchronized(w)
    w.start_daemon(environment=w.clock())
    idle(w)
