"""Which commands a list shows, and where in it a page begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from api.command import EPOCH, Command
from api.models import MAX_ID, Parameters, bad
from protocol.status import STATUSES

SEARCHED = 10_000  # the newest commands, in which `q` looks
MAX_LABELS = 10
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)")
_CURSOR = re.compile(r"([1-9]\d{0,18})(?:@(\d{1,18}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """The last command of a page: the next page begins after it, whatever is added meanwhile."""

    id: int
    created_at: datetime | None = None  # in a list that is ordered by time


@dataclass(frozen=True, slots=True)
class Selection:
    """What a command must fulfil to be shown; what is empty or None is not asked for."""

    statuses: tuple[str, ...] = ()  # one of them
    name: str | None = None
    labels: tuple[tuple[str, str], ...] = ()  # all of them
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None  # in the script, in capitals or not
    after: Place | None = None

    @property
    def by_time(self) -> bool:
        """Ordered by time and then by id: what was created when is found at once in an order of its own."""
        return self.since is not None or self.until is not None

    @property
    def is_narrow(self) -> bool:
        """Asks for more than a status: how long that takes depends on what there is."""
        return self.by_time or bool(self.name or self.labels or self.text)

    def cursor(self, last: Command) -> str:
        """What a client sends to get the page after this command."""
        return f"{last.id}@{(last.created_at - EPOCH) // timedelta(microseconds=1)}" if self.by_time else str(last.id)


def parse_selection(parameters: Parameters) -> Selection:
    """What the query parameters ask for; raises ``Malformed``."""
    since, until = _instant(parameters, "since"), _instant(parameters, "until")
    if since is not None and until is not None and since >= until:
        raise bad("until", "must be later than since")
    by_time = since is not None or until is not None
    return Selection(
        statuses=tuple(dict.fromkeys(parameters.texts("status", tuple(STATUSES)))),
        name=_words(parameters, "name"),
        labels=_labels(parameters),
        since=since,
        until=until,
        text=_words(parameters, "q"),
        after=_place(parameters.text("cursor"), by_time=by_time),
    )


def _words(parameters: Parameters, name: str) -> str | None:
    text = parameters.text(name)
    if text is not None and (not 1 <= len(text) <= 200 or "\0" in text):
        raise bad(name, "must have 1 to 200 characters, none of them NUL")
    return text


def _labels(parameters: Parameters) -> tuple[tuple[str, str], ...]:
    found: dict[tuple[str, str], None] = {}
    for text in parameters.texts("label"):
        name, colon, value = text.partition(":")
        if not colon or not name or "\0" in text:
            raise bad("label", f"must be NAME:VALUE, and {text!r} is not")
        found[name, value] = None
    if len(found) > MAX_LABELS:
        raise bad("label", f"may be given {MAX_LABELS} times at most")
    return tuple(found)


def _instant(parameters: Parameters, name: str) -> datetime | None:
    """An instant as RFC 3339 has it, rounded up to the microseconds that are kept."""
    text = parameters.text(name)
    if text is None:
        return None
    found = _INSTANT.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        day, time, fraction, zone = found.groups()
        nanoseconds = int((fraction or "").ljust(9, "0"))
        whole = datetime.fromisoformat(f"{day}T{time}{'+00:00' if zone in 'Zz' else zone}")
        return (whole + timedelta(microseconds=-(-nanoseconds // 1000))).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        hint = "; send a + as %2B" if " " in text[19:] else ""
        raise bad(name, f"must be an instant with its zone like 2026-01-31T12:00:00Z (RFC 3339){hint}") from error


def _place(text: str | None, *, by_time: bool) -> Place | None:
    if text is None:
        return None
    found = _CURSOR.fullmatch(text)
    # One of the other order would lead to a page that looks right and is not.
    if found is None or int(found[1]) > MAX_ID or (found[2] is not None) is not by_time:
        raise bad("cursor", "must be the `next` of a page of the same list")
    return Place(int(found[1]), EPOCH + timedelta(microseconds=int(found[2])) if by_time else None)
