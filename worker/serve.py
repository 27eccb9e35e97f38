"""The worker process: it takes one command after the other until it has served its number, or there is any doubt.

    spare ──▶ command ──▶ ended, and as clean as before? ──▶ spare …
                                     └ no, or enough of them ──▶ exit

Nothing of one command may be seen by the next. So a worker goes on only after a command that ended by itself and left
nobody, and only if the worker proves to be as it was (``condition.py``).
"""

import os
import select
import signal
import struct

from protocol import linux
from worker import run
from worker.condition import Condition
from worker.outset import Outset, Worker
from worker.record import DISK_TROUBLE

NEXT = struct.Struct("<q")  # forker → worker: the id of the command to be taken
UNTITLED_MS = 20  # a worker that gets its next command sooner keeps the title of the last until then
DONE = struct.Struct("<i")  # worker → forker: the pid of a worker that has dealt with its command and waits for another


def serve(outset: Outset, berth: int, before: int, first: "int | None", next_fd: int, done_fd: int) -> int:
    """Be a worker; returns its exit status. Called in the forked child.

    ``berth`` and ``before`` are what a ``Worker`` is told. ``first`` is the command it was forked for, None when it was
    forked ahead. Others come from ``next_fd``, whose end is ours.
    """
    os.setsid()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    try:
        worker = Worker(outset, berth, before)
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        return run.EXIT_NO_DISK
    condition = None
    if outset.commands_per_worker > 1:
        outset.surroundings.precedence.as_scripts()  # from the first command to the last: see Condition
        condition = Condition()
    served = 0
    command_id = first
    while True:
        if command_id is None:
            command_id = _wait_for_next(worker, next_fd, after_another=served > 0)
            if command_id is None:
                # If one lies in our pipe all the same, it has to be another's.
                return run.EXIT_NOT_TAKEN
        status = run.run(command_id, worker)
        served += 1
        if status != 0 or served >= outset.commands_per_worker or condition is None:
            return status
        outset.surroundings.precedence.as_scripts()
        if not worker.unmoved or worker.signals() - {signal.SIGCHLD} or not condition.still_holds():
            return status
        os.write(done_fd, DONE.pack(os.getpid()))
        command_id = None


def _wait_for_next(worker: Worker, next_fd: int, *, after_another: bool) -> "int | None":
    """The id of the command that is ours; None when we are to go."""
    poll = select.poll()
    poll.register(next_fd, select.POLLIN)
    poll.register(worker.wake_fd, select.POLLIN)
    timeout_ms: int | None = UNTITLED_MS if after_another else 0
    while True:
        ready = dict(poll.poll(timeout_ms))
        if not ready:
            worker.outset.title.set("bashd: spare")
            timeout_ms = None
        # The signals first: a command is not to be ended by one that was sent before it came.
        if worker.wake_fd in ready and worker.signals() & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
            return None
        if next_fd in ready:
            order = os.read(next_fd, NEXT.size)
            return NEXT.unpack(order)[0] if order else None
