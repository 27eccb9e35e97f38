"""The clients of the monkey: they hand scripts in, stop some, and wait until each has ended."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.monkey.scripts import Plan, plan
from tests.processes import FINAL, marked

ANSWER_WITHIN_S = 15.0  # connections wait while API or supervisor are replaced, and while all of it starts again
END_WITHIN_S = 120.0  # from its stop or its own end, with everything that is being killed meanwhile


@dataclass
class Submission:
    """One attempt to hand a script in, and what its client was told."""

    plan: Plan
    name: str  # unique; the command has it too
    log: Path  # where the script keeps its account
    mark: str
    answer: str = "none"  # "accepted", "refused", or "none": the connection broke
    id: int | None = None
    stop_asked: bool = False
    final: dict[str, Any] | None = None  # the final command as first shown
    alive_at_end: tuple[int, ...] = ()  # processes of the script that were there when it was shown as final


class Clients:
    """Many clients at once; each hands in one script after another."""

    def __init__(self, url: str, token: str, place: Path, *, seed: int, count: int) -> None:
        """``place``: an empty directory for the scripts' private files."""
        self._url = url
        self._token = token
        self._place = place
        self._seed = seed
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"client {n}") for n in range(count)]
        self.submissions: list[Submission] = []
        self.troubles: list[str] = []  # what no client should have to see

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """No new scripts; returns when the last one has ended, or is overdue."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def stop_the_unanswered(self) -> None:
        """Stop what was accepted though its answer was lost, where it would not end by itself.

        Call it when nothing is on its way any more: its client has gone on without it.
        """
        with connect(self._url, self._token) as http:
            for submission in self.submissions:
                if submission.answer != "none" or submission.plan.stop_after_s is None:
                    continue
                found = http.get("/v1/commands", params={"name": submission.name}).raise_for_status().json()["items"]
                for command in found:
                    if command["status"] not in FINAL:
                        submission.stop_asked = True
                        self._ask(http, "POST", f"/v1/commands/{command['id']}/stop")

    def _work(self) -> None:
        with connect(self._url, self._token) as http:
            while not self._over.is_set():
                with self._lock:
                    number = next(self._numbers)
                try:
                    self._one(http, plan(self._seed, number))
                except Exception as error:  # a defect, of the monkey or of an answer
                    self.troubles.append(f"script {number}: {type(error).__name__}: {error}")

    def _one(self, http: httpx.Client, script: Plan) -> None:
        chance = random.Random(f"client {self._seed}/{script.number}")
        for attempt in itertools.count(1):
            submission = self._submit(http, script, attempt)
            if submission.answer == "accepted" or self._over.is_set():
                break
            time.sleep(chance.uniform(0.05, 0.3))
        if submission.id is None:
            return
        if script.stop_after_s is not None:
            if self._final(http, submission, script.stop_after_s):
                return
            submission.stop_asked = True
            self._ask(http, "POST", f"/v1/commands/{submission.id}/stop")
        if not self._final(http, submission, END_WITHIN_S):
            self.troubles.append(f"{submission.name} (command {submission.id}) does not come to an end")

    def _submit(self, http: httpx.Client, script: Plan, attempt: int) -> Submission:
        name = f"{script.number}.{attempt}"
        log, mark = self._place / name, f"{1_000_000 + script.number}.{attempt:04d}{self._seed % 10**6:06d}"
        submission = Submission(script, name, log, mark)
        with self._lock:
            self.submissions.append(submission)
        body = {"script": script.script, "args": [str(log), mark], "name": name, **script.fields}
        try:
            answer = http.post("/v1/commands", json=body)
        except httpx.ConnectError:
            submission.answer = "refused"  # nobody has seen it
        except httpx.TransportError:
            pass  # perhaps it was accepted
        else:
            if answer.status_code == 201:
                submission.answer, submission.id = "accepted", answer.json()["id"]
            elif answer.status_code == 503:
                submission.answer = "refused"
            else:
                self.troubles.append(f"{name}: {answer.status_code} {answer.text[:300]}")
        return submission

    def _final(self, http: httpx.Client, submission: Submission, within_s: float) -> bool:
        """Wait for the end; false when it does not come in time."""
        deadline = time.monotonic() + within_s
        while (rest := deadline - time.monotonic()) > 0:
            command = self._ask(http, "GET", f"/v1/commands/{submission.id}?wait={min(rest, 5):.3f}")
            if command is not None and command["status"] in FINAL:
                submission.final = command
                submission.alive_at_end = tuple(marked(submission.mark))
                return True
        return False

    def _ask(self, http: httpx.Client, method: str, path: str) -> dict[str, Any] | None:
        """Ask until there is an answer that is no 503; None when there is none for ``END_WITHIN_S``."""
        deadline = time.monotonic() + END_WITHIN_S
        while time.monotonic() < deadline:
            try:
                answer = http.request(method, path)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code == 200:
                command: dict[str, Any] = answer.json()
                return command
            if answer.status_code != 503:
                self.troubles.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
                return None
            time.sleep(0.1)
        return None


def connect(url: str, token: str) -> httpx.Client:
    """A client of its own, each request as a new connection."""
    return httpx.Client(
        base_url=url,
        headers={"Authorization": f"Bearer {token}"},
        timeout=ANSWER_WITHIN_S,
        trust_env=False,
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def pages(http: httpx.Client) -> Iterator[dict[str, Any]]:
    """Every command there is, newest first."""
    params: dict[str, Any] = {"limit": 200}
    while True:
        page = http.get("/v1/commands", params=params).raise_for_status().json()
        yield from page["items"]
        if page["next"] is None:
            return
        params["cursor"] = page["next"]
