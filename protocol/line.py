"""A line of the log, in the same form from every process: when, how bad, who, what, and facts beside it."""

import functools
import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_FACT = 2000  # characters; what a pipe takes at once is 4,096 bytes, and what is longer may mix with others

_NUMBERS = (int, float)
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.,:;/+@%()[]<>*#~^$!?&|")


def line(
    log_format: str, process: str, level: str, message: str, facts: "dict[str, Any]", time_ns: "int | None" = None
) -> str:
    """One line, without its end. ``log_format`` is "json" or "text"; ``time_ns`` is now unless it is given.

    As JSON every fact is a member, as text those that are not None follow the message as ``name=value``. A traceback is
    a fact in JSON, and for people the lines after the line, indented: no line of it can look like one of ours.
    """
    stamp = _stamp(time.time_ns() if time_ns is None else time_ns)
    if log_format == "json":
        short = {name: _short(value) for name, value in facts.items()}
        return json.dumps({"time": stamp, "level": level, "process": process, "message": message, **short})
    text = f"{stamp} {level:5} {process}: {message if message.isprintable() else json.dumps(message)}"
    for name, value in facts.items():
        if type(value) in _NUMBERS:
            text += f" {name}={value}"
        elif value is not None and name != "traceback":
            text += f" {name}={_value(_short(value))}"
    return text + "".join(f"\n    {one}" for one in str(_short(facts.get("traceback")) or "").splitlines())


def write(text: str) -> None:
    """Write a line to stderr, whole: one write, so lines of several processes do not mix."""
    try:
        os.write(2, text.encode(errors="replace") + b"\n")
    except OSError:
        pass  # nobody reads our stderr any more; the work goes on


def traceback_of(error: BaseException) -> str:
    """Where an error came from, for the fact ``traceback``."""
    import traceback  # here, because it would make every fork dearer

    return "".join(traceback.format_exception(error))


def _stamp(time_ns: int) -> str:
    """RFC 3339, in UTC, with microseconds."""
    seconds, rest = divmod(time_ns, 10**9)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@functools.lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _short(value: object) -> object:
    """As a fact is written: a number, or a text that is not too long. Of a long one the end tells most."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)  # of an exception what it says
    return text if len(text) <= MAX_FACT else f"… {text[-MAX_FACT:]}"


def _value(value: object) -> str:
    """As a word, in quotes when it would not look like one: what others wrote must not look like a line of ours."""
    text = str(value)
    return text if text and _PLAIN.issuperset(text) else json.dumps(text)
