"""`dps-provision enrollment --station`: the table of a factory line."""
import csv
import io
import json
import re
import signal
import subprocess

import pytest
from enrollment_tool import COLUMNS, DEADLINE, table, works


@pytest.mark.smoke
def test_station_keeps_one_table(new_gateway):
    gateways = [new_gateway() for _ in range(3)]
    path = gateways[0].dir / "line.csv"
    for i, gateway in enumerate(gateways):
        assert f"line {i + 2} of" in gateway.run(f"--station={path}", f"--asset=A{i}")
    rows = table(path.read_text())
    assert [row["asset"] for row in rows] == ["A0", "A1", "A2"]
    assert [row["registration_id"] for row in rows] == [g.json()["registrationId"] for g in gateways]


def test_station_prints_what_is_asked_for_as_well(gateway):
    path = gateway.dir / "line.csv"
    assert json.loads(gateway.run(f"--station={path}", "--format=json"))
    assert len(table(path.read_text())) == 1
    assert gateway.run(f"--station={path}", "--format=json", status=1) == ""
    path.unlink()
    assert gateway.run(f"--station={path}", f"--output={gateway.dir}/text") == ""
    assert "Registration ID" in (gateway.dir / "text").read_text()


@pytest.mark.parametrize("there", [False, True])
def test_station_is_not_replaced_by_output(gateway, there):
    path, alias = gateway.dir / "line.csv", gateway.dir / "alias.csv"
    if there:
        gateway.run(f"--station={path}")
        alias.symlink_to(path)
    before = path.read_text() if there else None
    for output in (path, alias) if there else (path,):
        assert gateway.run(f"--station={path}", "--format=csv", f"--output={output}", status=2) == ""
    assert (path.read_text() if path.exists() else None) == before


def test_station_refuses_duplicates_and_names_the_line(new_gateway):
    one, other = new_gateway(), new_gateway()
    path = one.dir / "line.csv"
    one.run(f"--station={path}", "--device-id=gw-7", '--asset=a "b" c')
    other.run(f"--station={path}")
    before = path.read_text()

    def refused(gateway, line, what, *options):
        assert gateway.run(f"--station={path}", *options, status=1) == ""
        assert f"Line {line} of" in gateway.stderr and what in gateway.stderr
        assert path.read_text() == before

    refused(one, 2, "registration ID")
    refused(other, 3, "registration ID")
    other.config = {"Provisioning": {"RegistrationId": "another"}}
    refused(other, 3, "endorsement key")
    before = "".join(before.splitlines(keepends=True)[:2])
    path.write_text(before)
    refused(other, 2, "device ID", "--device-id=gw-7")
    for device_id in ("-x", "'x", "@x"):  # what is protected from spreadsheets is compared as it was
        path.unlink()
        one.run(f"--station={path}", f"--device-id={device_id}")
        before = path.read_text()
        refused(other, 2, "device ID", f"--device-id={device_id}")
    other.config = {"Provisioning": {"RegistrationId": one.json()["registrationId"].upper()}}
    refused(other, 2, "registration ID")


def test_stations_share_a_table(new_gateway):
    gateways = [new_gateway() for _ in range(4)]
    path = gateways[0].dir / "line.csv"
    for _ in range(5):
        path.unlink(missing_ok=True)
        running = [subprocess.Popen(g.command(f"--station={path}"), stdout=subprocess.DEVNULL,
                                    stderr=subprocess.PIPE) for g in gateways for _ in range(2)]
        results = [(p.communicate(timeout=DEADLINE)[1], p.returncode) for p in running]
        assert sorted(status for _, status in results) == [0] * 4 + [1] * 4, results
        assert {row["registration_id"] for row in table(path.read_text())} == \
            {g.json()["registrationId"] for g in gateways}


def test_station_takes_a_table_that_a_spreadsheet_saved(new_gateway):
    one, other = new_gateway(), new_gateway()
    path = one.dir / "line.csv"
    one.run(f"--station={path}")
    with io.StringIO(newline="") as saved:
        csv.writer(saved, lineterminator="\r\n").writerows([COLUMNS, table(path.read_text())[0].values()])
        path.write_text("\ufeff" + saved.getvalue(), newline="")
    one.run(f"--station={path}", status=1)
    assert "Line 2 of" in one.stderr
    other.run(f"--station={path}")
    assert len(table(path.read_text().lstrip("\ufeff"))) == 2


@pytest.mark.parametrize("text, line", [
    ("hello\n", 1), ("hello", 1), ("registration_id;device_id\n", 1), ("\n", 1),
    (",".join(COLUMNS) + "\na,b,c\n", 2), (",".join(COLUMNS) + "\n\n", 2),
    (",".join(COLUMNS) + "\n,,,,,,,,,\n\",,,,,,,,,\n,,,,,,,,,\n", 3),  # a quote that is never closed
    (",".join(COLUMNS) + "\nhalf a line", 2),  # of a hand, not of us
])
def test_station_leaves_another_file_alone(gateway, text, line):
    path = gateway.dir / "line.csv"
    path.write_text(text)
    gateway.run(f"--station={path}", status=1)
    assert f"Line {line} of" in gateway.stderr and path.read_text() == text


def test_station_heals_what_a_power_cut_left(new_gateway):
    """Cut at any byte of the last row: the rows before it stay, and the device is in the table afterwards."""
    one, other = new_gateway(), new_gateway()
    path = one.dir / "line.csv"
    one.run(f"--station={path}")
    first = path.read_bytes()
    other.run(f"--station={path}")
    both = path.read_bytes()
    for size in [*range(len(first) + 1, len(both) - 1, 29), len(both) - 2]:
        path.write_bytes(both[:size])
        other.run(f"--station={path}")
        assert path.read_bytes() == both and "cut off" in other.stderr
    path.write_bytes(both[:-1])  # all but the line feed: the row is whole
    other.run(f"--station={path}", status=1)
    for size in range(0, first.index(b"\n"), 13):  # cut in the header
        path.write_bytes(both[:size])
        one.run(f"--station={path}")
        assert path.read_bytes() == first


def test_station_undoes_a_write_that_fails(new_gateway):
    one, other = new_gateway(), new_gateway()
    path = one.dir / "line.csv"
    one.run(f"--station={path}")
    before = path.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        other.run(f"--station={path}", status=1, prefix=["prlimit", f"--fsize={len(before) + 100}"],
                  restore_signals=False)
    finally:
        signal.signal(signal.SIGXFSZ, handler)
    assert "can't be written" in other.stderr and path.read_bytes() == before


@pytest.mark.skipif(not works("strace", "-o", "/dev/null", "true"), reason="a process may not be traced here")
def test_station_locks_before_it_reads_and_syncs_before_it_reports(gateway):
    path = gateway.dir / "line.csv"
    gateway.run(f"--station={path}", prefix=["strace", "-f", "-o", gateway.dir / "trace", "-e",
                                             "trace=openat,flock,read,write,fsync,ftruncate", "-y"],
                env={"ASAN_OPTIONS": "detect_leaks=0"})  # which does not work in a traced process
    trace = (gateway.dir / "trace").read_text()
    steps = [re.search(pattern, trace, re.MULTILINE) for pattern in (
        rf"flock\(\d+<{path}>, LOCK_EX\) += 0",
        rf"read\(\d+<{path}>",
        rf"write\(\d+<{path}>",
        rf"fsync\(\d+<{path}>\) += 0",
        rf"fsync\(\d+<{path.parent}>\) += 0",
        r"write\(1<")]
    assert all(steps), trace
    positions = [step.start() for step in steps]
    assert positions == sorted(positions), trace
