"""The life of one command: from its journal's spec to ``ended``, in a process of its own."""

import fcntl
import os
import resource
import select
import time
import traceback

from protocol import journal, linux
from protocol.config import boot_id
from protocol.fault import Fault
from protocol.places import Places
from worker import bash
from worker.record import READ_BYTES, Record
from worker.watch import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOCK_TRIES_S = 1.0  # somebody who only looks holds the lock for microseconds
EXIT_CRASHED = 70  # sysexits.h: EX_SOFTWARE
EXIT_NOT_TAKEN = 75  # sysexits.h: EX_TEMPFAIL; somebody else has or had the command, its journal says who


class Outset:
    """What a worker gets from the process that forked it; all of it made before the fork."""

    def __init__(self, *, places: Places, surroundings: bash.Surroundings, title: linux.Title, fault: Fault):
        self.places = places
        self.surroundings = surroundings
        self.title = title
        self.boot_id = boot_id()
        self.fault = fault


def run(command_id: int, outset: Outset) -> int:
    """Take the command, run it to its end and record that; returns the worker's exit status.

    Called in the forked child. 0: the journal says how it ended.
    """
    os.setsid()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    outset.title.set(f"bashd: worker {command_id}")
    fd = _take(outset.places.journal(command_id))
    if fd is None:
        return EXIT_NOT_TAKEN
    with journal.Reader(outset.places.journal(command_id)) as reader:
        spec = next(reader.frames()).facts()
        writer = journal.Writer(fd, reader.position)
    reports_fd = os.open(outset.places.reports, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    record = Record(writer, command_id, reports_fd, spec["output_limit_bytes"])
    try:
        _live(spec, record, fd, outset)
    except Exception:
        # Ours, so we end loudly: the supervisor deals with what is left and finds this as evidence.
        record.fact(journal.CRASHED, {"traceback": traceback.format_exc()})
        return EXIT_CRASHED
    return 0


def _take(path: str) -> "int | None":
    """The journal, open and locked, if nobody has had this command before; else None.

    So whatever was sent or forked twice runs once.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # ended, recorded and deleted: this order came late
    give_up_at = time.monotonic() + LOCK_TRIES_S
    while not journal.lock(fd):
        if not _is_untouched(path) or time.monotonic() > give_up_at:
            os.close(fd)
            return None
        time.sleep(0.001)
    if _is_untouched(path):
        return fd
    os.close(fd)
    return None


def _is_untouched(path: str) -> bool:
    """True when the journal holds its spec and nothing else."""
    try:
        with journal.Reader(path) as reader:
            kinds = [frame.kind for frame, _ in zip(reader.frames(), range(2), strict=False)]
    except FileNotFoundError:
        return False
    return kinds == [journal.SPEC]


def _live(spec: "dict[str, Any]", record: Record, journal_fd: int, outset: Outset) -> None:
    command_id = spec["id"]
    own_directory = outset.places.directory(command_id)
    me = linux.process(os.getpid())
    assert me is not None
    taken = {"pid": me.pid, "start_time": me.start_time, "boot_id": outset.boot_id}
    record.fact(journal.TAKEN, taken)
    outset.fault.die_at("before_started")
    control_path = outset.places.control(command_id)
    control_fd = _open_control(control_path)
    wake_fd, _ = linux.wake_on_signals()
    started = time.monotonic()
    try:
        child = bash.start(spec, outset.surroundings, own_directory)
    except bash.SpawnError as error:
        record.fact(journal.ENDED, _not_spawned(error))
    else:
        outset.fault.die_at("before_started_frame")
        record.fact(journal.STARTED, {"pid": child.pid, "start_time": child.start_time})
        outset.fault.die_at("after_started")
        watch = Watch(spec, child, record, control_fd=control_fd, wake_fd=wake_fd, started=started)
        result = watch.until_the_end()
        left_fd = _hold_left_file(outset.places.left_file(command_id)) if watch.left else None
        outset.fault.die_at("before_ended")
        record.fact(journal.ENDED, _ending(watch, result, time.monotonic() - started))
        if left_fd is not None:
            record.report()
            os.unlink(control_path)
            # The command is final; nobody may take us for its running worker any more.
            os.close(journal_fd)
            _stay_for_the_left(command_id, wake_fd, list(watch.streams.kinds), outset)
    record.report()
    outset.fault.die_at("after_ended")
    _forget(control_path)
    bash.remove_directory(own_directory)
    _forget(outset.places.left_file(command_id))


def _open_control(path: str) -> int:
    """Our control pipe, open for both directions so that it never comes to an end."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        pass  # of a worker that went before it took the command
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _ending(watch: Watch, result: os.waitid_result, duration_s: float) -> "dict[str, Any]":
    exited = result.si_code == os.CLD_EXITED
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    own_max_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, reason = _verdict(watch, exited, result.si_status)
    return {
        "status": status,
        "reason": reason,
        "exit_code": result.si_status if exited else None,
        "signal": None if exited else result.si_status,
        "swept": {
            "group": watch.tree.counted_in_group,
            "escaped": watch.tree.counted_escaped,
            "left": watch.left,
        },
        "usage": {
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 6),
            # A child starts with the size of the process that spawned it; only what exceeds ours is its own.
            "max_rss_bytes": usage.ru_maxrss * 1024 if usage.ru_maxrss > own_max_rss else None,
        },
        "evidence": None,
        "duration_s": round(duration_s, 6),
    }


def _verdict(watch: Watch, exited: bool, code: int) -> "tuple[str, str]":
    """Status and reason: ``stopped`` only if a signal of ours was sent while bash was alive."""
    stop = watch.stop
    if stop is not None and stop.reason == "timeout" and (stop.while_bash_lived or watch.waits_for_leftovers):
        return "failed", "timeout"
    if stop is not None and stop.while_bash_lived:
        return "stopped", stop.reason
    if exited:
        return ("succeeded" if code == 0 else "failed"), "exit"
    return "failed", "signal"


def _not_spawned(error: bash.SpawnError) -> "dict[str, Any]":
    return {
        "status": "failed",
        "reason": "spawn",
        "exit_code": None,
        "signal": None,
        "swept": {"group": 0, "escaped": 0, "left": 0},
        "usage": None,
        "evidence": {"error": str(error)},
        "duration_s": None,
    }


def _hold_left_file(path: str) -> int:
    """The proof, for as long as we live, that what we are parent of was left on purpose."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _stay_for_the_left(command_id: int, wake_fd: int, output_fds: "list[int]", outset: Outset) -> None:
    """Stay as the parent of what a final command left behind, until it is gone.

    What it still prints is read and thrown away, so that it neither blocks nor dies of SIGPIPE.
    """
    outset.title.set(f"bashd: left {command_id}")
    poll = select.poll()
    for fd in (wake_fd, *output_fds):
        poll.register(fd, select.POLLIN)
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for fd, _ in poll.poll():
            if not os.read(fd, READ_BYTES):
                poll.unregister(fd)
                os.close(fd)


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # it was never made
