"""What one look at the machine has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # Bashd runs; something is weaker, slower or less than it could be
    FAILED = "failed"  # ``bashd serve`` would refuse to start, or could not keep what it promises


@dataclass(frozen=True)
class Finding:
    """``subject``: what was looked at. ``remedy``: what to do about it; None when there is nothing to do."""

    subject: str
    verdict: Verdict
    says: str
    remedy: str | None = None


def ok(subject: str, says: str) -> Finding:
    return Finding(subject, Verdict.OK, says)


def warning(subject: str, says: str, remedy: str) -> Finding:
    return Finding(subject, Verdict.WARNING, says, remedy)


def failed(subject: str, says: str, remedy: str) -> Finding:
    return Finding(subject, Verdict.FAILED, says, remedy)
