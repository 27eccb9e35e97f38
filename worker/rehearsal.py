"""A worker's work done once by the process that will fork all workers, so that they find it prepared.

Python and the linker do much at the first time only: bytecode is adapted, attributes and symbols are looked up. What is
done before the fork lies in memory that all workers share; done after it, every worker would do it again, and copy the
pages that it changes. A worker that was rehearsed touches a fifth less memory of its own (docs/decisions/0011).
"""

import os
import signal
import time

from protocol import journal, linux
from protocol.places import Places
from worker import directory, run
from worker.outset import Outset, Worker

ROUNDS = 12  # Python adapts bytecode after it has run eight times
WITHIN_S = 2.0


def rehearse(outset: Outset) -> None:
    """Run a command that does nothing, a few times, beside everything real. Fails silently: it only saves time."""
    places = Places(os.path.join(outset.places.spare, "rehearsal"))
    directory.remove(places.state_dir)  # of a forker that died over it
    try:
        _run(outset.elsewhere(places))
    except Exception:
        pass
    finally:
        os.chdir("/")
        directory.remove(places.state_dir)


def _run(outset: Outset) -> None:
    places = outset.places
    for path in (places.state_dir, places.journals, places.controls, places.left, places.work, places.spare):
        os.mkdir(path)
    os.mkfifo(places.reports)
    forkers_fd = signal.set_wakeup_fd(-1)
    worker = Worker(outset, 0, linux.ticks())
    give_up_at = time.monotonic() + WITHIN_S
    try:
        for command_id in range(1, ROUNDS + 1):
            journal.create(places.journal(command_id), time.time_ns(), _spec(command_id))
            if run.run(command_id, worker) != 0 or time.monotonic() > give_up_at:
                return
    finally:
        outset.surroundings.precedence.as_worker()
        signal.set_wakeup_fd(forkers_fd, warn_on_full_buffer=False)
        worker.close()


def _spec(command_id: int) -> "dict[str, object]":
    return {
        "id": command_id,
        "script": "echo rehearsed",
        "args": [],
        "env": {},
        "cwd": None,
        "stdin": None,
        "timeout_s": WITHIN_S,
        "grace_s": 0,
        "leftovers": "kill",
        "merge_stderr": False,
        "run_as": None,
        "output_limit_bytes": 4096,
    }
