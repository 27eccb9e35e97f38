"""Compares what every script wrote of itself with what Bashd recorded of it. Knows the HTTP API and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.monkey.clients import Submission, pages
from bench.monkey.scripts import MAX_PIECE_BYTES
from tests.processes import FINAL, marked


@dataclass
class Account:
    """What a script itself wrote down."""

    runs: list[int] = field(default_factory=list)  # the pid of each run
    exit_code: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""


def account(log: Path) -> Account:
    """Read a script's private files; those of one that never ran are not there."""
    found = Account(stdout=_bytes(log, ".1"), stderr=_bytes(log, ".2"))
    for line in _bytes(log, "").decode().splitlines():
        word, number = line.split()
        if word == "run":
            found.runs.append(int(number))
        else:
            found.exit_code = int(number)
    return found


def _bytes(log: Path, suffix: str) -> bytes:
    path = log.with_name(log.name + suffix)
    return path.read_bytes() if path.exists() else b""


class Checker:
    """Holds every submission against the record."""

    def __init__(self, http: httpx.Client, *, hurt: set[int]) -> None:
        """``hurt``: ids of commands whose worker was killed or stopped, which alone may end ``lost``."""
        self._http = http
        self._hurt = hurt
        self.violations: list[str] = []
        self.outcomes: Counter[str] = Counter()

    def check(self, submissions: list[Submission]) -> None:
        """Fill ``violations`` and ``outcomes``."""
        rows: dict[str | None, list[dict[str, Any]]] = {}
        for row in pages(self._http):
            rows.setdefault(row["name"], []).append(row)
        for submission in submissions:
            self._check(submission, rows.pop(submission.name, []))
        for name, unasked in rows.items():
            for row in unasked:
                # The place that a refusal keeps from an insert that may still come has no script and no name.
                if (name, row["reason"], row["script"]) == (None, "not_accepted", ""):
                    self.outcomes["refused, place kept"] += 1
                else:
                    self.violations.append(f"a command that nobody handed in: {_short(row)}")

    def _check(self, submission: Submission, rows: list[dict[str, Any]]) -> None:
        what = account(submission.log)
        wrong: list[str] = []
        if len(rows) > 1:
            wrong.append(f"{len(rows)} rows")
        if len(what.runs) > 1:
            wrong.append(f"ran {len(what.runs)} times")
        if left := marked(submission.mark):
            wrong.append(f"processes are left: {left}")
        if submission.alive_at_end:
            wrong.append(f"was shown as ended while these were alive: {submission.alive_at_end}")
        row = rows[0] if rows else None
        if row is None:
            self.outcomes[f"{submission.answer}, no row"] += 1
            if submission.answer == "accepted":
                wrong.append("accepted and not there")
            if what.runs:
                wrong.append("ran, and there is no row")
        else:
            self.outcomes[f"{submission.answer}, {row['status']}/{row['reason']}"] += 1
            full = self._http.get(f"/v1/commands/{row['id']}").raise_for_status().json()
            wrong += self._compare(submission, what, full)
        if wrong:
            self.violations.append(
                f"{submission.name} ({submission.plan.kind}, {submission.answer}, log {submission.log}): "
                f"{'; '.join(wrong)}; row {_short(row)}"
            )

    def _compare(self, submission: Submission, what: Account, row: dict[str, Any]) -> list[str]:
        wrong: list[str] = []
        if submission.answer == "accepted" and row["id"] != submission.id:
            wrong.append(f"answered with id {submission.id}")
        if submission.final is not None and submission.final != row:
            changed = {key for key in row if row[key] != submission.final[key]}
            wrong.append(f"changed after its end: {sorted(changed)}, was {_short(submission.final)}")
        if row["status"] not in FINAL:
            return [*wrong, "is not final"]
        if what.runs and row["pid"] not in (None, what.runs[0]):
            wrong.append(f"another pid: {what.runs[0]}")
        if submission.answer == "refused" and row["reason"] != "not_accepted":
            wrong.append("was refused, and is recorded like one that was accepted")
        return wrong + self._compare_end(submission, what, row) + self._compare_output(what, row)

    def _compare_end(self, submission: Submission, what: Account, row: dict[str, Any]) -> list[str]:
        plan, disturbed = submission.plan, row["id"] in self._hurt
        match row["status"], row["reason"]:
            case (("succeeded" | "failed"), "exit"):
                wrong = []
                if not what.exit_code == plan.exit_code == row["exit_code"]:
                    wrong.append(f"meant to exit with {plan.exit_code}, wrote {what.exit_code}")
                if (row["status"] == "succeeded") != (row["exit_code"] == 0):
                    wrong.append("status and exit code disagree")
                swept = row["swept"]["group"] + row["swept"]["escaped"]
                if swept != plan.left_behind and not submission.stop_asked:
                    wrong.append(f"left {plan.left_behind} processes behind, {swept} are recorded as swept")
                return wrong
            case "failed", "signal":
                return [] if row["signal"] == plan.signal else [f"meant to end by signal {plan.signal}"]
            case "failed", "timeout":
                return [] if plan.times_out else ["has no timeout"]
            case "stopped", "client":
                return [] if submission.stop_asked else ["nobody asked for its stop"]
            case "stopped", "not_accepted":
                wrong = ["ran"] if what.runs else []
                return [*wrong, "was accepted"] if submission.answer == "accepted" else wrong
            case "lost", "worker_died":
                wrong = [] if disturbed else ["nobody hurt its worker"]
                return wrong if row["evidence"] else [*wrong, "no evidence"]
        return ["an end that cannot be"]

    def _compare_output(self, what: Account, row: dict[str, Any]) -> list[str]:
        """Equal to what the script wrote; where a signal may have fallen between two pieces, one piece apart."""
        natural = row["reason"] == "exit"
        cut = row["id"] in self._hurt and not natural  # what was in a dead worker's pipes nobody has
        wrong = []
        for stream, written in (("stdout", what.stdout), ("stderr", what.stderr)):
            got = self._http.get(f"/v1/commands/{row['id']}/output?stream={stream}").raise_for_status().content
            if len(got) != row[f"{stream}_bytes"]:
                wrong.append(f"{stream}: {row[f'{stream}_bytes']} bytes recorded, {len(got)} given")
            whole = got == written or (not natural and _one_piece_more(got, written))
            if not whole and not (cut and written.startswith(got)):
                wrong.append(f"{stream} differs: {len(written)} bytes written, {len(got)} recorded")
        return wrong


def _one_piece_more(got: bytes, written: bytes) -> bool:
    return got.startswith(written) and len(got) - len(written) <= MAX_PIECE_BYTES


def _short(row: dict[str, Any] | None) -> dict[str, Any] | None:
    return row and {key: value for key, value in row.items() if key not in ("script", "args", "labels")}
