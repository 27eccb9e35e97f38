"""Which commands a list shows, and where in it a page begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from api.command import EPOCH, Command
from api.models import MAX_ID, NO_NUL
from api.parameters import Asked, Parameter, bad, choice, repeated
from protocol.status import STATUSES

SEARCHED = 10_000  # the newest commands, in which `q` looks
MAX_LABELS = 10
NO_CURSOR = "must be the `next` of a page of the same list"
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


def _words(text: str) -> str:
    if not 1 <= len(text) <= 200 or "\0" in text:
        raise ValueError("must have 1 to 200 characters, none of them NUL")
    return text


def _label(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name or "\0" in text:
        raise ValueError(f"must be NAME:VALUE, and {text!r} is not")
    return name, value


def _instant(text: str) -> datetime:
    """An instant as RFC 3339 has it, rounded up to the microseconds that are kept."""
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
        raise ValueError(f"must be an instant with its zone like 2026-01-31T12:00:00Z (RFC 3339){hint}") from error


def _place(text: str) -> Place:
    found = _CURSOR.fullmatch(text)
    if found is None or int(found[1]) > MAX_ID:
        raise ValueError(NO_CURSOR)
    return Place(int(found[1]), EPOCH + timedelta(microseconds=int(found[2])) if found[2] else None)


_WORDS = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": NO_NUL}
_TIME = {"type": "string", "format": "date-time"}

STATUS = repeated(
    choice("status", "Only those that are so now; one of several.", tuple(STATUSES), default=None, example="running"),
    at_most=len(STATUSES),
)
NAME: Parameter[str | None] = Parameter("name", "Only those of this name.", _words, _WORDS, None, "nightly")
LABEL = repeated(
    Parameter(
        "label",
        "Only those with this label; with all of several.",
        _label,
        {"type": "string", "pattern": "^[^:\\u0000]+:[^\\u0000]*$"},
        None,
        "team:infra",
    ),
    at_most=MAX_LABELS,
)
SINCE: Parameter[datetime | None] = Parameter(
    "since", "Only those that were created then or later.", _instant, _TIME, None, "2026-01-31T12:00:00Z"
)
UNTIL: Parameter[datetime | None] = Parameter(
    "until", "Only those that were created before.", _instant, _TIME, None, "2026-02-01T12:00:00+01:00"
)
TEXT: Parameter[str | None] = Parameter(
    "q", f"Only those with this in their script, of the newest {SEARCHED:,}.", _words, _WORDS, None, "backup"
)
CURSOR: Parameter[Place | None] = Parameter(
    "cursor",
    "Where the page before said that it goes on: its `next`.",
    _place,
    {"type": "string", "pattern": "^[1-9][0-9]{0,18}(@[0-9]{1,18})?$"},
    None,
    "42",
)

PARAMETERS = (STATUS, NAME, LABEL, SINCE, UNTIL, TEXT, CURSOR)


def selection(asked: Asked) -> Selection:
    """What ``PARAMETERS`` ask for; raises ``Malformed`` for what does not go together."""
    since, until, after = asked[SINCE], asked[UNTIL], asked[CURSOR]
    if since is not None and until is not None and since >= until:
        raise bad("until", "must be later than since")
    found = Selection(
        statuses=asked[STATUS],
        name=asked[NAME],
        labels=asked[LABEL],
        since=since,
        until=until,
        text=asked[TEXT],
        after=after,
    )
    # A place in a list of the other order would lead to a page that looks right and is not.
    if after is not None and (after.created_at is not None) is not found.by_time:
        raise bad("cursor", NO_CURSOR)
    return found
