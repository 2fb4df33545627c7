"""A fake of the Docker API, as far as IoT Edge and a hand-off can see it. Not the real thing.

The engine checks the version in the path before it looks at the rest, like the real one. IoT Edge asks for 1.41 from
release 1.6 on, and for 1.34 before.
"""
import asyncio
import json
import re
import urllib.parse

TIMEOUT = 5


def parsed(version):
    return tuple(int(part) for part in version.split("."))


def refusal(faults, version):
    """What the real one says to a version that it does not serve; None: it serves it."""
    least, most = parsed(faults.get("min", "1.24")), parsed(faults.get("max", "1.47"))
    text = ".".join(map(str, version))
    if version < least:
        return f"client version {text} is too old. Minimum supported API version is {'.'.join(map(str, least))}, please " \
               f"upgrade your client to a newer version"
    if version > most:
        return f"client version {text} is too new. Maximum supported API version is {'.'.join(map(str, most))}"
    return None


def images(faults, path):
    """Those with one of the names, with or without a tag, of the filter `reference`."""
    filters = json.loads(urllib.parse.parse_qs(path.partition("?")[2]).get("filters", ["{}"])[0])
    wanted = filters.get("reference", [])
    return [{"Id": "sha256:0", "RepoTags": [tag]} for tag in faults.get("images", ["mcr.microsoft.com/azureiotedge-agent:1.6"])
            if not wanted or tag in wanted or tag.rpartition(":")[0] in wanted]


def answer(faults, path):
    """Status and JSON."""
    if "status" in faults:
        return faults["status"], {"message": faults.get("message", "told to fail")}
    version, rest = re.fullmatch(r"(?:/v(\d+\.\d+))?(/.*)", path).groups()
    if version and (why := refusal(faults, parsed(version))):
        return 400, {"message": why}
    if rest == "/_ping":
        return 200, "OK"
    if rest.startswith("/containers/json"):
        return 200, []
    if rest.startswith("/images/json"):
        return 200, images(faults, rest)
    return 404, {"message": "page not found"}


async def serve(world, reader, writer):
    """One request. The fault `engine` is a dictionary: {"status": 500}, {"min": "1.40"}, {"max": "1.24"},
    {"silent": true}, {"images": []}."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        faults = world.fault("engine") or {}
        if faults.get("silent"):
            world.log("engine-silent")
        while faults.get("silent"):
            await asyncio.sleep(0.1)
            faults = world.fault("engine") or {}
        status, value = answer(faults, head.split()[1])
        world.log("engine-request", path=head.split()[1], status=status)
        body = (value if isinstance(value, str) else json.dumps(value)).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                     f"Connection: close\r\n\r\n".encode() + body)
        await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        pass
    finally:
        writer.close()


async def ask(path, release):
    """What `iotedge config apply` and aziot-edged ask; raises OSError."""
    version = "1.34" if release and parsed(release)[:2] < (1, 6) else "1.41"
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(f"GET /v{version}/containers/json?all=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        words = (await asyncio.wait_for(reader.readline(), TIMEOUT)).split()
        if len(words) < 2 or words[1] != b"200":
            raise OSError(f"it answers {b' '.join(words).decode()}")
    except asyncio.TimeoutError as error:
        raise OSError("no answer") from error
    finally:
        writer.close()
