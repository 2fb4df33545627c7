"""How the verbs are called, and where what they print goes."""
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

import pytest
from enrollment_tool import DEADLINE, PROGRAM, SOURCE

VERBS = ("enrollment", "status", "check", "reprovision", "retry", "set-scope", "config", "factory-reset")
EMPTY = ("serial", "asset", "root")  # a column that is left empty; the machine itself
NO_BUS = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"}


def run(*arguments, **options):
    return subprocess.run([PROGRAM, *map(str, arguments)], stdin=subprocess.DEVNULL, text=True, timeout=DEADLINE, check=False,
                          env=NO_BUS, **{"capture_output": True, **options})


def options_of(verb):
    """(name, "value" or "flag"), as the source has them."""
    source = (SOURCE / f"cli/{verb}.c").read_text() if verb != "retry" else ""
    return re.findall(r'\{ "([a-z-]+)", \.(flag|value) =', source)


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_option(verb):
    result = run(verb, "--help")
    assert result.returncode == 0 and result.stderr == "" and result.stdout == run(verb, "-h").stdout
    assert bool(options_of(verb)) == (verb != "retry")
    for option, kind in options_of(verb):
        assert re.search(rf"--{option}" + ("=[A-Za-z]" if kind == "value" else r"\b(?!=)"), result.stdout), option


@pytest.mark.parametrize("verb", VERBS)
def test_wrong_options_are_named(verb):
    wrong = [("--no-such", "'--no-such' is not an option"), ("-x", "-x is not an option"), ("--help=1", "is not an option")]
    for option, kind in options_of(verb):
        wrong.append((f"--{option}", f"--{option}= needs ") if kind == "value" else
                     (f"--{option}=1", f"--{option} takes no value"))
        if kind == "value" and option not in EMPTY:
            wrong.append((f"--{option}=", f"--{option}= needs "))
    if "yes" not in dict(options_of(verb)):
        wrong.append(("-y", "-y is not an option"))
    for argument, message in wrong:
        result = run(verb, argument)
        assert result.returncode == 2 and result.stdout == "", result
        first, second = result.stderr.splitlines()
        assert first.startswith("dps-provision: ") and message in first and second == f"Try 'dps-provision {verb} --help'."


def test_wrong_verbs():
    for arguments in ((), ("no-such",), ("--no-such",)):
        result = run(*arguments)
        assert result.returncode == 2 and "Try 'dps-provision --help'." in result.stderr, result
    assert run("reprovision", "--timeout=5").returncode == 2  # which is for --wait
    assert "'b' is one argument too many" in run("set-scope", "a", "b").stderr
    assert "--output= needs a file\n" in run("enrollment", "--output=").stderr


@pytest.mark.parametrize("arguments, status, message, remedy", [
    (("enrollment", "--device-id=a b"), 2, "'a b' is not a device ID: 1 to 128 letters, digits and any of -.%_*?!(),:=@$'", "--help"),
    (("enrollment", "--hub=https://x"), 2, "'https://x' is not the host name of a hub, as in NAME.azure-devices.net", "--help"),
    (("enrollment", "--config=/no/such"), 1, "/no/such: the file can't be read: No such file or directory.",
     "or the file if it can't be read"),
    (("enrollment", "--config=empty", "--tcti=nonsense"), 1, "The TPM can't be reached through 'nonsense'", "Tcti= (or --tcti=)"),
    (("enrollment", "--config=empty", "--tcti=swtpm:path=/no"), 1, "can't be reached through 'swtpm:path=/no'", "has to be there"),
    (("check", "--config=empty", "--root=/no/such"), 1, "'/no/such', which --root= names, can't be looked into: No such", ""),
])
def test_what_happened_to_what_and_what_to_do(tmp_path, arguments, status, message, remedy):
    (tmp_path / "empty").touch()
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == status and result.stdout == "", result
    lines = result.stderr.splitlines()
    assert lines[0].startswith("dps-provision: ") and message in lines[0] and remedy in lines[-1], result


def test_values_that_the_device_does_not_like(gateway):
    """A hub is a warning only: what the device is told may change."""
    gateway.run("--format=json", "--hub=contoso")
    assert "'contoso', which AllowedHubs= does not name.\nGive the hub's whole host name" in gateway.stderr
    gateway.run("--ca-dir=/no/such", status=1)
    assert "'/no/such' can't be read" in gateway.stderr and "with --ca-dir=." in gateway.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("check", "--help"), ("config", "--config=empty"),
                                       ("check", "--no-network", "--config=empty"),
                                       ("check", "--no-network", "--config=empty", "--json")])
def test_what_could_not_be_printed_is_told(tmp_path, arguments):
    (tmp_path / "empty").touch()
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = run(*arguments, cwd=tmp_path, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 1 and "Not all could be printed" in result.stderr, result
    result = run(*arguments, cwd=tmp_path, capture_output=False, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
    assert result.returncode == 1 and "Not all could be printed" in result.stderr, result


def test_nobody_reads_on():
    with subprocess.Popen([PROGRAM, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_output_to_what_is_no_file(gateway):
    """A device or a pipe gets it, and stays what it is."""
    path = gateway.dir / "pipe"
    os.mkfifo(path)
    with subprocess.Popen(gateway.command("--format=json", f"--output={path}"), stderr=subprocess.PIPE, text=True) as process:
        text = path.read_text()
        assert process.wait(DEADLINE) == 0, process.stderr.read()
    assert text == gateway.run("--format=json") and path.is_fifo()
    gateway.run("--format=json", "--output=/dev/full", status=1)
    assert "'/dev/full' can't be written: No space left on device" in gateway.stderr
    gateway.run(f"--station={path}", status=1)
    assert "is not a regular file" in gateway.stderr


@pytest.mark.parametrize("columns, warned", [(80, True), (120, False)])
def test_a_code_that_the_terminal_is_too_narrow_for(gateway, columns, warned):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    with subprocess.Popen(gateway.command("--format=qr", "--full"), stdout=slave, stderr=subprocess.PIPE, text=True) as process:
        os.close(slave)
        while True:
            try:
                if not os.read(master, 65536):
                    break
            except OSError:  # the other end is closed
                break
        assert process.wait(DEADLINE) == 0
        assert ("columns wide" in process.stderr.read()) == warned
    os.close(master)
