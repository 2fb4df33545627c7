"""What every verb has: help, exit codes, completion in three shells."""
import os
import re
import subprocess

import pytest
from enrollment_tool import DEADLINE, PROGRAM, SOURCE

COMPLETIONS = SOURCE / "cli/completions"
ENVIRONMENT = {**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}


def run(*arguments, status=0):
    result = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert result.returncode == status, result
    return result


def verbs():
    return re.findall(r"^  ([a-z-]+) ", run("--help").stdout, re.MULTILINE)


def options(verb):
    """As the help lists them; one that takes a value with its "=". Every verb has --help."""
    lists = re.findall(r"^ +(--\S+(?: \S+)*)", run(verb, "--help").stdout, re.MULTILINE)
    return {option for part in lists for option in re.findall(r"--[a-z][a-z-]*=?", part)} | {"--help"}


@pytest.fixture(params=["bash", "fish"])
def complete(request, tmp_path):
    """Asks the shell itself for what may follow the words."""
    def bash(words):
        # what readline does: "=" is a word of its own
        parts = [part for word in words for part in (re.split("(=)", word) if "=" in word else [word])]
        if parts[-1] == "" and words[-1].endswith("="):
            parts.pop()
        script = f"""
            source {COMPLETIONS}/dps-provision.bash
            compopt() {{ :; }}  # it works only while readline completes
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _dps_provision 2>&1
            printf '%s\\n' "${{COMPREPLY[@]}}" """
        found = ask("bash", "-c", script, "bash", *parts)
        prefix = words[-1].partition("=")[0] + "=" if "=" in words[-1] else ""
        return {prefix + f for f in found}

    def fish(words):
        line = " ".join(words)
        script = f"source {COMPLETIONS}/dps-provision.fish; complete -C '{line}'"
        return {f.split("\t")[0] for f in ask("fish", "--no-config", "-c", script)}

    def ask(*command):
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE,
                                env={**ENVIRONMENT, "HOME": str(tmp_path)})
        assert result.returncode == 0 and result.stderr == "", result
        return [line for line in result.stdout.splitlines() if line]

    return {"bash": bash, "fish": fish}[request.param]


@pytest.mark.parametrize("shell, name", [("bash", "dps-provision.bash"), ("zsh", "_dps-provision"),
                                         ("fish", "dps-provision.fish")])
def test_the_shell_takes_it(shell, name):
    subprocess.run([shell, "-n", COMPLETIONS / name], check=True, timeout=DEADLINE)


def test_verbs_are_completed(complete):
    assert complete(["dps-provision", ""]) == {*verbs(), "--help", "--version"}
    assert complete(["dps-provision", "enr"]) == {"enrollment"}


def test_options_are_completed(complete):
    assert "enrollment" in verbs()
    for verb in verbs():
        found = complete(["dps-provision", verb, "--"])
        assert found == options(verb)
        assert not {f"{option}=" for option in found} & found, "what takes a value is nothing without"


def test_values_are_completed(complete, tmp_path):
    (tmp_path / "station.csv").touch()
    (tmp_path / "cas").mkdir()
    start = ["dps-provision", "enrollment"]
    assert complete([*start, "--format="]) == {f"--format={f}" for f in
                                               ("text", "json", "bulk", "az", "csv", "qr", "pem")}
    assert complete([*start, "--format=j"]) == {"--format=json"}
    assert complete([*start, f"--station={tmp_path}/st"]) == {f"--station={tmp_path}/station.csv"}
    assert {c.rstrip("/") for c in complete([*start, f"--ca-dir={tmp_path}/"])} == {f"--ca-dir={tmp_path}/cas"}
    assert complete([*start, "--format=bulk", "--merge", f"{tmp_path}/st"]) == {f"{tmp_path}/station.csv"}


def test_every_verb_has_help():
    for verb in verbs():
        result = run(verb, "--help")
        assert result.stdout.startswith(f"Usage: dps-provision {verb}") and result.stderr == ""
        assert run(verb, "-h").stdout == result.stdout


def test_every_option_is_in_the_help_and_the_manual():
    manual = (SOURCE / "docs/dps-provision.1").read_text()
    for verb in verbs():
        assert re.search(rf"^\.(Cm|It Cm|Ss) {verb}\b", manual, re.MULTILINE), verb
        for option in options(verb) - {"--help"}:
            assert re.search(rf"Fl Fl {option[2:].rstrip('=')}\b", manual), f"{verb} {option}"
        source = SOURCE / f"cli/{verb}.c"
        known = re.findall(r'\{ "([a-z-]+)", (?:no|required|optional)_argument', source.read_text()) \
            if source.exists() else []
        assert {f"--{o}" for o in known} <= {o.rstrip("=") for o in options(verb)}, verb


def test_wrong_usage_exits_2():
    for verb in verbs():
        result = run(verb, "--no-such-option", status=2)
        assert result.stdout == "" and f"Try 'dps-provision {verb} --help'." in result.stderr
    for arguments in ([], ["no-such-verb"], ["--no-such-option"]):
        result = run(*arguments, status=2)
        assert result.stdout == "" and "Try 'dps-provision --help'." in result.stderr
    assert re.fullmatch(r"dps-provision \d+\.\d+\.\d+\n", run("--version").stdout)
