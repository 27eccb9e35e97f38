"""Clients that come all the time while something is killed, and what their commands must have come to afterwards.

Every command keeps a private account of how often it ran, so what the clients were told can be held against it.
"""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path
from typing import Any, Self

import httpx

from tests.processes import TOKEN, Command, Service, eventually

# $1 is a directory, $2 the command's number.
SCRIPT = 'echo x >> "$1/$2"; echo "out $2"; echo "err $2" >&2; exit $(($2 % 5))'
PAUSE_S = 0.05  # of each client between two commands


def code_of(number: int) -> int:
    """The exit code of the command with this number."""
    return number % 5


class Crowd:
    """Clients that hand in short commands, and read, until the end of the ``with``.

    What a client was told of a command: it was ``accepted``, or ``refused`` (503, or no connection was to be had), or
    its answer never came, and its outcome is ``unknown``. Everything else is a trouble, and fails.
    """

    def __init__(self, service: Service, directory: Path, *, clients: int = 3, answered_within_s: float = 30.0) -> None:
        """``directory`` is made for the private accounts. Later than ``answered_within_s`` is a trouble."""
        self.accepted: dict[int, Command] = {}
        self.refused: set[int] = set()
        self.unknown: set[int] = set()
        self.refused_connections = 0
        self.troubles: list[str] = []
        self._service = service
        self._directory = directory
        self._within_s = answered_within_s
        self._numbers = itertools.count(1)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._come) for _ in range(clients)]

    def __enter__(self) -> Self:
        self._directory.mkdir()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def grows(self, by: int = 5) -> None:
        """Wait until so many more commands were accepted."""
        enough = len(self.accepted) + by
        eventually(lambda: len(self.accepted) >= enough or self.troubles, within_s=60)

    def is_refused(self, times: int = 3) -> None:
        """Wait until so many more commands were refused."""
        enough = len(self.refused) + times
        eventually(lambda: len(self.refused) >= enough or self.troubles, within_s=60)

    def _come(self) -> None:
        # Each request comes as a connection of its own, as from many clients.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(
            headers={"Authorization": f"Bearer {TOKEN}"}, timeout=self._within_s, trust_env=False, limits=limits
        ) as http:
            while not self._over.is_set() and not self.troubles:
                number = next(self._numbers)
                self._hand_in(http, number)
                self._read(http, number)
                self._over.wait(PAUSE_S)

    def _hand_in(self, http: httpx.Client, number: int) -> None:
        body = {"script": SCRIPT, "args": [str(self._directory), str(number)], "name": str(number)}
        waits: dict[str, Any] = {"params": {"wait": 1}} if number % 4 == 0 else {}
        try:
            answer = http.post(f"{self._service.url}/v1/commands", json=body, **waits)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self.refused_connections += 1
            self.refused.add(number)
            return
        except httpx.TimeoutException:
            self.troubles.append(f"command {number}: no answer within {self._within_s} s")
            return
        except httpx.TransportError:
            self.unknown.add(number)
            return
        if answer.status_code == 201:
            self.accepted[number] = Command(answer.json())
        elif answer.status_code == 503:
            self.refused.add(number)
        else:
            self.troubles.append(f"command {number}: {answer.status_code} {answer.text}")

    def _read(self, http: httpx.Client, number: int) -> None:
        """Look at the command and its output: one that was accepted is there, with nothing it did not print."""
        command = self.accepted.get(number)
        if command is None:
            return
        for path in (f"/v1/commands/{command.id}", f"/v1/commands/{command.id}/output?stream=stdout"):
            try:
                answer = http.get(f"{self._service.url}{path}")
            except httpx.TimeoutException:
                self.troubles.append(f"{path}: no answer within {self._within_s} s")
                return
            except httpx.TransportError:
                continue  # of the process that was killed
            if answer.status_code not in (200, 503):
                self.troubles.append(f"{path}: {answer.status_code} {answer.text}")
            elif path.endswith("stdout") and answer.status_code == 200:
                whole = b"out %d\n" % number
                if not whole.startswith(answer.content):
                    self.troubles.append(f"{path}: {answer.content!r} instead of {whole!r}")

    def assert_all_is_true(self, seed: object) -> None:
        """What was accepted ran once and is recorded so, what was refused never ran, the rest at most once.

        To be called when the service is well again. ``seed`` is named when it is not so.
        """
        service = self._service
        assert self.troubles == [], f"seed {seed}"
        assert self.accepted, f"seed {seed}: nothing was accepted"
        eventually(lambda: not service.page(status="queued") and not service.page(status="running"), within_s=60)
        # From here on PostgreSQL answers, not the journals.
        eventually(lambda: not os.listdir(service.state_dir / "journals"), within_s=60)
        rows = _by_name(service)
        ran = {int(path.name): path.read_text() for path in self._directory.iterdir()}
        wrong = []
        for number, command in self.accepted.items():
            found = rows.get(str(number), [])
            if [one.id for one in found] != [command.id]:
                wrong.append(f"{number} was accepted as {command.id} and is {[one.id for one in found]}")
            elif trouble := _compare(service, number, found[0]):
                wrong.append(f"{number} (command {command.id}): {trouble}")
            if ran.get(number) != "x\n":
                wrong.append(f"{number} was accepted as {command.id} and ran {len(ran.get(number, '')) // 2} times")
        for number in self.refused:
            found = rows.get(str(number), [])
            if number in ran or len(found) > 1 or any(one.reason != "not_accepted" for one in found):
                wrong.append(f"{number} was refused, ran {len(ran.get(number, '')) // 2} times, rows {found}")
        for number in self.unknown:
            found = rows.get(str(number), [])
            ends = {one.reason for one in found}
            if ran.get(number, "x\n") != "x\n" or len(found) > 1 or (number in ran) != (ends == {"exit"}):
                wrong.append(f"{number} got no answer, ran {len(ran.get(number, '')) // 2} times, rows {found}")
        assert wrong == [], f"seed {seed}"


def _compare(service: Service, number: int, row: Command) -> str:
    """What is wrong with the record of a command that was accepted; empty when nothing is."""
    end = ("failed" if code_of(number) else "succeeded", "exit", code_of(number))
    if (row.status, row.reason, row.exit_code) != end:
        return f"{row.status}/{row.reason}, exit code {row.exit_code}"
    for stream, whole in (("stdout", b"out %d\n" % number), ("stderr", b"err %d\n" % number)):
        if (content := service.output(row, stream=stream)) != whole:
            return f"{stream} is {content!r}"
    return ""


def _by_name(service: Service) -> dict[str, list[Command]]:
    """All commands that there are, by their names."""
    found: dict[str, list[Command]] = {}
    last: dict[str, Any] = {}
    while page := service.page(limit=1000, **last):
        for one in page:
            if one.name is not None:
                found.setdefault(one.name, []).append(one)
        last = {"offset": last.get("offset", 0) + len(page)}
    return found
