"""Stand-in for systemd's manager: the part of org.freedesktop.systemd1 that a hand-off uses. Not the real thing."""
import asyncio
import fnmatch
import re
import time

from dbus_next import Message, MessageType, Variant
from dbus_next.aio import MessageBus

CLOCK_REALTIME_COARSE = 5  # the clock of files' times, which is some milliseconds late
NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
FAKE = "org.dps.FakeSystemd"  # what a test tells the fake
MANAGER = f"{NAME}.Manager"


class Unit:
    """start() and stop() are coroutines or None; an exception of start() is a failed unit."""

    def __init__(self, name, start, stop, sockets=(), service=None, oneshot=False):
        self.name = name
        self.do_start = start
        self.do_stop = stop
        self.sockets = sockets  # PartOf= this service
        self.service = service  # the one that this socket starts
        self.oneshot = oneshot
        self.task = None  # of a oneshot unit that works
        self.state = "inactive"
        self.restarting = False  # it has failed and waits for its RestartSec=
        self.restarts = 0        # automatic ones, since its last start job
        self.stops = 0           # how often it was told to stop
        self.result = "success"
        self.entered = 0
        self.entered_real = 0

    @property
    def path(self):
        return f"{PATH}/unit/" + "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in self.name)

    @property
    def active_state(self):
        return "activating" if self.restarting else self.state


def name_of(path):
    return re.sub(r"_([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), path.rpartition("/")[2])


class JobFailed(Exception):
    """With the job's result, where it is another one than "failed"."""

    def __init__(self, text, result="failed"):
        super().__init__(text)
        self.result = result


class Manager:
    def __init__(self, world):
        self.world = world
        self.units = {}
        self.jobs = 0
        self.subscribers = set()  # devices' units are announced to them only
        self.bus = None
        self.away = False
        self.lock = asyncio.Lock()
        self.tasks = set()

    def add(self, unit):
        self.units[unit.name] = unit

    def fault(self, unit):
        return (self.world.fault("units") or {}).get(unit, {})

    def spawn(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def delay(self, fault):
        """As many seconds as the fault says, or until it says so no longer."""
        end = asyncio.get_running_loop().time() + (fault() or 0)
        while fault() and (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, 0.05))

    # --- units ---

    async def start(self, unit):
        if unit.state == "active":
            return
        if unit.service and self.units[unit.service].state == "active":
            raise JobFailed("Socket service already active, refusing")  # so does the real one
        how = self.fault(unit.name).get("start")
        self.world.log("start", unit=unit.name)
        await self.delay(lambda: self.fault(unit.name).get("delay"))
        unit.restarting = False
        unit.restarts = 0
        try:
            if how in ("timeout", "canceled", "dependency", "skipped"):
                raise JobFailed("told to end so", how)
            if how == "fail":
                raise JobFailed("told to fail")
            if unit.oneshot:
                await self.work(unit)
            elif unit.do_start:
                await unit.do_start()
        except Exception as error:
            result = getattr(error, "result", "failed")
            if result in ("failed", "timeout"):
                unit.state, unit.result = "failed", "timeout" if result == "timeout" else "exit-code"
            self.world.log("failed", unit=unit.name, error=str(error))
            raise JobFailed(str(error), result) from error
        unit.state, unit.result = ("inactive" if unit.oneshot else "active"), "success"
        unit.entered = int(self.world.uptime() * 1e6)
        unit.entered_real = int(time.clock_gettime(CLOCK_REALTIME_COARSE) * 1e6)
        self.tell_state(unit)
        if how == "flap":
            unit.state, unit.result = "failed", "exit-code"
        elif how == "crash-loop":
            self.died(unit.name, restart=self.fault(unit.name).get("restart", 0.5))

    async def work(self, unit):
        """A oneshot unit is activating meanwhile. The job that stops it takes the place of the job that started it."""
        unit.state, unit.task = "activating", asyncio.ensure_future(unit.do_start())
        try:
            await unit.task
        except asyncio.CancelledError:
            self.world.log("killed", unit=unit.name)
            raise JobFailed("stopped while it worked", "canceled") from None
        finally:
            unit.state, unit.task = "inactive", None

    async def stop(self, unit):
        for name in unit.sockets:
            await self.stop(self.units[name])
        how = self.fault(unit.name).get("stop")
        if how:
            raise JobFailed("told to fail", how)
        unit.restarting = False
        unit.stops += 1
        if unit.state == "active":
            self.world.log("stop", unit=unit.name)
            if unit.do_stop:
                await unit.do_stop()
        if unit.state != "failed":
            unit.state = "inactive"
        self.tell_state(unit)

    async def result_of(self, verb, name):
        """A job to its end, from within; its result."""
        unit = self.units[name]
        sockets = [s for s in unit.sockets if self.units[s].state == "active"]
        try:
            if verb in ("stop", "restart"):
                await self.stop(unit)
            for socket in sockets if verb == "restart" else ():
                await self.start(self.units[socket])  # PartOf= restarts them as well
            if verb in ("start", "restart"):
                await self.start(unit)
        except JobFailed as error:
            return error.result
        return "done"

    async def run(self, verb, name):
        return await self.result_of(verb, name) == "done"

    async def start_unless_stopped(self, name):
        """A job that stops the unit meanwhile takes the place of this one."""
        unit = self.units[name]
        stops = unit.stops
        await self.run("start", name)
        if unit.stops != stops and unit.state == "active":
            await self.run("stop", name)

    def trigger(self, name):
        """A connection to a socket starts its service."""
        if self.units[name].state == "inactive":
            self.spawn(self.start_unless_stopped(name))

    def died(self, name, restart):
        """A service ended by itself; Restart=on-failure."""
        unit = self.units[name]
        unit.state, unit.result, unit.restarting = "failed", "exit-code", True
        entered = unit.entered
        self.world.log("died", unit=name)

        async def again():
            await asyncio.sleep(restart)
            if unit.state == "failed" and unit.restarting and unit.entered == entered:
                restarts = unit.restarts + 1
                await self.start_unless_stopped(name)
                unit.restarts = restarts
        self.spawn(again())

    # --- the bus ---

    async def serve(self, address):
        self.bus = await MessageBus(address).connect()
        self.bus.add_message_handler(self.on_message)
        await self.bus.request_name(NAME)

    async def leave(self):
        """Gives the name back, until the fault is gone."""
        self.away = True
        await self.bus.release_name(NAME)
        self.world.log("left")
        while any({"leave", "reexec"} & {*faults.values()} for faults in (self.world.fault("units") or {}).values()):
            await asyncio.sleep(0.02)
        self.away = False
        await self.bus.request_name(NAME)
        self.world.log("back")

    def on_message(self, message):
        if message.message_type != MessageType.METHOD_CALL or message.destination not in (NAME, self.bus.unique_name):
            return None
        if message.interface == FAKE:
            self.spawn(self.plug(*message.body))
            return Message.new_method_return(message)
        if message.interface == MANAGER:
            if self.world.fault("slow"):
                self.spawn(self.answer_late(message))
                return True
            return self.on_manager(message)
        if message.interface == "org.freedesktop.DBus.Properties" and message.member == "Get":
            return self.on_get(message)
        return None

    async def answer_late(self, message):
        await self.delay(lambda: self.world.fault("slow"))
        await self.bus.send(self.on_manager(message))

    def on_manager(self, message):
        verbs = {"StartUnit": "start", "StopUnit": "stop", "RestartUnit": "restart"}
        if message.member == "Subscribe":
            self.subscribers.add(message.sender)
            self.world.log("subscribed", by=message.sender)
            return Message.new_method_return(message)
        if message.member == "ListUnitsByPatterns":
            return Message.new_method_return(message, "a(ssssssouso)", [self.matching(*message.body)])
        if message.member == "ListUnitsByNames":  # loads those that it does not know
            for name in message.body[0]:
                self.spawn(self.load_for_a_moment(name))
            return Message.new_method_return(message, "a(ssssssouso)", [[self.listed(name) for name in message.body[0]]])
        name = message.body[0]
        unit = self.units.get(name)
        load = self.fault(name).get("load")
        if message.member == "LoadUnit":  # also gives an object for units that do not exist
            self.spawn(self.load_for_a_moment(name))
            return Message.new_method_return(message, "o", [(unit or Unit(name, None, None)).path])
        if message.member == "GetUnitFileState":
            state = "enabled" if name in (self.world.fault("enabled") or []) else "disabled"
            return Message.new_method_return(message, "s", [state])
        if message.member not in verbs:
            return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", message.member)
        if not unit or load == "not-found":
            return Message.new_error(message, f"{NAME}.NoSuchUnit", f"Unit {name} not found.")
        if load == "masked":
            return Message.new_error(message, f"{NAME}.UnitMasked", f"Unit {name} is masked.")
        self.jobs += 1
        job = f"{PATH}/job/{self.jobs}"
        how = self.fault(name).get("stop" if message.member == "StopUnit" else "start")
        self.world.log("queued", verb=verbs[message.member], unit=name)  # its fault may be taken away from now on
        self.spawn(self.job(self.jobs, job, verbs[message.member], name, how))
        return Message.new_method_return(message, "o", [job])

    async def job(self, number, path, verb, name, how):
        if how == "hang":
            return
        if how == "leave":
            await self.leave()
            return
        if how == "reexec":
            self.spawn(self.result_of(verb, name))
            await self.leave()
            return
        if verb == "stop" and self.units[name].task:
            self.units[name].task.cancel()
        async with self.lock:
            result = await self.result_of(verb, name)
        self.world.log("job", verb=verb, unit=name, done=result == "done", result=result)
        if not self.away:
            await self.bus.send(Message.new_signal(PATH, MANAGER, "JobRemoved", "uoss", [number, path, name, result]))

    # --- devices ---

    def states(self, name):
        """LoadState, ActiveState and SubState."""
        unit = self.units.get(name)
        load = self.fault(name).get("load", "loaded") if unit else "not-found"
        if load != "loaded":
            return load, "inactive", "dead"
        return load, unit.active_state, "auto-restart" if unit.restarting else "running" if unit.state == "active" else unit.state

    def listed(self, name):
        return [name, name, *self.states(name), "", Unit(name, None, None).path, 0, "", "/"]

    def matching(self, states, patterns):
        return [self.listed(u.name) for u in self.units.values()
                if u.active_state in states and any(fnmatch.fnmatchcase(u.name, pattern) for pattern in patterns)]

    async def announce(self, *signal):
        if self.subscribers:
            await self.bus.send(Message.new_signal(*signal))

    @staticmethod
    def state_signal(unit):
        return (unit.path, "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as",
                [f"{NAME}.Unit", {"ActiveState": Variant("s", unit.active_state)}, []])

    def tell_state(self, unit):
        """Does not wait: a job leaves no gap between two units."""
        self.spawn(self.announce(*self.state_signal(unit)))

    async def load_for_a_moment(self, name):
        """systemd loads a unit that does not exist when a client reads it, announces it, and forgets it again."""
        if name.endswith(".device") and name not in self.units:
            for member in ("UnitNew", "UnitRemoved"):
                await self.announce(PATH, MANAGER, member, "so", [name, Unit(name, None, None).path])

    async def plug(self, name, state):
        """Sets the state of a device's unit: active, inactive (another unit needs it), or "": systemd does not know it."""
        known, unit = name in self.units, self.units.setdefault(name, Unit(name, None, None))
        unit.state = state or "inactive"
        self.world.log("plugged", unit=name, state=state)
        if not known:
            await self.announce(PATH, MANAGER, "UnitNew", "so", [name, unit.path])
        else:
            await self.announce(*self.state_signal(unit))
        if not state:
            del self.units[name]
            await self.announce(PATH, MANAGER, "UnitRemoved", "so", [name, unit.path])

    def environment(self, unit):
        """What its unit, or systemd itself, sets: the fault `environment`."""
        return (self.world.fault("environment") or {}).get(unit, [])

    def on_get(self, message):
        if message.path == PATH and message.body[1] == "Environment":
            return Message.new_method_return(message, "v", [Variant("as", self.environment("systemd"))])
        unit = next((u for u in self.units.values() if u.path == message.path), None)
        if not unit:
            self.spawn(self.load_for_a_moment(name_of(message.path)))
        load, active, sub = self.states(name_of(message.path))
        values = {"LoadState": Variant("s", load), "ActiveState": Variant("s", active), "SubState": Variant("s", sub),
                  "ActiveEnterTimestampMonotonic": Variant("t", unit.entered if unit else 0),
                  "ActiveEnterTimestamp": Variant("t", unit.entered_real if unit else 0),
                  "NRestarts": Variant("u", unit.restarts if unit else 0),
                  "Result": Variant("s", unit.result if unit else "success"),
                  "Environment": Variant("as", self.environment(unit.name if unit else None)),
                  "EnvironmentFiles": Variant("a(sb)", [[path, False] for path in (self.world.fault("environment-files") or {})
                                                        .get(unit.name if unit else None, [])]),
                  "SupplementaryGroups": Variant("as", self.world.fault("groups") or ["tss"])}
        value = values.get(message.body[1])
        if not value:
            return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownProperty", message.body[1])
        return Message.new_method_return(message, "v", [value])
