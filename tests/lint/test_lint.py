"""The static checks find what they look for: tests/lint/run on a project of one file."""
import os
import shutil
import subprocess

import pytest
from enrollment_tool import DEADLINE, SOURCE

GOOD = "int add(int a, int b);\n\nint add(int a, int b) {\n        return a + b;\n}\n"
FOUND = "int add(int a, int b);\n\nint add(int a, int b) {\n        return a == b && a == b;\n}\n"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "tests/lint").mkdir(parents=True)
    for name in ("run", "words.py", "words.txt"):
        shutil.copy(SOURCE / "tests/lint" / name, tmp_path / "tests/lint")
    shutil.copy(SOURCE / ".clang-tidy", tmp_path)
    (tmp_path / "meson.build").write_text("project('x', 'c')\nstatic_library('x', 'x.c')\n")
    (tmp_path / "meson_options.txt").write_text("option('emulator', type : 'feature')\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True, timeout=DEADLINE)
    return tmp_path


def lint(project, text, *steps):
    """x.c has this text, and is newer than whatever was made from it."""
    path = project / "x.c"
    path.write_text(text)
    made = [file.stat().st_mtime for file in project.rglob("*") if file.is_file()]
    os.utime(path, (max(made) + 1, max(made) + 1))
    result = subprocess.run([project / "tests/lint/run", *steps], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert result.stderr == "", result
    return result


def test_tidy_sees_what_has_changed(project):
    """Also where no other step has built it, and where it doesn't compile."""
    result = lint(project, GOOD, "tidy")
    assert result.returncode == 0 and result.stdout.startswith("ok    tidy"), result
    for text, message in ((FOUND, "misc-redundant-expression"), ("int add(int a, int b) {\n", "error: expected '}'")):
        for _ in range(2):
            result = lint(project, text, "tidy")
            assert result.returncode == 1 and result.stdout.startswith("FAIL  tidy") and message in result.stdout, result
        assert lint(project, GOOD, "tidy").returncode == 0


def test_tidy_sees_what_another_step_could_not_build(project):
    assert lint(project, GOOD, "clang", "tidy").returncode == 0
    result = lint(project, "int add(int a, int b) {\n", "clang", "tidy")
    assert result.returncode == 1 and "FAIL  clang" in result.stdout and "FAIL  tidy" in result.stdout, result


def git(project, *arguments):
    return subprocess.run(["git", "-C", project, "-c", "user.name=x", "-c", "user.email=x@x.invalid", *arguments],
                          check=True, capture_output=True, text=True, timeout=DEADLINE).stdout.strip()


def words(project):
    return subprocess.run([project / "tests/lint/words.py"], capture_output=True, text=True, cwd=project, timeout=DEADLINE,
                          check=False)


@pytest.fixture
def based(project, monkeypatch):
    """A commit to compare with; one of the words is in it."""
    (project / "old.md").write_text("The enrolment is old.\n")
    git(project, "add", "-A")
    git(project, "commit", "-q", "--allow-empty", "-m", "x")
    monkeypatch.setenv("LINT_BASE", git(project, "rev-parse", "HEAD"))
    return project


@pytest.mark.parametrize("line, word, instead", [
    ("Create the enrolment first.", "enrolment", "enrollment"),
    ("It waits for the stand-in.", "stand-in", "fake"),
    ("Nobody asks for it.", "Nobody", "the one that does not"),
    ("The service has an answer.", "The service has", "DPS"),
    ("        /* The name counts, too. */", "too.", "nothing"),
])
def test_words_are_found_in_added_lines(based, line, word, instead):
    for name in ("old.md", "new.md"):
        (based / name).write_text(f"The enrolment is old.\n{line}\n" if name == "old.md" else f"\n{line}\n")
    for _ in ("not committed", "committed"):
        result = words(based)
        assert result.returncode == 1 and "old.md:1:" not in result.stdout, result
        for name in ("old.md", "new.md"):
            assert f"{name}:2: '{word}': write {instead}" in result.stdout, result
        git(based, "add", "-A")
        git(based, "commit", "-q", "--allow-empty", "-m", "x")


@pytest.mark.parametrize("line", [
    "Enrollment, enrolled and enrolling are fine.", "subprocess.Popen(user=\"nobody\")", "User=nobody", "new_world(world)",
    "tests/standins/install", "const TpmBlob *blob;", "failure->remedy = NULL;", "The value is too large.",
    "tests/handoff has the cases", "with nobody() as port:"])
def test_other_words_are_not_found(based, line):
    (based / "new.md").write_text(line + "\n")
    result = words(based)
    assert result.returncode == 0, result
