"""The manual pages name what the programs have, and nothing else."""
import re
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest
from enrollment_tool import BUILD, DEADLINE, SOURCE

PROGRAMS = {
    "dps-provisiond": ("daemon/provisiond/dps-provisiond", "dps-provisiond.8.in"),
    "dps-tpmd": ("daemon/tpmd/dps-tpmd", "dps-tpmd.8"),
    "dps-handoffd": ("daemon/handoffd/dps-handoffd", "dps-handoffd.8"),
    "dps-emulator": ("tests/emulator/dps-emulator", "dps-emulator.1"),
}
PAGES = sorted((SOURCE / "docs").glob("*.[1-9]*"))


def help_of(program):
    result = subprocess.run([BUILD / program, "--help"], capture_output=True, text=True, timeout=DEADLINE, check=True)
    return result.stdout


def options_in(page):
    return set(re.findall(r"Fl Fl ([a-z][a-z-]*)", page))


@pytest.mark.parametrize("name", PROGRAMS)
def test_options(name):
    program, page = PROGRAMS[name]
    text = (SOURCE / "docs" / page).read_text()
    lists = re.findall(r"^ +(--[^\s,]+(?:, --[^\s,]+)*)", help_of(program), re.MULTILINE)
    known = {option for part in lists for option in re.findall(r"--([a-z][a-z-]*)", part)}
    assert options_in(text) == known
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"):
        assert f".Sh {section}\n" in text, section


def test_faults_of_the_emulator():
    names = re.search(r"of\n +(.*)$", help_of(PROGRAMS["dps-emulator"][0]), re.MULTILINE)[1].split(", ")
    text = (SOURCE / "docs/dps-emulator.1").read_text()
    section = re.search(r"^\.Sh FAULTS\n(.*?)^\.Sh", text, re.MULTILINE | re.DOTALL)[1]
    listed = {word for line in re.findall(r"^\.It Cm (.*)$", section, re.MULTILINE)
              for word in re.findall(r"(?:^|, )([a-z0-9-]+)", line)}
    assert listed == set(names)


def test_interface():
    text = (SOURCE / "docs/org.dps.Provisioning1.5").read_text()
    root = ElementTree.parse(SOURCE / "config/org.dps.Provisioning1.xml").getroot()
    for method in root.iter("method"):
        assert f".It Fn {method.get('name')}" in text
    for prop in root.iter("property"):
        assert re.search(rf"^\.It Va .*\b{prop.get('name')}\b", text, re.MULTILINE), prop.get("name")
    errors = re.findall(r'PROVISIONING_NAME "\.([A-Za-z]+)"', (SOURCE / "daemon/provisiond/bus.c").read_text())
    assert errors
    for error in errors:
        assert f"org.dps.Provisioning1.{error}" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_references(page):
    """Ours exist; others are systemd's or D-Bus'."""
    ours = {(p.name.split(".in")[0].rpartition(".")[0], p.name.split(".in")[0][-1]) for p in PAGES}
    for name, section in re.findall(r"^\.Xr (\S+) (\d)", page.read_text(), re.MULTILINE):
        assert (name, section) in ours | {("systemd.exec", "5"), ("busctl", "1")}, (name, section)
