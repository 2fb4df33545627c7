#!/usr/bin/python3
"""lib/dps-json with the installed json-c, judged by Python's parser.

    test_json.py JSON-PARSE [--count=N] [--seed=N]

Documents are made at random, and most of them mutated. Both parsers refuse a document, or read the same value in it.
Where they differ on purpose, `adapt` and `refuse_more` say how.
"""
import argparse
import json
import random
import re
import subprocess
import sys

DEPTH_MAX = 31
INT_MIN, INT_MAX = -2**63, 2**64 - 1

TEXTS = ["", "a", "Gerät 7", "Łódź", "工場", "😀", "é", "/", "\\", '"', "\u007f", "\u0080", "\u2028", "\ufeff", "\uffff",
         "\U0010ffff", "\b\f\n\r\t", "\x01", "null", "NaN", "// no comment", "/* none */"]
NUMBERS = ["0", "-0", "7", "-1", "1.10", "-0.0", "1E5", "1e+5", "1e-5", "0.1e1", "12345678901234567", "9223372036854775807",
           "-9223372036854775808", "18446744073709551615", "99999999999999999999", "1e400", "3.0000000000000000000001"]
# What a mutation puts in: pieces that are JSON at one place, and nothing that is JSON anywhere.
PIECES = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"'", b"\\", b" ", b"\n", b"\t", b"\0", b"\x0b", b"\x0c", b"\x1f",
          b"0", b"1", b"-", b"+", b".", b"e", b"E5", b"01", b"1.", b".5", b"0x1", b"1_0", b"true", b"True", b"NULL", b"null",
          b"NaN", b"-NaN", b"Infinity", b"-Infinity", b"inf", b"//x\n", b"/**/", b"#x\n", b"\\u00fc", b"\\ud83d\\ude00",
          b"\\uD83D", b"\\u12", b"\\x41", b"\\u+123", b"\\u12 4", b"\\'", b"\\\n", b"\\/", b"a:1", b"'a'", b"{} {}", b",}",
          b",]", b"\xff", b"\xfe", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xed\xbf\xbf",
          b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\x80",
          b"\xef\xbb\xbf", b"\xc2\xa0", b"\xc3\xbc", b"\xe2\x80\xa8"]


def make_string(rng):
    return json.dumps("".join(rng.choices(TEXTS, k=rng.randrange(4))), ensure_ascii=rng.random() < 0.3)


def make(rng, depth=4):
    """Valid JSON, with white space anywhere, members that are named twice, and numbers in every form."""
    def space():
        return rng.choice(["", "", "", " ", "\n", "\t\r "])

    kind = rng.randrange(7 if depth else 5)
    if kind < 2:
        text = make_string(rng)
    elif kind < 4:
        text = rng.choice(NUMBERS)
    elif kind == 4:
        text = rng.choice(["true", "false", "null"])
    elif kind == 5:
        text = "[" + ",".join(make(rng, depth - 1) for _ in range(rng.randrange(4))) + space() + "]"
    else:
        text = "{" + ",".join(f"{space()}{make_string(rng)}{space()}:{make(rng, depth - 1)}"
                              for _ in range(rng.randrange(4))) + space() + "}"
    return space() + text + space()


def mutate(rng, document):
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(document) + 1)
        document = document[:at] + rng.choice([rng.choice(PIECES), b""]) + document[at + rng.randrange(3):]
    return document


def refuse(word):
    raise ValueError(word)


def refuse_more(document):
    """Beyond Python: nesting that would cost much memory."""
    depth = deepest = 0
    for bracket in re.findall(rb'"(?:[^"\\]|\\.)*"|[][{}]', document):
        depth += (bracket in b"[{") - (bracket in b"]}")
        deepest = max(deepest, depth)
    return deepest > DEPTH_MAX


def adapt(value):
    """As json-c has it: numbers in 64 bits, no half of a surrogate pair, no NUL in the name of a member."""
    if isinstance(value, dict):
        return {adapt(name).split("\0")[0]: adapt(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [adapt(inner) for inner in value]
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, int) and not isinstance(value, bool):
        return min(max(value, INT_MIN), INT_MAX)
    return value


def python_reads(document):
    """(value,) or None."""
    try:
        if refuse_more(document):
            return None
        return (adapt(json.loads(document.decode(), parse_constant=refuse)),)
    except ValueError:
        return None


def parser_reads(program, documents):
    data = b"".join(b"%d\n" % len(document) + document for document in documents)
    result = subprocess.run([program], input=data, capture_output=True, check=False)
    assert result.returncode == 0 and not result.stderr, result.stderr.decode(errors="replace")[-4000:]
    answers, rest = [], result.stdout
    while rest:
        line, _, rest = rest.partition(b"\n")
        if line == b"refused":
            answers.append(None)
            continue
        size = int(line.split()[1])
        answers.append((json.loads(rest[:size]),))
        rest = rest[size + 1:]
    return answers


def fixed_documents():
    yield from (number.encode() for number in NUMBERS)
    yield from (json.dumps(text, ensure_ascii=False).encode() for text in TEXTS)
    for piece in PIECES:
        yield from (piece, b'"' + piece + b'"', b"[" + piece + b"]", b"1 " + piece, piece + b" 1", b'{"a":' + piece + b"}")
    for depth in (DEPTH_MAX, DEPTH_MAX + 1, 1000):
        yield from (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=30000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    documents = list(fixed_documents())
    documents += [mutate(rng, make(rng).encode()) for _ in range(arguments.count)]
    expected = [python_reads(document) for document in documents]
    found = parser_reads(arguments.program, documents)
    assert len(found) == len(documents)
    wrong = [(d, e, f) for d, e, f in zip(documents, expected, found) if repr(e) != repr(f)]
    good = sum(e is not None for e in expected)
    print(f"1..1\n# seed {arguments.seed}: {good} read, {len(documents) - good} refused")
    for document, *values in wrong[:5]:
        print(f"# {document!r}: Python reads {values[0]!r}, dps-json {values[1]!r}")
    enough = min(good, len(documents) - good) > len(documents) / 5
    print("not ok 1 - json" if wrong or not enough else "ok 1 - json")
    return bool(wrong) or not enough


if __name__ == "__main__":
    sys.exit(main())
