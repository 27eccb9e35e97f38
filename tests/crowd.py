"""What goes on while something is killed: clients that come all the time, and commands that run through it.

Every command keeps a private account of how often it ran, so what the clients were told, and what is recorded, can
be held against it.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from tests.processes import TOKEN, Command, Service, eventually

# $1 is a directory, $2 the command's number.
SCRIPT = 'echo x >> "$1/$2"; echo "out $2"; echo "err $2" >&2; exit $(($2 % 5))'

# Prints until it is told to finish, then writes down how far it came. $1 is a directory for its private account, $2
# a pipe that nobody ever writes to, to wait on without forking a sleep, $3 the file that tells it, $4 their width.
TICKING = """
echo "$BASHD_COMMAND_ID $$" >> "$1/$BASHD_COMMAND_ID"
exec 3<> "$2"
i=0
until [ -e "$3" ]; do
    printf '%d %0*d\\n' "$BASHD_COMMAND_ID" "$4" "$i"; echo "-$i" >&2; ((i += 1))
    read -t 0.1 -u 3
done
echo "$i" >> "$1/$BASHD_COMMAND_ID"
exit $((BASHD_COMMAND_ID % 7))
"""

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
        assert wrong == [], f"seed {seed}: {wrong[:5]}"


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


def account(directory: Path) -> tuple[Path, Path, Path]:
    """A directory for private accounts, a pipe that says nothing, and a file that is not there yet."""
    ran = directory / "ran"
    ran.mkdir(parents=True)
    os.mkfifo(directory / "never")
    return ran, directory / "never", directory / "go"


@contextmanager
def running_through(service: Service, directory: Path, count: int, *, width: int = 1) -> Iterator[list[Command]]:
    """Commands that print from before the body to after it: in the end not a byte is missing, and each ran once.

    ``width`` is that of a line on stdout; there are ten of them a second.
    """
    ran, never, go = account(directory)
    arguments = [str(ran), str(never), str(go), str(width)]
    commands = [service.run(TICKING, args=arguments, timeout_s=None) for _ in range(count)]
    before = [service.started(command) for command in commands]
    yield before
    go.touch()
    for one in before:
        ended = service.ended(one, within_s=60)
        which = f"command {one.id}"
        code = one.id % 7
        assert (ended.status, ended.reason, ended.exit_code) == ("failed" if code else "succeeded", "exit", code), which
        assert (ended.pid, ended.worker_pid, ended.started_at) == (one.pid, one.worker_pid, one.started_at), which
        began, lines = (ran / str(one.id)).read_text().splitlines()  # a second run would have left more
        assert began == f"{one.id} {one.pid}", which
        stdout = b"".join(b"%d %0*d\n" % (one.id, width, i) for i in range(int(lines)))
        stderr = b"".join(b"-%d\n" % i for i in range(int(lines)))
        eventually(lambda one=one: not (service.state_dir / "journals" / str(one.id)).exists())  # type: ignore[misc]
        assert service.output(one, stream="stdout") == stdout, which
        assert service.output(one, stream="stderr") == stderr, which
        assert (ended.stdout_bytes, ended.stderr_bytes) == (len(stdout), len(stderr)), which
