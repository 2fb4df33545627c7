"""What the tests of `dps-provision check` share: the command, its lines, and what they are on a machine that is fine."""
import json
import re
import subprocess

from harness import BUILD

NO_EDGE = {"HandOff": {"Target": "none"}}
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

# What a machine looks like that has everything and was never provisioned, without the daemon.
FRESH = {"daemon": ("warn", None), "identityd": ("skip", None),
         "hub-443": ("skip", None), "hub-5671": ("skip", None), "hub-8883": ("skip", None)}
NO_TARGET = {"daemon": ("warn", None), "iotedge": ("skip", None)}
SKIP_NETWORK = {"connect": ("skip", None), "tls": ("skip", None), "clock": ("skip", None), "enrollment": ("skip", None)}


def run(world, *arguments, prefix=(), environment=None):
    return subprocess.run([*prefix, BUILD / "cli/dps-provision", "check", f"--config={world.config_path}",
                           f"--root={world.root}", *arguments], env={**world.environment, **(environment or {})},
                          text=True, capture_output=True, timeout=120, check=False)


def check(world, *arguments, **options):
    """The lines that are not ok, by their ID: (result, kind); and all lines."""
    result = run(world, "--json", *arguments, **options)
    report = json.loads(result.stdout)
    lines = report["checks"]
    results = {line["result"] for line in lines}
    assert result.returncode == (1 if "fail" in results else 0) and result.stderr == "", result
    assert report["result"] == ("fail" if "fail" in results else "warn" if "warn" in results else "ok")
    for line in lines:
        assert len(line["message"]) >= 4, line
        assert (line["remedy"] is None) == (line["result"] == "ok"), line
        assert line["result"] == "ok" or len(line["remedy"]) > 10, line
    return {line["id"]: (line["result"], line["kind"]) for line in lines if line["result"] != "ok"}, lines


def line(lines, name):
    found = [x for x in lines if x["id"] == name]
    assert len(found) == 1, found
    return found[0]


def expect(world, name, result, kind, message, remedy, *arguments, base=None, others=None, **options):
    """One line is not ok beside those of the base (and `others`, which depend on it)."""
    bad, lines = check(world, *arguments, **options)
    assert bad == {**(FRESH if base is None else base), name: (result, kind), **(others or {})}, lines
    found = line(lines, name)
    assert re.search(message, found["message"]), found
    assert re.search(remedy, found["remedy"]), found
    return lines
