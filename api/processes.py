"""The live tree of a command: what the kernel says is below its worker.

Nothing is shown by a pid alone. A worker is proven by pid, start time and the lock that it holds, and what is below it
by its parent; both are looked at once more after the reading, so that nobody is shown who got one of the ids meanwhile.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import shlex
import time
from typing import Any

from api.command import Command
from api.commands import Commands
from api.live import Live, Lives
from protocol import journal, linux
from protocol.places import Places

MAX_PROCESSES = 5000  # in one answer
COMMAND_LINE_BYTES = 1024

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Processes:
    """Reads ``/proc`` in a thread: thousands of processes must not hold up other requests."""

    def __init__(self, *, commands: Commands, lives: Lives, places: Places) -> None:
        self._commands = commands
        self._lives = lives
        self._places = places
        self._one_at_a_time = asyncio.Lock()

    async def of(self, command_id: int) -> dict[str, Any]:
        """The tree of one command, empty when it waits or has ended. Raises ``NotFound`` and ``Unavailable``."""
        command = await self._commands.get(command_id)
        trees = await self._read([(command, self._lives.get(command_id))])
        return trees[0]

    async def of_all(self) -> list[dict[str, Any]]:
        """The trees of all running commands, by id."""
        lives = sorted((one for one in self._lives if not one.over), key=lambda one: one.id)
        return await self._read([(one.command, one) for one in lives])

    async def _read(self, wanted: list[tuple[Command, Live | None]]) -> list[dict[str, Any]]:
        # Taken out of the lives here: the thread must not meet a story that is being told.
        workers = [
            (command, live.story.worker if live is not None and not live.over else None) for command, live in wanted
        ]
        async with self._one_at_a_time:
            return await asyncio.to_thread(_trees, workers, self._places)


def _trees(workers: list[tuple[Command, dict[str, Any] | None]], places: Places) -> list[dict[str, Any]]:
    """What is below each of these workers; one that is None may still be the parent of what its command left."""
    room = MAX_PROCESSES
    trees = []
    names: dict[int, str | None] = {}
    for command, worker in workers:
        tree = _tree(command, worker, places, room, names)
        room -= len(tree["processes"])
        trees.append(tree)
    return trees


def _tree(
    command: Command, worker: dict[str, Any] | None, places: Places, room: int, names: dict[int, str | None]
) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "command": command.id,
        "worker_pid": None,
        "group": None,
        "complete": True,
        "processes": [],
    }
    pid = worker["pid"] if worker is not None else _left_worker(command, places)
    if pid is None:
        return tree
    before = linux.process(pid)
    if before is None or (worker is not None and before.start_time != worker["start_time"]):
        return tree
    found = _below(before, room + 1)
    after = linux.process(pid)
    if after is None or after.start_time != before.start_time or not _still_has(command, worker, pid, places):
        return tree
    shown = [_shown(one, command.pid, names) for one in found[:room]]
    return tree | {
        "worker_pid": pid,
        "group": command.pid,
        "complete": len(found) <= room,
        "processes": [one for one in shown if one is not None],
    }


def _still_has(command: Command, worker: dict[str, Any] | None, pid: int, places: Places) -> bool:
    """True when the worker has been this command's all the time: it holds the lock that it lets go of once."""
    if worker is None:
        return _left_worker(command, places) == pid
    try:
        return journal.is_locked(places.journal(command.id))
    except FileNotFoundError:
        return False


def _left_worker(command: Command, places: Places) -> int | None:
    """The worker that stays as the parent of what a final command left; None when there is none (any more)."""
    if not command.swept_left:
        return None
    try:
        with open(places.left_file(command.id), "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or b"0") or None
    except FileNotFoundError:
        pass  # they are gone, and their worker with them
    return None


def _below(worker: linux.Process, at_most: int) -> list[linux.Process]:
    """Everything alive below the worker, parents before children."""
    found: list[linux.Process] = []
    known = {worker.pid}
    waiting = linux.children(worker.pid)[::-1]
    while waiting and len(found) < at_most:
        pid = waiting.pop()
        one = linux.process(pid)
        # Whoever has another parent is another process that got the id, or went to one whose turn is still to come.
        if pid in known or one is None or not one.alive or one.ppid not in known:
            continue
        known.add(pid)
        found.append(one)
        waiting += linux.children(pid)[::-1]
    return found


def _shown(one: linux.Process, group: int | None, names: dict[int, str | None]) -> dict[str, Any] | None:
    """The process as HTTP shows it; None when it is gone by now."""
    try:
        with open(f"/proc/{one.pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # of proc_pid_stat(5), from the third on
    except (FileNotFoundError, ProcessLookupError):
        return None
    if int(fields[19]) != one.start_time:
        return None
    uid = _uid(one.pid)
    return {
        "pid": one.pid,
        "ppid": one.ppid,
        "pgid": one.pgid,
        "sid": one.sid,
        "state": one.state,
        "uid": uid,
        "user": _name(uid, names),
        "escaped": one.pgid != group,
        "cpu_s": (int(fields[11]) + int(fields[12])) / _TICKS,
        "rss_bytes": int(fields[21]) * _PAGE_BYTES,
        "age_s": round(max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - one.start_time / _TICKS), 2),
        "command_line": _command_line(one),
    }


def _uid(pid: int) -> int | None:
    """The user it runs as; None when that is hidden from us, or it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Uid:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return None


def _name(uid: int | None, names: dict[int, str | None]) -> str | None:
    if uid is None:
        return None
    if uid not in names:
        try:
            names[uid] = pwd.getpwuid(uid).pw_name
        except KeyError:
            names[uid] = None
    return names[uid]


def _command_line(one: linux.Process) -> str | None:
    """The arguments as a shell would take them, cut where they are long; ``[name]`` of one that has none."""
    try:
        with open(f"/proc/{one.pid}/cmdline", "rb") as file:
            text = file.read(COMMAND_LINE_BYTES)
    except OSError:
        return None
    if not text.strip(b"\0"):
        return f"[{one.comm}]"
    return shlex.join(text.removesuffix(b"\0").decode(errors="replace").split("\0"))
