"""The life of one command: from its journal's spec to ``ended``, in a process of its own."""

import errno
import fcntl
import os
import resource
import select
import signal
import time
import traceback

from protocol import control, journal, linux
from protocol.config import boot_id
from protocol.fault import Fault
from protocol.places import Places
from worker import bash
from worker.record import DISK_AGAIN_S, DISK_TROUBLE, READ_BYTES, Record
from worker.watch import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_ERROR_CHARACTERS = 1000  # of an error in the record: the reserve must have room for it
LOCK_TRIES_S = 1.0  # somebody who only looks holds the lock for microseconds
EXIT_CRASHED = 70  # sysexits.h: EX_SOFTWARE
EXIT_NO_DISK = 74  # sysexits.h: EX_IOERR; nothing was begun, because the journal cannot be written now
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
    try:
        taken = _take(outset.places.journal(command_id))
        if taken is None:
            return EXIT_NOT_TAKEN
        fd, spec, writer = taken
        reports_fd = os.open(outset.places.reports, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        return EXIT_NO_DISK
    record = Record(writer, command_id, reports_fd, spec["output_limit_bytes"])
    me = linux.process(os.getpid())
    assert me is not None
    identity = {"pid": me.pid, "start_time": me.start_time, "boot_id": outset.boot_id, "monotonic_s": time.monotonic()}
    if not record.take(identity):
        return EXIT_NO_DISK
    try:
        told = _live(spec, record, fd, outset)
    except Exception:
        # Ours, so we end loudly: the supervisor deals with what is left and finds this as evidence.
        record.crashed(traceback.format_exc()[-MAX_ERROR_CHARACTERS:])
        return EXIT_CRASHED
    return 0 if told else EXIT_NO_DISK


def _take(path: str) -> "tuple[int, dict[str, Any], journal.Writer] | None":
    """The journal, locked, its spec and its writer, if nobody has had this command before; else None.

    So whatever was sent or forked twice runs once.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # ended, recorded and deleted: this order came late
    give_up_at = time.monotonic() + LOCK_TRIES_S
    while not journal.lock(fd):
        if _untouched(path) is None or time.monotonic() > give_up_at:
            os.close(fd)
            return None
        time.sleep(0.001)
    untouched = _untouched(path)
    if untouched is not None:
        return fd, untouched.facts(), journal.Writer(fd, untouched.end)
    os.close(fd)
    return None


def _untouched(path: str) -> "journal.Frame | None":
    """The spec of a journal that holds nothing else; None for any other."""
    try:
        with journal.Reader(path) as reader:
            frames = [frame for frame, _ in zip(reader.frames(), range(2), strict=False)]
    except FileNotFoundError:
        return None
    return frames[0] if [frame.kind for frame in frames] == [journal.SPEC] else None


def _live(spec: "dict[str, Any]", record: Record, journal_fd: int, outset: Outset) -> bool:
    """Run the script and tell how it ended. False: told to go while the disk did not take the end."""
    command_id = spec["id"]
    own_directory = outset.places.directory(command_id)
    outset.fault.die_at("before_started")
    control_path = outset.places.control(command_id)
    wake_fd, _ = linux.wake_on_signals(control.STOP_SIGNAL, control.HURRY_SIGNAL)
    control_fd = -1
    started = time.monotonic()
    try:
        control_fd = _open_control(control_path)
        child = bash.start(spec, outset.surroundings, own_directory)
    except bash.SpawnError as error:
        if not _end(record, _not_spawned(error), control_fd, wake_fd, told_to_go=False):
            return False
    else:
        outset.fault.die_at("before_started_frame")
        record.fact(
            journal.STARTED, {"pid": child.pid, "start_time": child.start_time, "monotonic_s": time.monotonic()}
        )
        outset.fault.die_at("after_started")
        watch = Watch(spec, child, record, control_fd=control_fd, wake_fd=wake_fd, started=started)
        result = watch.until_the_end()
        if watch.left:
            _hold_left_file(outset.places.left_file(command_id))
        outset.fault.die_at("before_ended")
        ending = _ending(watch, result, time.monotonic() - started)
        told_to_go = watch.stop is not None and watch.stop.reason == "shutdown"
        if not _end(record, ending, control_fd, wake_fd, told_to_go=told_to_go):
            return False
        if watch.left:
            record.report()
            record.release()
            _forget(control_path)
            # The command is final; nobody may take us for its running worker any more.
            os.close(journal_fd)
            _stay_for_the_left(command_id, wake_fd, list(watch.streams.kinds), outset)
    record.report()
    outset.fault.die_at("after_ended")
    record.release()
    _forget(control_path)
    bash.remove_directory(own_directory)
    _forget(outset.places.left_file(command_id))
    return True


def _open_control(path: str) -> int:
    """Our control pipe, open for both directions so that it never comes to an end. Raises ``bash.SpawnError``."""
    try:
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            pass  # of a worker that went before it took the command
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # A command that could not be stopped is not started.
        raise bash.SpawnError(f"{path}: {error.strerror}") from error


def _end(record: Record, ending: "dict[str, Any]", control_fd: int, wake_fd: int, *, told_to_go: bool) -> bool:
    """Record the end. As long as the disk takes nothing, readers see the command running, and we wait.

    The true end is known to nobody else; so only a shutdown makes us give up, which is to return False.
    """
    at_ns = record.now_ns()
    poll = select.poll()
    for fd in (control_fd, wake_fd):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    while not record.end(at_ns, ending):
        if told_to_go:
            return False
        for fd, _ in poll.poll(DISK_AGAIN_S * 1000):
            if fd == control_fd:
                stops = control.parse_control(os.read(fd, 65536))
                told_to_go = any(stop["reason"] == "shutdown" for stop in stops)
            else:
                told_to_go = bool({signal.SIGTERM, signal.SIGINT, signal.SIGHUP} & set(os.read(fd, 4096)))
    return True


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
        "evidence": {"error": str(error)[:MAX_ERROR_CHARACTERS]},
        "duration_s": None,
    }


def _hold_left_file(path: str) -> None:
    """The proof, for as long as we live, that what we are parent of was left on purpose."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, f"{os.getpid()}\n".encode())
    except OSError as error:
        if error.errno not in DISK_TROUBLE | {errno.ENOENT}:
            raise
        # Then it cannot be proven, which matters only to a supervisor that comes after the one we have.


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
    except OSError as error:
        if error.errno not in DISK_TROUBLE | {errno.ENOENT}:
            raise
        # It was never made; or the disk has become read-only, and whoever finds the name later finds nobody behind it.
