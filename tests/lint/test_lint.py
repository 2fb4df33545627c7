"""The static checks find what they look for: tests/lint/run on a project of one file."""
import os
import shutil
import subprocess

import pytest
from enrollment_tool import DEADLINE, SOURCE

TOOLS = ("meson", "ninja", "gcc", "clang", "clang-tidy", "git")
GOOD = "int add(int a, int b);\n\nint add(int a, int b) {\n        return a + b;\n}\n"
FOUND = "int add(int a, int b);\n\nint add(int a, int b) {\n        return a == b && a == b;\n}\n"

pytestmark = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason="what ./dev lint needs is not installed")


@pytest.fixture
def project(tmp_path):
    (tmp_path / "tests/lint").mkdir(parents=True)
    shutil.copy(SOURCE / "tests/lint/run", tmp_path / "tests/lint")
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
