"""Whatever a script does to get away: stop, timeout and plain end leave nothing behind.

The ground truth is an argument that is the test's alone, which all that a trick starts carries.
"""

from __future__ import annotations

import os
import pwd
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from tests.processes import Service, eventually, marked, title, zombies

PYTHON = f"'{sys.executable}' -I -S -c"  # not just any python3 of the PATH, which may be a script that looks for one

DOUBLE_FORK = """
import os, sys, time
if os.fork():
    os.wait(); sys.exit()
os.setsid()
if os.fork():
    os._exit(0)
os.execvp("sleep", ["sleep", sys.argv[1]])
"""

NESTED_SUBREAPER = """
import ctypes, os, signal, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        os.execvp("sleep", ["sleep", sys.argv[1]])
    os._exit(0)
time.sleep(float(sys.argv[1]))
"""

# 32 processes that fork, get away and leave the rest to the child; bounded, should nobody end them.
HOPPER = """
import os, sys, time
end = time.monotonic() + 30
for _ in range(32):
    if os.fork() == 0:
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
            os.setsid()
        os._exit(0)
os.execvp("sleep", ["sleep", sys.argv[1]])
"""


@dataclass(frozen=True)
class Trick:
    """A way to keep something running. ``MARK`` stands for the mark, ``PYTHON "$PROGRAM"`` runs ``program``."""

    name: str
    script: str
    alive: int  # how many sleep (or bash) carry the mark when it has been done
    group: int | None  # of these in the group; None: not to be told
    escaped: int | None
    program: str = ""


TRICKS = [
    Trick("plain", "sleep MARK & sleep MARK &", 2, group=2, escaped=0),
    Trick("nohup", "nohup sleep MARK > /dev/null 2>&1 &", 1, group=1, escaped=0),
    Trick("disown", "sleep MARK & disown -a", 1, group=1, escaped=0),
    Trick("coproc", "coproc sleep MARK", 1, group=1, escaped=0),
    Trick("setsid", "setsid sleep MARK &", 1, group=0, escaped=1),
    Trick("orphaned setsid", "(setsid sleep MARK &)", 1, group=0, escaped=1),
    Trick("double fork", 'PYTHON "$PROGRAM" MARK', 1, group=0, escaped=1, program=DOUBLE_FORK),
    Trick("jobs of their own", "set -m; sleep MARK & sleep MARK & set +m", 2, group=0, escaped=2),
    Trick("empty environment", "env -i setsid sleep MARK &", 1, group=0, escaped=1),
    Trick("deaf", "(trap '' TERM HUP INT; exec sleep MARK) &", 1, group=1, escaped=0),
    Trick("paused elsewhere", "setsid bash -c 'kill -STOP $$; :' MARK &", 1, group=0, escaped=1),
    Trick("nested subreaper", 'PYTHON "$PROGRAM" MARK &', 1, group=1, escaped=1, program=NESTED_SUBREAPER),
    Trick("hopper", 'PYTHON "$PROGRAM" MARK &', 1, group=None, escaped=None, program=HOPPER),
]
tricks = pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.name)


def _script(trick: Trick, mark: str) -> str:
    """Does the trick, then waits for the file $1."""
    done = trick.script.replace("MARK", mark).replace("PYTHON", PYTHON)
    return f'{done}\nwhile [ ! -e "$1" ]; do sleep 0.05; done; exit 3'


def _is_done(trick: Trick, mark: str) -> bool:
    """All are where they wanted to go: setsid, nohup, env and python carry the mark before they have done it."""
    return len([pid for pid in marked(mark) if title(pid) in ("sleep", "bash")]) >= trick.alive


@tricks
def test_a_stop_leaves_nothing(service: Service, mark: str, tmp_path: Path, trick: Trick) -> None:
    """Stopped within the grace, nobody survives, and who had left the group is counted."""
    command = service.run(_script(trick, mark), args=[str(tmp_path / "end")], env={"PROGRAM": trick.program}, grace_s=1)
    eventually(lambda: _is_done(trick, mark))
    asked = time.monotonic()

    service.stop(command)

    ended = service.ended(command)
    assert marked(mark) == []
    assert time.monotonic() - asked < 5
    assert (ended.status, ended.reason) == ("stopped", "client")
    if trick.escaped is None:
        assert ended.swept["escaped"] > 0
    else:
        assert ended.swept["escaped"] == trick.escaped
        assert ended.swept["group"] in (trick.group, (trick.group or 0) + 1)  # the sleep of the waiting loop


@tricks
def test_the_end_of_bash_leaves_nothing(service: Service, mark: str, tmp_path: Path, trick: Trick) -> None:
    """The command is final when its script is: nobody survives, all are counted, the code is kept."""
    end = tmp_path / "end"
    command = service.run(_script(trick, mark), args=[str(end)], env={"PROGRAM": trick.program})
    eventually(lambda: _is_done(trick, mark))

    end.touch()

    ended = service.ended(command)
    assert marked(mark) == []
    assert (ended.status, ended.reason, ended.exit_code) == ("failed", "exit", 3)
    if trick.escaped is not None:
        assert ended.swept == {"group": trick.group, "escaped": trick.escaped, "left": 0}


@tricks
def test_a_timeout_leaves_nothing(service: Service, mark: str, tmp_path: Path, trick: Trick) -> None:
    """When the time is over nobody survives."""
    command = service.run(
        _script(trick, mark), args=[str(tmp_path / "end")], env={"PROGRAM": trick.program}, timeout_s=1, grace_s=0.2
    )
    eventually(lambda: _is_done(trick, mark) or service.get(command).ended_at)

    ended = service.ended(command)
    assert marked(mark) == []
    assert (ended.status, ended.reason) == ("failed", "timeout")


def test_a_thousand_sessions_are_ended_at_once(service: Service, mark: str) -> None:
    """A thousand processes, each in a session of its own, are dead within a second or two."""
    program = (
        "import os, signal, sys\n"
        "for _ in range(1000):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid(); signal.pause()\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    command = service.run(f'exec {PYTHON} "$PROGRAM" {mark}', env={"PROGRAM": program})
    service.says(command, b"ready")
    eventually(lambda: len(marked(mark)) == 1001)

    asked = datetime.fromisoformat(service.stop(command).stop_requested_at)

    ended = service.ended(command)
    assert marked(mark) == []
    assert ended.swept == {"group": 0, "escaped": 1000, "left": 0}
    assert (datetime.fromisoformat(ended.ended_at) - asked).total_seconds() < 2.5


def test_a_thousand_processes_are_counted_as_what_they_were(service: Service, mark: str) -> None:
    """900 in the group, 100 escapees, half of them twice orphaned: none is left, and the record has the numbers."""
    program = (
        "import os, signal, sys\n"
        "def stay():\n"
        "    os.write(told, b'.'); signal.pause()\n"
        "hear, told = os.pipe()\n"
        "for _ in range(899):\n"
        "    if os.fork() == 0:\n"
        "        stay()\n"
        "for _ in range(50):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid(); stay()\n"
        "for _ in range(50):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork():\n"
        "            os._exit(0)\n"
        "        stay()\n"
        "    os.wait()\n"
        "for _ in range(999):\n"
        "    os.read(hear, 1)\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    command = service.run(f'{PYTHON} "$PROGRAM" {mark}; true', env={"PROGRAM": program}, timeout_s=None)
    service.says(command, b"ready")
    assert len(marked(mark)) == 1000

    service.stop(command)

    ended = service.ended(command)
    assert marked(mark) == []
    assert ended.status == "stopped"
    assert ended.swept == {"group": 900, "escaped": 100, "left": 0}


@pytest.mark.skipif(os.getuid() != 0, reason="the bomb needs a user of its own, which only root can give it")
@pytest.mark.parametrize("launcher", ["", "setsid"], ids=["in its group", "in sessions"])
def test_a_fork_bomb_is_ended(service: Service, mark: str, launcher: str) -> None:
    """A bomb against its limit of processes is dead in a moment, and meanwhile others are served."""
    user = next(one for one in ("games", "daemon", "nobody") if one in {entry.pw_name for entry in pwd.getpwall()})
    bomb = f'{launcher} bash -c "$BOMB" {mark} & {launcher} bash -c "$BOMB" {mark} & wait'
    command = service.run(f"ulimit -u 150; {bomb}", env={"BOMB": bomb}, run_as=user)
    eventually(lambda: len(marked(mark)) > 100)

    assert service.done("echo alive").status == "succeeded"
    asked = datetime.fromisoformat(service.stop(command, grace_s=0).stop_requested_at)

    ended = service.ended(command)
    assert marked(mark) == []
    assert ended.status == "stopped"
    assert (datetime.fromisoformat(ended.ended_at) - asked).total_seconds() < 5


def test_zombies_do_not_pile_up(service: Service, mark: str) -> None:
    """Orphans that end while the script runs are collected at once."""
    command = service.run(f"for i in {{1..1000}}; do (setsid true &) ; done; echo ready; sleep {mark}", timeout_s=None)
    service.says(command, b"ready")
    worker = service.get(command).worker_pid

    eventually(lambda: zombies(worker) == [], within_s=5)
    service.stop(command)
    assert service.ended(command).status == "stopped"
