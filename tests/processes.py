"""What the kernel says of processes, and Bashd as a process among them: the ground truth of the tests.

Nothing here asks Bashd what is alive. The test run makes itself a subreaper (``adopt_orphans``), so whatever a
killed Bashd leaves behind becomes its child and can neither get lost nor be mistaken for somebody else's.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

T = TypeVar("T")

BASHD = str(Path(sys.executable).with_name("bashd"))
REPOSITORY = Path(__file__).parent.parent
TOKEN = "the-token-of-the-tests"
FINAL = {"succeeded", "failed", "stopped", "lost"}

_PR_SET_CHILD_SUBREAPER = 36
_numbers = itertools.count(1)

# The children that somebody here started and waits for; any other child of ours is an orphan.
started_here: set[int] = set()


def eventually(condition: Callable[[], T | None], within_s: float = 20.0) -> T:
    """The first true value of ``condition``; fails when there is none in time."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within_s} s, at last: {value!r}")
        time.sleep(0.01)
    return value


def unique_seconds() -> str:
    """A number of seconds for sleep(1), over an hour, that no other process has among its arguments."""
    return f"{4000 + next(_numbers)}.{os.getpid()}{time.time_ns() % 10**6:06d}"


@dataclass(frozen=True)
class Process:
    """One process at one moment, as /proc shows it (proc_pid_stat(5))."""

    pid: int
    state: str
    ppid: int
    pgid: int
    sid: int
    start_time: int

    @property
    def alive(self) -> bool:
        return self.state not in "ZX"


def process(pid: int) -> Process | None:
    """What /proc says of ``pid`` now; None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, ppid, pgid, sid = fields[0].decode(), *(int(field) for field in fields[1:4])
    return Process(pid, state, ppid, pgid, sid, int(fields[19]))


def processes() -> list[Process]:
    """Everything that is alive now."""
    found = [process(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    return [one for one in found if one is not None and one.alive]


def is_alive(pid: int) -> bool:
    """True while there is such a process and it is no zombie."""
    one = process(pid)
    return one is not None and one.alive


def arguments(pid: int) -> list[str]:
    """The arguments of ``pid``; a process that changed its title shows that first."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [one.decode(errors="replace") for one in text.split(b"\0")]


def title(pid: int) -> str:
    """What ps shows first of ``pid``; empty when it is gone."""
    return next(iter(arguments(pid)), "")


def marked(mark: str) -> list[int]:
    """Who has ``mark`` as one of its arguments: the ground truth for what a script started."""
    return [one.pid for one in processes() if mark in arguments(one.pid)]


def zombies(parent: int) -> list[int]:
    """The dead children that ``parent`` has not collected."""
    found = [process(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    return [one.pid for one in found if one is not None and one.state == "Z" and one.ppid == parent]


def group_members(pgid: int) -> list[int]:
    """Who is alive in this process group."""
    return [one.pid for one in processes() if one.pgid == pgid]


def children(pid: int) -> list[int]:
    """Who is alive and has this parent."""
    return [one.pid for one in processes() if one.ppid == pid]


def descendants(pid: int) -> list[int]:
    """Who is alive below ``pid``."""
    by_parent: dict[int, list[int]] = {}
    for one in processes():
        by_parent.setdefault(one.ppid, []).append(one.pid)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = by_parent.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def titled(prefix: str, below: int) -> list[int]:
    """The descendants of ``below`` whose title begins so."""
    return [pid for pid in descendants(below) if title(pid).startswith(prefix)]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; one that is already gone is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # what was asked for


def adopt_orphans() -> None:
    """Make this process a subreaper: the orphans of whatever it started come to it (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap_orphans() -> None:
    """Collect our dead children but those that somebody here waits for."""
    for name in os.listdir("/proc"):
        one = process(int(name)) if name.isdigit() else None
        if one and one.ppid == os.getpid() and one.state == "Z" and one.pid not in started_here:
            os.waitpid(one.pid, os.WNOHANG)


def sockets_below(directory: Path) -> list[str]:
    """Sockets and files with a process id that lie somewhere in ``directory``."""
    found = []
    for place, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(place, name)
            if name.endswith(".pid") or stat.S_ISSOCK(os.lstat(path).st_mode):
                found.append(path)
    return found


class Command:
    """A command as the service showed it at one moment; each field of the answer is an attribute."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row

    def __getattr__(self, name: str) -> Any:
        try:
            return self.row[name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        return f"Command({self.row})"


class Service:
    """Bashd on one state directory: started, asked over HTTP, ended; as often as a test wants."""

    def __init__(self, state_dir: Path, *, command: list[str] | None = None, **settings: object) -> None:
        """``settings`` become ``BASHD_*``; ``command`` is what stands before the arguments of ``bashd``."""
        self.state_dir = state_dir
        self.log_path = state_dir.with_name(state_dir.name + ".log")
        self.token: str | None = TOKEN
        self.url = ""
        self.init: subprocess.Popen[bytes] | None = None
        self._command = command or [BASHD]
        self._settings = settings
        self._http: httpx.Client | None = None
        self._before = set(children(os.getpid()))

    def also_set(self, **settings: object) -> None:
        """Settings for the next start, beside those it was made with."""
        self._settings |= settings

    # Its life

    def start(self, *, ready: bool = True, within_s: float = 40.0, **popen: Any) -> Self:
        """Start it; returns when it says that it is ready, or with ``ready=False`` as soon as it has an address."""
        already_logged = len(self.log)
        self.init = self.launch(**popen)
        started_here.add(self.init.pid)
        self.url = eventually(lambda: self._address(already_logged), within_s=within_s)
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"} if self.token else {},
            timeout=30.0,
            trust_env=False,
            # Each request comes as a connection of its own, as from many clients.
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        if ready:
            eventually(self.is_ready, within_s=within_s)
        return self

    def launch(self, **popen: Any) -> subprocess.Popen[bytes]:
        """Start the process alone. Its log is appended to ``log_path``."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "BASHD_STATE_DIR": str(self.state_dir),
            "BASHD_HOST": "127.0.0.1",
            "BASHD_PORT": "0",
            **({"BASHD_TOKEN": self.token} if self.token else {}),
            **{f"BASHD_{name.upper()}": str(value) for name, value in self._settings.items()},
        }
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True, "cwd": "/", **popen}
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [*self._command, "serve"], env=environment, **{"stdout": log, "stderr": log, **options}
            )

    def _address(self, already_logged: int) -> str | None:
        text = self.log[already_logged:]
        if self.init is not None and self.init.poll() is not None:
            raise AssertionError(f"bashd serve ended with {self.init.returncode}:\n{text}")
        found = re.search(r"(https?)://(?:127\.0\.0\.1|localhost):(\d+)", text)
        return f"{found[1]}://127.0.0.1:{found[2]}" if found else None

    def is_ready(self) -> bool:
        """True when /readyz says so; fails when the service has ended."""
        assert self.init is not None
        if self.init.poll() is not None:
            raise AssertionError(f"bashd serve ended with {self.init.returncode}:\n{self.log}")
        try:
            return self.http.get("/readyz", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def terminate(self, number: int = signal.SIGTERM, *, within_s: float = 20.0) -> int:
        """Tell it to go and wait until it has; returns its exit code."""
        self.tell(number)
        return self.wait(within_s=within_s)

    def tell(self, number: int = signal.SIGTERM) -> None:
        """Send the first process a signal."""
        assert self.init is not None
        self.init.send_signal(number)

    def wait(self, *, within_s: float = 20.0) -> int:
        """Wait for its end; returns its exit code."""
        assert self.init is not None
        code = self.init.wait(within_s)
        self._ended()
        return code

    def kill_init(self) -> None:
        """``kill -9`` of the first process; what it leaves becomes ours."""
        assert self.init is not None
        self.init.kill()
        self.init.wait(10)
        self._ended()

    def _ended(self) -> None:
        assert self.init is not None
        started_here.discard(self.init.pid)
        self.init = None
        if self._http is not None:
            self._http.close()
            self._http = None

    def close(self) -> None:
        """End it, asked twice so that it hurries, and whatever it left. Twice is safe."""
        if self.init is not None:
            for _ in range(2):
                self.tell()
            try:
                self.wait(within_s=15)
            except subprocess.TimeoutExpired:
                pass  # then it is killed below; a test of its own watches over the time
        self.kill_everything()

    def kill_everything(self) -> None:
        """``kill -9`` of all its processes and of all their orphans."""

        def rest() -> list[int]:
            reap_orphans()
            roots = [self.init.pid] if self.init else []
            roots += set(children(os.getpid())) - self._before - started_here
            return [*roots, *(pid for root in roots for pid in descendants(root))]

        def killed() -> bool:
            found = rest()
            for pid in found:
                kill(pid)
            if self.init is not None and self.init.poll() is not None:
                self._ended()
            return not found

        eventually(killed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    # Its processes

    def pids(self, prefix: str) -> list[int]:
        """Its processes whose title begins so."""
        assert self.init is not None
        return titled(prefix, self.init.pid)

    def pid(self, prefix: str) -> int:
        """Its one process whose title begins so, as soon as there is one."""
        return eventually(lambda: self.pids(prefix))[0]

    def postmaster(self) -> int:
        """The first process of its embedded PostgreSQL, as soon as there is one."""
        assert self.init is not None
        init = self.init.pid
        return eventually(lambda: [pid for pid in children(init) if title(pid).endswith("/postgres")])[0]

    # What it is asked

    @property
    def http(self) -> httpx.Client:
        assert self._http is not None, "not started"
        return self._http

    def create(self, script: str, *, wait_s: float | None = None, **fields: Any) -> httpx.Response:
        """POST a command as it stands."""
        params = {} if wait_s is None else {"wait": wait_s}
        return self.http.post("/v1/commands", json={"script": script, **fields}, params=params)

    def run(self, script: str, **fields: Any) -> Command:
        """Hand in a script; it is accepted."""
        answer = self.create(script, **fields)
        assert answer.status_code == 201, (answer.status_code, answer.text)
        return Command(answer.json())

    def get(self, command: Command, **params: Any) -> Command:
        """The command as it is now."""
        answer = self.http.get(f"/v1/commands/{command.id}", params=params)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return Command(answer.json())

    def stop(self, command: Command, **body: Any) -> Command:
        """Ask for its stop; with no ``body`` none is sent."""
        answer = self.http.post(f"/v1/commands/{command.id}/stop", json=body or None)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return Command(answer.json())

    def ended(self, command: Command, within_s: float = 30.0) -> Command:
        """The command when it is final."""

        def final() -> Command | None:
            now = self.get(command, wait=5)
            return now if now.status in FINAL else None

        return eventually(final, within_s=within_s)

    def done(self, script: str, **fields: Any) -> Command:
        """Run a script to its end."""
        return self.ended(self.run(script, **fields))

    def started(self, command: Command) -> Command:
        """The command when its bash is there."""

        def has_bash() -> Command | None:
            now = self.get(command)
            assert now.status not in FINAL, now
            return now if now.status == "running" and now.pid is not None else None

        return eventually(has_bash)

    def output(self, command: Command, **params: Any) -> bytes:
        """The bytes it wrote."""
        answer = self.http.get(f"/v1/commands/{command.id}/output", params=params)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.content

    def says(self, command: Command, text: bytes) -> None:
        """Wait until its output holds ``text``."""
        eventually(lambda: text in self.output(command))

    def page(self, **params: Any) -> list[Command]:
        """One page of the list."""
        answer = self.http.get("/v1/commands", params=params)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return [Command(row) for row in answer.json()["items"]]

    def newest_id(self) -> int:
        """The id of the last command that was created; 0 when there is none."""
        return next((one.id for one in self.page(limit=1)), 0)
