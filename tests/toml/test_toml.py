#!/usr/bin/python3
"""The editor of config.toml, judged by another TOML parser.

    test_toml.py TOML-EDIT [--count=N] [--seed=N]

Documents are made at random, and some of them mutated. What tomllib reads must read the same after the edit but for
the provisioning table, with every other line as it was; or the edit is refused, for one of two reasons and with a
line number. What is TOML 1.1 is judged likewise by toml11.py. What neither reads must be refused. A failing document is
shown with as few lines as fail.

Takes 40 s of processor time: Python's parser reads each document before and after the edit.
"""

import argparse
import concurrent.futures
import itertools
import math
import os
import random
import re
import subprocess
import sys
import tomllib

from documents import make
from toml11 import loads_10, loads_11

PAYLOADS = [None, "file:///etc/aziot/payload.json", "file:///a\"b\\c d\té"]
REFUSAL = re.compile(r"config\.toml:([0-9]+): (.*)")
WRITTEN = re.compile(r"\[provisioning\]|source = \"dps\"|global_endpoint = .*|id_scope = .*|payload = .*|"
                     r"\[provisioning\.attestation\]|method = \"tpm\"|registration_id = .*|")
COMMENT = re.compile(r"^[ \t]*#[0-9]+ .*", re.MULTILINE)
BATCH = 1000


def same(a, b):
    """NaN is NaN; 1 and 1.0 differ."""
    kind = type(a)
    if kind is not type(b):
        return False
    if kind is dict:
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if kind is list:
        return len(a) == len(b) and all(map(same, a, b))
    return a == b if kind in (str, int, bool) else repr(a) == repr(b)


class Editor:
    def __init__(self, program, payload):
        self.command = [program] + ([payload] if payload else [])
        provisioning = {"source": "dps", "global_endpoint": "https://dps.example", "id_scope": "0ne00NEW",
                        "attestation": {"method": "tpm", "registration_id": "gw-new"}}
        if payload:
            provisioning["payload"] = {"uri": payload}
        self.wanted = provisioning

    def edit(self, texts):
        """For each (edited, None) or (None, refusal). One process for all: a round trip costs more than an edit."""
        documents = [text.encode(errors="surrogateescape") for text in texts]
        result = subprocess.run(self.command, input=b"".join(b"%d\n" % len(d) + d for d in documents),
                                stdout=subprocess.PIPE, check=False)
        answers, at = [], 0
        if result.returncode != 0:
            raise EOFError(f"the program ended with {result.returncode}")
        while at < len(result.stdout):
            end = result.stdout.index(b"\n", at)
            kind, _, rest = result.stdout[at:end].decode().partition(" ")
            at = end + 1
            if kind == "ok":
                answers.append((result.stdout[at:at + int(rest)].decode(errors="surrogateescape"), None))
                at += int(rest)
            else:
                answers.append((None, rest))
        if len(answers) != len(texts):
            raise EOFError(f"{len(answers)} answers for {len(texts)} documents")
        return answers


def has_table_list(value):
    return isinstance(value, list) and value and all(isinstance(item, dict) for item in value) or \
        isinstance(value, dict) and any(has_table_list(item) for item in value.values())


def check_refusal(refusal, text, document):
    """What is wrong with a refusal, or None."""
    match = REFUSAL.fullmatch(refusal)
    if not match or not 1 <= int(match[1]) <= text.count("\n") + 1:
        return f"refused without a line of the document: {refusal}"
    if document is None:
        return None
    provisioning = document.get("provisioning")
    reason = match[2]
    if reason == "provisioning is an array of tables" and has_table_list(provisioning):
        return None
    if reason == "provisioning is not a table" and "provisioning" in document and not isinstance(provisioning, dict):
        return None
    return f"refused, although it is TOML: {refusal}"


def check_lines(text, edited):
    """What was not written by the edit must be the document's own lines, in their order."""
    left, right = ([line.rstrip("\r") for line in whole.split("\n")] for whole in (text, edited))
    at = 0
    for line in right:
        if at < len(left) and left[at] == line:
            at += 1
        elif not WRITTEN.fullmatch(line):
            try:
                at = left.index(line, at) + 1
            except ValueError:
                return f"a line is new or in another place: {line!r}"
    return None


def check_comments(text, edited):
    """Comments on lines of their own stay, also within provisioning. Those within values begin with #v."""
    lines = set(edited.replace("\r", "").split("\n"))
    for line in COMMENT.findall(text.replace("\r", "")):
        if line not in lines:
            return f"a comment is gone: {line!r}"
    return None


def read(text):
    """(who reads it, what it says)"""
    for loads in (loads_10, loads_11):
        try:
            return loads, loads(text)
        except tomllib.TOMLDecodeError:
            pass
    return None, None


def check(editor, text, comments, answer=None):
    """(complaint or None, what became of it)"""
    version, document = read(text)
    edited, refusal = answer or editor.edit([text])[0]
    if refusal is not None:
        return check_refusal(refusal, text, document), "refused" if document is not None else "not TOML"
    if document is None:
        return "it is not TOML, but was edited", "edited"
    if not isinstance(document.get("provisioning", {}), dict):
        return "what is not a table was replaced", "edited"
    try:
        result = version(edited)
    except tomllib.TOMLDecodeError as error:
        return f"not TOML after the edit: {error}\n{edited}", "edited"
    if not same(result, {**document, "provisioning": editor.wanted}):
        return f"something else has changed:\n{edited}", "edited"
    if (text.count("\r\n") == text.count("\n") > 0) and edited.count("\r\n") != edited.count("\n"):
        return "line ends are mixed", "edited"
    complaint = check_lines(text, edited) or (comments and check_comments(text, edited)) or None
    return complaint, "edited" if version == loads_10 else "edited (TOML 1.1)"


def shrink(editor, text, comments):
    """As few lines as still give a complaint."""
    lines = text.split("\n")
    size = len(lines) // 2
    while size > 0:
        at = 0
        while at < len(lines):
            fewer = lines[:at] + lines[at + size:]
            if check(editor, "\n".join(fewer), comments)[0]:
                lines = fewer
            else:
                at += size
        size //= 2
    return "\n".join(lines)


def complain(editor, text, comments, seed):
    """The complaint about a document, with as little of it as is needed."""
    try:
        small = shrink(editor, text, comments)
        return f"seed {seed}\n{ascii(check(editor, small, comments)[0])}\nof\n{small!r}"
    except EOFError as error:
        return f"seed {seed}: {error}\n{text!r}"


def run(program, kind, seed, count):
    """(complaint or None, {what became of them: how many})"""
    rng = random.Random(f"{kind} {seed}")
    editor = Editor(program, PAYLOADS[seed % len(PAYLOADS)])
    comments = kind != "mutated"
    outcomes = {}
    documents = itertools.islice(make(rng, kind), count)
    while texts := list(itertools.islice(documents, BATCH)):
        try:
            answers = editor.edit(texts)
        except EOFError:
            answers = [None] * len(texts)  # which one it was shows when they are given one by one
        for text, answer in zip(texts, answers):
            try:
                complaint, outcome = check(editor, text, comments, answer)
            except EOFError as error:
                complaint = str(error)
            if complaint:
                return complain(editor, text, comments, seed), outcomes
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return None, outcomes


def main():
    parser = argparse.ArgumentParser(description="Judges the editor of config.toml.")
    parser.add_argument("program", help="toml-edit")
    parser.add_argument("--count", type=int, default=100000, help="documents")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    kinds = {"template": 0.1, "random": 0.5, "mutated": 0.4}
    parts = 6
    failed = False

    print(f"1..{len(kinds)}")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = {kind: [pool.submit(run, options.program, kind, options.seed + part, math.ceil(options.count * share / parts))
                       for part in range(parts)] for kind, share in kinds.items()}
        for number, (kind, futures) in enumerate(jobs.items(), 1):
            total = {}
            complaints = []
            for future in futures:
                complaint, outcomes = future.result()
                complaints += [complaint] if complaint else []
                for outcome, n in outcomes.items():
                    total[outcome] = total.get(outcome, 0) + n
            for line in "\n".join(complaints).splitlines():
                print("#", line)
            print("not ok" if complaints else "ok", number, "-", sum(total.values()), kind, "documents:",
                  ", ".join(f"{n} {outcome}" for outcome, n in sorted(total.items())))
            failed = failed or bool(complaints)
    return failed


if __name__ == "__main__":
    sys.exit(main())
