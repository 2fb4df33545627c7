"""tomllib, and what TOML 1.1 has beyond the 1.0 that it reads.

loads_10() is tomllib as it is; loads_11() is a second instance of its parser with three things added: inline tables over
several lines and with a last comma, the escapes \\e and \\xHH, times without seconds.
"""

import importlib.util
import re
import tomllib


def second_instance():
    spec = importlib.util.spec_from_file_location("tomllib._parser11", tomllib._parser.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parser = second_instance()
parse_escape = parser.parse_basic_str_escape
match_to_datetime, match_to_localtime = parser.match_to_datetime, parser.match_to_localtime
WITH_SECONDS = {"datetime": parser.RE_DATETIME, "time": parser.RE_LOCALTIME}
TIME = parser.RE_LOCALTIME.pattern
TIME_11 = TIME.replace(r":([0-5][0-9])(?:\.", r"(?::([0-5][0-9])(?:\.") + ")?"


def parse_inline_table(src, pos, parse_float):
    """As a table of dotted keys, whose rules are the same."""
    names, flags = parser.NestedDict(), parser.Flags()
    pos = parser.skip_comments_and_array_ws(src, pos + 1)
    while not src.startswith("}", pos):
        pos, key, value = parser.parse_key_value_pair(src, pos, parse_float)
        if flags.is_(key, parser.Flags.FROZEN):
            raise parser.suffixed_err(src, pos, "cannot be changed")
        try:
            table = names.get_or_create_nest(key[:-1], access_lists=False)
        except KeyError:
            raise parser.suffixed_err(src, pos, "is a value") from None
        if key[-1] in table:
            raise parser.suffixed_err(src, pos, "is there already")
        table[key[-1]] = value
        if isinstance(value, (dict, list)):
            flags.set(key, parser.Flags.FROZEN, recursive=True)
        pos = parser.skip_comments_and_array_ws(src, pos)
        if src.startswith(",", pos):
            pos = parser.skip_comments_and_array_ws(src, pos + 1)
        elif not src.startswith("}", pos):
            raise parser.suffixed_err(src, pos, "has no end")
    return pos + 1, names.dict


def parse_basic_str_escape(src, pos, *, multiline=False):
    if src.startswith("\\e", pos):
        return pos + 2, "\x1b"
    if src.startswith("\\x", pos):
        return parser.parse_hex_char(src, pos + 2, 2)
    return parse_escape(src, pos, multiline=multiline)


def with_seconds(kind, match):
    text = re.sub(r"((?:^|[Tt ])[0-9]{2}:[0-9]{2})(?!:)", r"\1:00", match.group(), count=1)
    return WITH_SECONDS[kind].fullmatch(text)


parser.TOMLDecodeError = tomllib.TOMLDecodeError
parser.parse_inline_table = parse_inline_table
parser.parse_basic_str_escape = parse_basic_str_escape
parser.parse_basic_str_escape_multiline = lambda src, pos: parse_basic_str_escape(src, pos, multiline=True)
parser.RE_LOCALTIME = re.compile(TIME_11)
parser.RE_DATETIME = re.compile(parser.RE_DATETIME.pattern.replace(TIME, TIME_11), re.VERBOSE)
parser.match_to_localtime = lambda match: match_to_localtime(with_seconds("time", match))
parser.match_to_datetime = lambda match: match_to_datetime(with_seconds("datetime", match))


def without_mark(text):
    """A byte order mark may be there. What can't be encoded was no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise tomllib.TOMLDecodeError(str(error)) from None
    return text.removeprefix("\ufeff")


def loads_10(text):
    return tomllib.loads(without_mark(text))


def loads_11(text):
    return parser.loads(without_mark(text))
