"""The life of one command: from its journal's spec to ``ended``."""

import errno
import fcntl
import json
import os
import resource
import select
import signal
import time

from protocol import journal
from worker import bash, limits
from worker.control_pipe import ControlPipe
from worker.directory import OwnDirectory
from worker.feed import Feed
from worker.outset import Worker, oom_kills
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


def run(command_id: int, worker: Worker) -> int:
    """Take the command, run it to its end and record that; returns the worker's exit status, should it end now.

    0: the journal says how it ended.
    """
    worker.outset.title.set(f"bashd: worker {command_id}")
    try:
        taken = _take(worker.places.journal(command_id))
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        return EXIT_NO_DISK
    if taken is None:
        return EXIT_NOT_TAKEN
    fd, spec, writer = taken
    record = Record(
        writer,
        command_id,
        worker.reports_fd,
        limit_bytes=spec["output_limit_bytes"],
        fail_at_limit=spec.get("on_output_limit") == "fail",
        tail_paths=worker.places.tail(command_id),
    )
    if not record.take(worker.identity()):
        return EXIT_NO_DISK
    try:
        told = _live(spec, record, fd, worker)
    except Exception:
        # Ours, so we end loudly: the supervisor deals with what is left and finds this as evidence.
        import traceback  # here, because it would make every fork dearer: it is a tenth of the forker's memory

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
        if journal.only_spec(fd) is None or time.monotonic() > give_up_at:
            os.close(fd)
            return None
        time.sleep(0.001)
    untouched = journal.only_spec(fd)
    if untouched is not None and journal.is_at(path, fd):
        return fd, untouched.facts(), journal.Writer(fd, untouched.end)
    os.close(fd)
    return None


def _live(spec: "dict[str, Any]", record: Record, journal_fd: int, worker: Worker) -> bool:
    """Run the script and tell how it ended. False: told to go while the disk did not take the end."""
    command_id = spec["id"]
    places, fault = worker.places, worker.outset.fault
    own_directory = OwnDirectory(places.directory(command_id), places.spare_directory(worker.berth))
    control_pipe = ControlPipe(places.control(command_id))
    # Journals of an earlier version do not say whether stdin is to be fed.
    feed = Feed(places.stdin(command_id), spec["stdin"]) if spec.get("stdin_open") else None
    fault.die_at("before_started")
    started = time.monotonic()
    oom_counts = worker.outset.oom_counts()
    masks = None
    group = worker.outset.groups.own(command_id, spec.get("limits") or {})
    try:
        secrets = _secrets(spec, worker)
        if secrets:
            from worker import mask  # most commands have none, and what a worker imports makes every fork dearer

            patterns = mask.patterns(list(secrets.values()))
            masks = mask.Mask(patterns), mask.Mask(patterns)
        child = bash.start(spec, secrets, worker.outset.surroundings, own_directory, feed, group)
    except bash.SpawnError as error:
        if feed is not None:
            feed.close()
        if group is not None:
            group.remove()
        if not _end(record, _not_spawned(error), control_pipe, worker, told_to_go=False):
            return False
    else:
        fault.die_at("before_started_frame")
        record.fact(
            journal.STARTED, {"pid": child.pid, "start_time": child.start_time, "monotonic_s": time.monotonic()}
        )
        fault.die_at("after_started")
        watch = Watch(
            spec,
            child,
            record,
            control_pipe=control_pipe,
            feed=feed,
            masks=masks,
            group=group,
            wake_fd=worker.wake_fd,
            started=started,
            on_lasting=worker.outset.surroundings.precedence.as_worker,
        )
        status = watch.until_the_end()
        if feed is not None:
            feed.close()
        if watch.left:
            _hold_left_file(places.left_file(command_id))
        fault.die_at("before_ended")
        # Asked only of who died of a signal: most end by themselves.
        oom_killed = os.WIFSIGNALED(status) and oom_kills(worker.outset.oom_counts()) > oom_kills(oom_counts)
        if group is not None and "memory_bytes" in group.limits:
            oom_killed = group.oom_killed  # of this command alone
        ending = _ending(watch, status, time.monotonic() - started, oom_killed=oom_killed)
        if group is not None:
            ending["usage"].update(group.usage())
            if not watch.left:
                group.remove()
        told_to_go = watch.stop is not None and watch.stop.reason == "shutdown"
        if not _end(record, ending, control_pipe, worker, told_to_go=told_to_go):
            return False
        if watch.left:
            record.report()
            record.release()
            _forget(places.control(command_id))
            # The command is final; nobody may take us for its running worker any more.
            os.close(journal_fd)
            _stay_for_the_left(command_id, list(watch.streams.kinds), worker)
            if group is not None:
                group.remove()
            own_directory.remove()
            _forget(places.left_file(command_id))
            return True
        worker.unmoved = watch.uneventful
    record.release()
    # It says all there is to say. From here on it may become another command's.
    os.close(journal_fd)
    record.report()
    fault.die_at("after_ended")
    if control_pipe.fd >= 0:
        _forget(places.control(command_id))
        control_pipe.close()
    own_directory.remove()
    return True


def _secrets(spec: "dict[str, Any]", worker: Worker) -> "dict[str, str]":
    """Variables that must not be recorded; raises ``SpawnError`` when our key does not open them."""
    sealed = spec.get("secrets")  # journals of an earlier version know of none
    if sealed is None:
        return {}
    import base64

    from protocol.sealed import NotOurs, unseal

    try:
        opened = json.loads(unseal(worker.outset.secrets_key, base64.b64decode(sealed)))
    except NotOurs as error:
        raise bash.SpawnError(str(error)) from error
    return {str(name): str(one) for name, one in opened.items()}


def _end(
    record: Record, ending: "dict[str, Any]", control_pipe: ControlPipe, worker: Worker, *, told_to_go: bool
) -> bool:
    """Record the end. As long as the disk takes nothing, readers see the command running, and we wait.

    The true end is known to nobody else; so only a shutdown makes us give up, which is to return False.
    """
    at_ns = record.now_ns()
    if record.end(at_ns, ending):
        return True
    poll = select.poll()
    for fd in (control_pipe.fd, worker.wake_fd):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    while not told_to_go:
        for fd, _ in poll.poll(DISK_AGAIN_S * 1000):
            if fd == control_pipe.fd:
                told_to_go = any(one.get("reason") == "shutdown" for one in control_pipe.messages())
            else:
                told_to_go = bool({signal.SIGTERM, signal.SIGINT, signal.SIGHUP} & worker.signals())
        if record.end(at_ns, ending):
            return True
    return False


def _ending(watch: Watch, wait_status: int, duration_s: float, *, oom_killed: bool) -> "dict[str, Any]":
    code = os.waitstatus_to_exitcode(wait_status)
    usage = watch.tree.usage
    own_max_rss_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, reason = _verdict(watch, code, oom_killed=oom_killed)
    return {
        "status": status,
        "reason": reason,
        "exit_code": code if code >= 0 else None,
        "signal": None if code >= 0 else -code,
        "swept": {
            "group": watch.tree.counted_in_group,
            "escaped": watch.tree.counted_escaped,
            "left": watch.left,
        },
        "masked": watch.streams.masked,
        "usage": {
            "cpu_s": round(usage.cpu_s, 6),
            # A child starts with the size of the process that spawned it; only what exceeds ours is its own.
            "max_rss_bytes": usage.max_rss_kib * 1024 if usage.max_rss_kib > own_max_rss_kib else None,
            "peak_memory_bytes": None,
        },
        "evidence": None,
        "duration_s": round(duration_s, 6),
    }


def _verdict(watch: Watch, code: int, *, oom_killed: bool) -> "tuple[str, str]":
    """Status and reason: ``stopped`` only if a signal of ours was sent while bash was alive."""
    stop = watch.stop
    if stop is not None and stop.reason == "timeout" and (stop.while_bash_lived or watch.waits_for_leftovers):
        return "failed", "timeout"
    if watch.exceeded and (stop is None or stop.reason == "output_limit"):
        return "failed", "output_limit"
    if stop is not None and stop.while_bash_lived:
        return "stopped", stop.reason
    if code >= 0:
        return ("succeeded" if code == 0 else "failed"), "exit"
    return "failed", limits.exceeded(watch.limits, code, watch.leader_cpu_s, oom_killed=oom_killed) or "signal"


def _not_spawned(error: bash.SpawnError) -> "dict[str, Any]":
    return {
        "status": "failed",
        "reason": "spawn",
        "exit_code": None,
        "signal": None,
        "swept": {"group": 0, "escaped": 0, "left": 0},
        "masked": 0,
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


def _stay_for_the_left(command_id: int, output_fds: "list[int]", worker: Worker) -> None:
    """Stay as the parent of what a final command left behind, until it is gone.

    What it still prints is read and thrown away, so that it neither blocks nor dies of SIGPIPE.
    """
    worker.outset.title.set(f"bashd: left {command_id}")
    poll = select.poll()
    for fd in (worker.wake_fd, *output_fds):
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
