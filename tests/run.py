#!/usr/bin/python3
"""Builds and tests, several jobs at a time. './dev test' is the way in.

A job is a command with the jobs that it needs, a weight (about the processes that it keeps busy), and a limit in
seconds. It starts as soon as what it needs has passed and there is room. Each leaves a log below build-test/, a job of
tests its cases as JUnit XML beside it; './dev test --list' reads these.
"""
import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

SOURCE = pathlib.Path(__file__).resolve().parents[1]
RESULTS = SOURCE / "build-test"
SANITIZED, RELEASE = "build-asan", "build-release"
PYTHON = "/usr/bin/python3"
CORES = os.cpu_count()
ROOM = 8 * CORES  # most tests wait for processes and timers more than they compute
LIMIT = 1800  # seconds for a job that takes one or two minutes, so that one beside other work passes
NICE = 5  # of jobs with many short cases: the machine and the containers, and what they wait for, take longest
STOP = 15  # seconds that a job has to end after its limit
NO_CASES = 5  # pytest's exit status

PROGRAMS = ("unit", "fleet", "tpm", "http", "emulator", "fuzz", "toml")  # meson's suites
SCRIPTS = ("handoff", "daemon", "cli", "check", "emulator")  # pytest's; the one with the longest cases comes first
MACHINES = {"system", "vm-boot", "vm"}
SUITES = (*dict.fromkeys((*PROGRAMS, *SCRIPTS)), "smoke", "system", "vm-boot", "vm", "lint")
DEFAULT = {*PROGRAMS, *SCRIPTS, "smoke"}

# The programs of the packages, at their places in a build directory.
PACKAGED = {"daemon/provisiond/dps-provisiond": "usr/bin/dps-provisiond",
            "daemon/tpmd/dps-tpmd": "usr/libexec/dps-provisiond/dps-tpmd",
            "daemon/handoffd/dps-handoffd": "usr/libexec/dps-provisiond/dps-handoffd",
            "cli/dps-provision": "usr/bin/dps-provision",
            "tests/emulator/dps-emulator": "usr/bin/dps-emulator"}

Case = collections.namedtuple("Case", "suite name outcome seconds")


class Job:
    """Its log, and its cases as JUnit XML, are called like it. `command` may be a function, asked when it starts."""

    def __init__(self, name, command, needs=(), weight=1, limit=LIMIT, environment=None, report=None, key=None, nice=0):
        self.name = name
        self.command = command
        self.needs = needs
        self.weight = min(weight, ROOM)
        self.limit = limit
        self.environment = environment or {}
        self.nice = nice
        self.report = report  # where the command writes it
        self.key = key  # the cases are some of the suite's, perhaps none
        self.log = RESULTS / f"{name.replace(' ', '-')}.log"
        self.process = self.passed = None
        self.interrupted = False
        self.counts = {}

    def start(self):
        self.started = time.monotonic()
        if self.report:
            self.report.unlink(missing_ok=True)
        command = self.command() if callable(self.command) else self.command
        with self.log.open("w") as log:
            self.process = subprocess.Popen(["nice", "-n", str(self.nice), *command], cwd=SOURCE, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True,
                                            env={**os.environ, **self.environment})

    def kill(self, number=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def has_ended(self):
        """Beyond its limit it is interrupted, so that pytest cleans up, and then killed."""
        seconds = time.monotonic() - self.started
        if self.process.poll() is None:
            if seconds > self.limit + STOP:
                self.kill()
            elif seconds > self.limit and not self.interrupted:
                self.interrupted = True
                self.process.send_signal(signal.SIGINT)
            return False
        self.kill()  # what it left behind
        self.judge()
        words = [f"{n} {outcome}" for outcome, n in self.counts.items() if n and not (self.key and outcome == "skipped")]
        if self.interrupted:
            words.append(f"no end within {self.limit} s")
        print(f"{'ok' if self.passed else 'FAIL':<6}{self.name}: {', '.join([*words, f'{seconds:.0f} s'])}", flush=True)
        if not self.passed:
            print(self.log.read_text(errors="replace"), flush=True)
        return True

    def judge(self):
        status = self.process.returncode
        self.passed = status == 0 or bool(self.key) and status == NO_CASES
        if self.report and self.report.exists():
            self.counts = collections.Counter(case.outcome for case in cases(self.report))
            self.passed = self.passed and not self.counts["failed"]
            if not self.key:
                shutil.copy(self.report, self.log.with_suffix(".xml"))
        elif self.report:
            self.passed = False
        if not self.passed:
            self.counts["failed"] = self.counts.get("failed") or 1

    def give_up(self):
        self.passed, self.counts = False, {"failed": 1}
        print(f"FAIL  {self.name}: not started", flush=True)


def run(jobs):
    """All of them; those whose needs have failed are not started."""
    waiting, running = list(jobs), []
    try:
        while waiting or running:
            for job in list(waiting):
                if any(need.passed is False for need in job.needs):
                    waiting.remove(job)
                    job.give_up()
                elif all(need.passed for need in job.needs) and sum(j.weight for j in running) + job.weight <= ROOM:
                    waiting.remove(job)
                    running.append(job)
                    job.start()
            time.sleep(0.1)
            running = [job for job in running if not job.has_ended()]
    finally:
        for job in running:
            job.kill()


# --- what there is to run ---

def build(name, *options):
    """Configures once, builds always."""
    setup = [] if (SOURCE / name / "build.ninja").exists() else [shlex.join(["meson", "setup", name, *options])]
    return Job(name, ["sh", "-c", " && ".join([*setup, f"ninja -C {name}"])], weight=CORES)


def pytest(name, paths, key, workers, *options, image=None, **settings):
    """`image` is a script and a variable for the directory that it prints."""
    report = RESULTS / f"{name.replace(' ', '-')}.junit"
    command = [PYTHON, "-m", "pytest", *(["-n", str(workers)] if workers else []), f"--junitxml={report}", *options,
               *(["-k", key] if key else []), *paths]
    if image:
        command = ["sh", "-c", f'{image[1]}=$({image[0]} build-deb/dps-provisiond_*.deb build-deb/dps-emulator_*.deb) && '
                   f'export {image[1]} && exec "$@"', "sh", *command]
    return Job(name, command, weight=workers or 1, report=report, key=key, **settings)


def meson_test(suites, key, sanitized):
    """A key chooses programs by their name, and cases of the others."""
    def command():
        names = []
        if key:
            tests = json.loads(subprocess.run(["meson", "introspect", "--tests", SANITIZED], check=True,
                                              capture_output=True, text=True).stdout)
            names = [test["name"] for test in tests
                     if key in test["name"] or not {"fleet", "fuzz", "toml"} & {s.split(":")[-1] for s in test["suite"]}]
        return ["meson", "test", "-C", SANITIZED, "--no-rebuild", "--print-errorlogs",
                *(word for suite in suites for word in ("--suite", suite)), *names]

    return Job(f"meson {' '.join(suites)}", command, [sanitized], CORES, LIMIT, {"TEST_FILTER": key or ""},
               SOURCE / SANITIZED / "meson-logs/testlog.junit.xml", key, NICE)


def jobs_for(suites, key):
    """What others wait for comes first."""
    jobs = []

    def add(job):
        jobs.append(job)
        return job

    machines, vm = suites & MACHINES, suites & {"vm", "vm-boot"}
    if machines:
        rootfs = add(Job("rootfs", ["tests/system/rootfs", "archive"]))
    if vm:
        kernel = add(Job("kernel", ["tests/vm/image", "kernel"]))
    if machines or "smoke" in suites:
        packages = add(Job("packages", ["./dev", "deb", "build-deb"], weight=CORES))
    if vm or suites & {*PROGRAMS, *SCRIPTS, "smoke"}:
        sanitized = add(build(SANITIZED, "-Db_sanitize=address,undefined"))
    if vm or "smoke" in suites:
        release = add(Job("release", [PYTHON, __file__, "--unpack"], [packages, sanitized]))
    for suite in vm:
        add(pytest(suite, ["tests/vm/test_boot.py" if suite == "vm-boot" else "tests/vm"], key, 0,
                   needs=[packages, rootfs, kernel, release], limit=(8 if suite == "vm" else 2) * LIMIT,
                   image=("tests/vm/image build", "VM_IMAGE"), environment={"BUILD": RELEASE}))
    if "system" in suites:
        add(pytest("system", ["tests/system"], key, 3, "--dist=loadfile", needs=[packages, rootfs], limit=2 * LIMIT,
                   image=("tests/system/rootfs image", "SYSTEM_IMAGE")))
    if chosen := [s for s in PROGRAMS if s in suites]:
        add(meson_test(chosen, key, sanitized))
    if chosen := [s for s in SCRIPTS if s in suites]:
        add(pytest(f"pytest {' '.join(chosen)}", [f"tests/{s}" for s in chosen], key, CORES if key else 4 * CORES,
                   needs=[sanitized], limit=2 * LIMIT, environment={"BUILD": SANITIZED}, nice=NICE))
    if "smoke" in suites:
        add(pytest("smoke", [f"tests/{s}" for s in SCRIPTS], key, CORES, "-m", "smoke", needs=[release],
                   environment={"BUILD": RELEASE}, nice=NICE))
    if "lint" in suites:
        add(pytest("lint", ["tests/lint"], key, 0))
    return jobs


def unpack_packages():
    """The programs as they are packaged, laid out as in a build directory. Test tools are built without sanitizers."""
    root = SOURCE / RELEASE
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name in ("dps-provisiond", "dps-emulator"):
        package, = (SOURCE / "build-deb").glob(f"{name}_*.deb")
        subprocess.run(["dpkg", "-x", package, root / "root"], check=True)
    for name, installed in PACKAGED.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(root / "root" / installed)
    (root / "tests/tools").symlink_to(SOURCE / SANITIZED / "tests/tools")


# --- what came out ---

def cases(path):
    """Those of a JUnit file. A program of meson's has one time for all of its cases."""
    for group in ElementTree.parse(path).getroot().iter("testsuite"):
        found = group.findall("testcase")
        for case in found:
            name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
            program = re.search(r":(\w+) / ", name)
            suite = path.stem if path.stem in ("smoke", "vm-boot") else program[1] if program else name.split(".")[0]
            seconds = float(case.get("time") or float(group.get("time")) / len(found))
            outcome = next((outcome for tag, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped"))
                            if case.find(tag) is not None), "passed")
            yield Case(suite, name, outcome, seconds)


def last_cases():
    """By suite, from the last run of all of it."""
    found = {}
    for path in sorted(RESULTS.glob("*.xml"), key=lambda path: path.stat().st_mtime):
        suites = collections.defaultdict(list)
        for case in cases(path):
            suites[case.suite].append(case)
        found.update(suites)
    return found


def show_list():
    found = last_cases()
    print("suite      cases  seconds")
    for suite in SUITES:
        if suite in found:
            print(f"{suite:<10}{len(found[suite]):6}{sum(case.seconds for case in found[suite]):9.0f}")
        else:
            print(f"{suite:<10}     -        -")


# --- the way in ---

def install(suites):
    groups = ["build", "run", "test"]
    if suites & MACHINES or "smoke" in suites:
        groups.append("deb")
    if suites & MACHINES:
        groups.append("system")
    if suites & {"vm", "vm-boot"}:
        groups.append("vm")
    if "lint" in suites:
        groups.append("lint")
    subprocess.run([SOURCE / "dev", "deps", *groups], check=True)


def no_machines():
    """Why this machine can't run containers, nor build a root file system. Root may lack the rights, in a container."""
    if os.geteuid() != 0:
        return "they need root"
    install(MACHINES)
    return subprocess.run([PYTHON, SOURCE / "tests/system/machine.py"], capture_output=True, text=True,
                          check=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(prog="./dev test", description="Builds and tests: these suites, or all but vm and lint.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("-k", dest="key", metavar="NAME", help="the cases with this in their name, or in their program's")
    parser.add_argument("--list", action="store_true", help="the suites, with cases and seconds of the last run")
    parser.add_argument("--unpack", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    skipped = None

    if options.list:
        return show_list()
    if options.unpack:
        return unpack_packages()
    if unknown := set(options.suites) - set(SUITES):
        parser.error(f"no such suite: {' '.join(unknown)}; there are {' '.join(SUITES)}")
    suites = set(options.suites) or DEFAULT
    if not options.suites and not options.key:
        if reason := no_machines():
            skipped = f"The suites 'system' and 'vm-boot' are skipped: {reason}"
        else:
            suites = suites | {"system", "vm-boot"}
    install(suites)
    RESULTS.mkdir(exist_ok=True)
    jobs = jobs_for(suites, options.key)
    run(jobs)
    if skipped:
        print(skipped)
    total = sum((collections.Counter(job.counts) for job in jobs), collections.Counter())
    print(f"{total['passed']} passed, {total['failed']} failed")
    return total["failed"] > 0 or not total["passed"]


if __name__ == "__main__":
    sys.exit(main())
