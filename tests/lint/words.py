#!/usr/bin/python3
"""Words that are not to come back: finds those of words.txt in what the work tree adds to a commit.

That commit is LINT_BASE; else where the upstream branch was left; else the last one before today.
"""
import os
import pathlib
import re
import subprocess
import sys

LIST = pathlib.Path(__file__).with_name("words.txt")
NOT_OURS = (":!tests/lint", ":!tests/fuzz/corpus", ":!tests/data")
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


def git(*arguments):
    """The output, or nothing when it fails."""
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", check=False)
    return result.stdout if result.returncode == 0 else ""


def base():
    found = os.environ.get("LINT_BASE") or git("merge-base", "HEAD", "@{upstream}") or git(
        "rev-list", "-1", "--before=midnight", "HEAD")
    return found.strip() or EMPTY_TREE


def added_lines(commit):
    """File, number and text of each; a file that git does not know yet is new as a whole."""
    path = number = None
    for line in git("diff", "-U0", "-M", "--no-ext-diff", "--no-color", commit, "--", ".", *NOT_OURS).split("\n"):
        if line.startswith("+++ "):
            path = line.removeprefix("+++ ").removeprefix("b/").rstrip("\t")
        elif hunk := re.match(r"@@ -\S+ \+(\d+)", line):
            number = int(hunk[1])
        elif line.startswith("+"):
            yield path, number, line[1:]
            number += 1
    for path in git("ls-files", "-z", "--others", "--exclude-standard", "--", ".", *NOT_OURS).split("\0"):
        if os.path.isfile(path):
            text = pathlib.Path(path).read_text(errors="replace")
            yield from ((path, number, line) for number, line in enumerate(text.split("\n"), 1))


def main():
    pairs = [line.split(" -> ", 1) for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
    words = [(re.compile(expression, re.IGNORECASE), instead) for expression, instead in pairs]
    found = [f"{path}:{number}: '{match[0].strip()}': write {instead}" for path, number, line in added_lines(base())
             for expression, instead in words for match in expression.finditer(line)]
    print("\n".join(found), end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
