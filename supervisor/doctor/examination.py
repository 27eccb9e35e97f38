"""All findings, as a table or as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from protocol.places import Places
from supervisor.doctor import kernel, place, postgres, room, users
from supervisor.doctor.finding import Finding, Verdict
from supervisor.settings import Settings

EXIT_FAILED = 1
_COLOURS = {Verdict.OK: "32", Verdict.WARNING: "33", Verdict.FAILED: "31"}  # SGR, ECMA-48


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, from the kernel up to the address."""
    places = Places(str(settings.state_dir))
    owner = place.owner_of(places)
    yield from kernel.findings()
    yield from users.findings(settings)
    yield from room.findings(settings)
    yield from postgres.findings(settings, places)
    yield from place.findings(settings, places, owner)


def report(settings: Settings, *, as_json: bool) -> int:
    """Print what was found; returns the exit status: 0, or 1 when something failed."""
    try:
        return _report(settings, as_json=as_json)
    except BrokenPipeError:
        # Who read has read enough. What is still in our buffer has nowhere to go, and must not be a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _report(settings: Settings, *, as_json: bool) -> int:
    found = []
    for one in examine(settings):
        found.append(one)
        if not as_json:
            _print(one)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        print(_summary(found))
    sys.stdout.flush()
    return EXIT_FAILED if any(one.verdict is Verdict.FAILED for one in found) else 0


def _print(one: Finding) -> None:
    verdict = f"{one.verdict:8}"
    if sys.stdout.isatty():
        verdict = f"\033[{_COLOURS[one.verdict]}m{verdict}\033[m"
    print(f"{verdict} {one.subject}: {one.says}")
    if one.remedy is not None:
        print(f"{'':8} → {one.remedy}")


def _summary(found: list[Finding]) -> str:
    verdicts = Counter(one.verdict for one in found)
    counts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in Verdict)
    works = "cannot run here as it should" if verdicts[Verdict.FAILED] else "can run here"
    return f"\nBashd {works}: {counts}."
