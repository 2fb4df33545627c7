"""Suite "daemon": a helper's life: when the helper leaves, and whether it loses calls of that moment."""
import threading

import pytest
from handoff import prepared
from harness import BUILD, DEADLINE

IDLE = "org.dps.Idle"
TPM, HANDOFF = "org.dps.Tpm1", "org.dps.HandOff1"
ERROR = "org.freedesktop.DBus.Error."
# What each helper is asked. It leaves after a call that it doesn't know.
QUESTIONS = {TPM: ("HubKey", "", ()), HANDOFF: ("Check", "us", (4, "gw-1"))}
THREADS, CALLS = 3, 30


def times(helper, what):
    """In microseconds."""
    return [int(line.split()[1]) for line in helper.lines if line.split()[0] == what]


@pytest.mark.parametrize("method", ["Block", "Begin"])
def test_idle_time_counts_from_the_end_of_a_call(new_world, method):
    """The call takes twice the idle time."""
    w = new_world()
    helper = w.start([BUILD / "tests/tools/idle-helper", "300"], "idle-helper")
    bus = w.new_bus()
    bus.wait_for("the helper", lambda: bus.has_owner(IDLE))
    bus.call(method, "u", 600, name=IDLE)
    assert helper.process.wait(DEADLINE) == 0
    helper.thread.join(DEADLINE)
    assert times(helper, "exit")[0] - times(helper, "end")[-1] >= 300_000


def test_call_in_the_queue_of_a_leaving_helper_is_ended_under_its_name(new_world):
    """The next call may belong to the work of the last one."""
    w = new_world()
    helper = w.start([BUILD / "tests/tools/idle-helper", "60000"], "idle-helper")
    bus = w.new_bus()
    bus.wait_for("the helper", lambda: bus.has_owner(IDLE))
    owners = []
    bus.connect().add_message_handler(
        lambda m: owners.append(m.body[2]) if m.member == "NameOwnerChanged" and m.body[0] == IDLE else None)
    bus.begin("Block", "u", 2000, name=IDLE)  # so that both of these are in its queue afterwards
    left = bus.send("Later", "", (), name=IDLE)
    begun = bus.send("Begin", "u", (1000,), name=IDLE)
    assert left.result(DEADLINE).error_name == f"{ERROR}UnknownMethod"
    assert begun.result(DEADLINE).error_name is None
    sender = begun.result(DEADLINE).sender
    assert helper.process.wait(DEADLINE) == 0  # it leaves then, long before the idle time is over
    helper.thread.join(DEADLINE)
    assert len(times(helper, "end")) == 2
    bus.wait_for("its end", lambda: not bus.has_owner(IDLE))
    assert owners == ["", sender, ""]


@pytest.mark.parametrize("name", [TPM, HANDOFF])
def test_no_call_is_lost_while_the_helper_leaves(new_world, name):
    """Three callers make the helper leave again and again, and call it again at once."""
    w = prepared(new_world)
    replies, buses = [], [w.new_bus() for _ in range(THREADS)]
    method, signature, body = QUESTIONS[name]

    def caller(bus):
        for _ in range(CALLS):
            under_way = [bus.send(*call, name=name) for call in
                         (("Later", "", ()), (method, signature, body), (method, signature, body))]
            replies.extend((reply.error_name, reply.sender) for reply in
                           (future.result(DEADLINE) for future in under_way))

    threads = [threading.Thread(target=caller, args=(bus,)) for bus in buses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [error for error, _ in replies]
    assert errors.count(f"{ERROR}UnknownMethod") == THREADS * CALLS
    assert errors.count(None) == 2 * THREADS * CALLS, {e: errors.count(e) for e in set(errors)}
    assert len({sender for error, sender in replies if error is None}) > CALLS / 2  # so many instances


def test_tpm_helper_without_the_rights_makes_room(new_world):
    """A process keeps the groups and devices of its start, so a drop-in helps the next process."""
    w = new_world(tcti="device:/etc/shadow")
    for path in (w.dir, w.config_path.parent):
        path.chmod(0o755)
    service = w.dir / f"services/{TPM}.service"
    service.write_text(service.read_text().replace("Exec=", "Exec=/usr/bin/setpriv --reuid=65534 --clear-groups "))
    w.reload_bus()
    bus = w.new_bus()
    under_way = [bus.send("HubKey", "", (), name=TPM) for _ in range(10)]
    assert {future.result(DEADLINE).error_name for future in under_way} == {"org.dps.Failure.tpm_missing"}
    bus.wait_for("its end", lambda: not bus.has_owner(TPM), 20)  # an idle one stays for a minute
