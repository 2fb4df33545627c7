"""Suite "daemon": the State at the daemon's start, for state files of version 1, is that of commit d4a0379.

state-at-start.csv holds what that commit publishes; state_at_start.py makes it and says what its lines and columns are.
"""
import csv
import fnmatch
import pathlib
from typing import NamedTuple

import pytest
from harness import BUILD
from state_at_start import CHANGES, CONFIGURATIONS, TARGETS, Fixture, records, row, tpms_of

TABLE = pathlib.Path(__file__).parent / "state-at-start.csv"
GROUPS = list(dict.fromkeys(name.replace(",", "").split()[0] for name in records(1)))


class Difference(NamedTuple):
    """Cells where this daemon publishes something else on purpose: all that match the patterns and were like this."""
    record: str
    tpm: str
    configuration: str
    was: str
    now: str
    reason: str


DIFFERENCES = (
    *(Difference("handed-off none, adopt", tpm, "none: usable", "handed-off assigned", "handed-off",
                 "a key that came to the handle after ours was adopted is newer: it stays, and a warning says so")
      for tpm in ("another hub key", "another object")),
    *(Difference(record, "as recorded", "none: usable", "assigned", "assigned handed-off",
                 "the adopted key is in its place, so the TPM helper is not asked to adopt it, which the fake refuses")
      for record in ("assigned, key adopted*", "handed-off iotedge, adopt")),
    *(Difference(record, tpm, configuration, "assigned", "assigned handed-off",
                 "an assignment without a hub key needs no handle, so it does not matter what is there")
      for record in ("handed-off iotedge, register", "handed-off none, register",
                     "handed-off, IoT Edge was provisioned already", "handed-off, key replaced by IoT Edge",
                     "assigned, without key*")
      for tpm in ("another hub key", "another object") for configuration in ("none: usable", "none: HubKeyHandle")),
    Difference("handed-off, key replaced by IoT Edge", "handle empty", "iotedge: usable", "handed-off assigned", "handed-off",
               "the key that is gone was IoT Edge's own, which we can't load again"),
)


def expected(lines, *cell):
    """What the table says, and what is expected in its place."""
    record, tpm, configuration = cell
    was = lines[record, tpm][configuration]
    for difference in DIFFERENCES:
        if was == difference.was and all(map(fnmatch.fnmatchcase, cell, difference[:3])):
            return was, difference.now
    return was, was


def table():
    with open(TABLE, newline="", encoding="utf-8") as file:
        return {(line.pop("record"), line.pop("tpm")): line for line in csv.DictReader(file)}


def test_table_has_every_combination():
    lines = table()
    assert list(lines) == [(name, tpm) for name, record in records(1).items() for tpm in tpms_of(record)]
    assert all(list(line) == list(CONFIGURATIONS) for line in lines.values())


def test_differences_are_explained_and_happen():
    lines = table()
    cells = [(*line, name) for line in lines for name in CONFIGURATIONS]
    for difference in DIFFERENCES:
        assert difference.reason
        assert any(lines[cell[:2]][cell[2]] == difference.was and all(map(fnmatch.fnmatchcase, cell, difference[:3]))
                   for cell in cells), difference


@pytest.mark.smoke
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("group", GROUPS)
def test_state_at_start_is_as_before(group, target):
    changes = ("usable",) if "asan" in str(BUILD) else CHANGES  # the sanitizers need to see each record once
    names, lines, wrong = [f"{target}: {change}" for change in changes], table(), []
    with Fixture() as fixture:
        for name, record in records(fixture.port).items():
            if not name.startswith(group):
                continue
            for tpm, cells in row(fixture, record, names).items():
                for configuration, now in cells.items():
                    was, wanted = expected(lines, name, tpm, configuration)
                    if now != wanted:
                        wrong.append(f"{name} | {tpm} | {configuration}: was '{was}', is '{now}', not '{wanted}'")
    assert not wrong, "\n".join([f"{len(wrong)} cells differ", *wrong])
