"""Parameters, declared once: a declaration checks what comes in a query or a header, and describes itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sanic.compat import Header

from api.problems import Malformed

T = TypeVar("T")
D = TypeVar("D")  # what stands for a parameter that did not come: a value of its own kind, or None

# Python's int() and float() take more: digits of other scripts, blanks, underscores. And very long ones cost time.
_INTEGER = re.compile(r"-?[0-9]{1,24}")
_SECONDS = re.compile(r"[0-9]{1,24}(\.[0-9]{0,24})?([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, eq=False)
class Parameter(Generic[T]):
    """One parameter. ``parse`` raises ``ValueError`` with what the text must be; ``schema`` says the same."""

    name: str
    about: str
    parse: Callable[[str], Any]  # of one value; one that is repeated gives all of them
    schema: dict[str, Any]
    default: T
    example: Any = None  # needed where there is no default, so that who reads sees what one looks like
    at_most: int = 1  # how often it may be given
    ignored_when_wrong: bool = False  # and when given too often: then it is as if it had not come


def integer(
    name: str, about: str, *, least: int, most: int, default: D, example: int | None = None
) -> Parameter[int | D]:
    """A whole number between two others, both allowed."""

    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text) or not least <= int(text) <= most:
            raise ValueError(f"must be an integer from {least} to {most}")
        return int(text)

    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Parameter(name, about, parse, schema, default, example)


def seconds(name: str, about: str, *, most: float, example: float | None = None) -> Parameter[float | None]:
    """A duration from 0 on."""

    def parse(text: str) -> float:
        if not _SECONDS.fullmatch(text) or float(text) > most:
            raise ValueError(f"must be a number of seconds from 0 to {most:g}")
        return float(text)

    return Parameter(name, about, parse, {"type": "number", "minimum": 0, "maximum": most}, None, example)


def choice(
    name: str, about: str, choices: tuple[str, ...], *, default: D, example: str | None = None
) -> Parameter[str | D]:
    """One word out of a list."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return Parameter(name, about, parse, {"type": "string", "enum": list(choices)}, default, example)


def flag(name: str, about: str) -> Parameter[bool]:
    """``true`` or ``false``."""

    def parse(text: str) -> bool:
        if text not in ("true", "false"):
            raise ValueError("must be one of true, false")
        return text == "true"

    return Parameter(name, about, parse, {"type": "boolean"}, False)


def repeated(one: Parameter[Any], *, at_most: int) -> Parameter[tuple[Any, ...]]:
    """The same, to be given more than once; the value is that of all, each once."""
    return Parameter(one.name, one.about, one.parse, one.schema, (), [one.example], at_most)


class Asked:
    """What one request gives for the parameters that its route declares; each is looked up by its declaration."""

    def __init__(
        self,
        query: tuple[Parameter[Any], ...],
        args: Mapping[str, list[str]],
        headers: tuple[Parameter[Any], ...] = (),
        sent_headers: Header | None = None,
    ) -> None:
        """Raises ``Malformed`` for what is wrong, given twice, or in the query and not declared."""
        self._values: dict[Parameter[Any], Any] = {}
        known = {parameter.name for parameter in query}
        unknown = [name for name in args if name not in known]
        if unknown:
            allowed = ", ".join(parameter.name for parameter in query) or "none"
            errors = [(name, f"is not a parameter of this route; parameters are: {allowed}") for name in unknown]
            raise Malformed(f"{errors[0][0]} {errors[0][1]}.", errors=errors)
        for parameter in query:
            if parameter.name in args:  # not get(): Sanic's gives the first value alone
                self._values[parameter] = _parsed(parameter, args[parameter.name])
        for header in headers:
            if sent_headers is not None and header.name in sent_headers:
                try:
                    self._values[header] = _parsed(header, sent_headers.getall(header.name))
                except Malformed:
                    if not header.ignored_when_wrong:
                        raise

    def __getitem__(self, parameter: Parameter[T]) -> T:
        value: T = self._values.get(parameter, parameter.default)
        return value


def _parsed(parameter: Parameter[T], values: list[str]) -> T:
    if len(values) > parameter.at_most:
        often = "more than once" if parameter.at_most == 1 else f"more than {parameter.at_most} times"
        raise bad(parameter.name, f"is given {often}")
    try:
        parsed = [parameter.parse(value) for value in values]
        found: T = tuple(dict.fromkeys(parsed)) if parameter.at_most > 1 else parsed[0]  # type: ignore[assignment]
        return found
    except ValueError as error:
        raise bad(parameter.name, str(error)) from error


def bad(name: str, message: str) -> Malformed:
    """The problem of one field or parameter."""
    return Malformed(f"{name} {message}.", errors=[(name, message)])
