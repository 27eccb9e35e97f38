"""What supervisor and API tell a worker over the command's control pipe, and the worker the supervisor in reports.

Both are named pipes in the state directory, so both ways outlive either side. A control message is one line
of JSON, a report a fixed record; each is one write of at most 4,096 bytes, which a pipe never tears (pipe(7)).
"""

import errno
import json
import os
import signal as signals
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A worker makes its control pipe when its command lasts; this tells it to make it now, and nothing to anybody else.
LISTEN_SIGNAL = signals.SIGURG

# When the control pipe has lost its name, with the state directory: how a worker is told all the same.
STOP_SIGNAL = signals.SIGUSR1  # stop with your command's own grace, for a client
HURRY_SIGNAL = signals.SIGUSR2  # the grace is over

_REPORT = struct.Struct("<q")  # the id of a command whose journal has something new


def send_stop(
    path: str, *, signal: int, grace_s: float, reason: str, requested_at_ns: "int | None", by: "str | None" = None
) -> bool:
    """Tell the worker behind the control pipe to stop its command. False: nobody reads there (yet, or any more)."""
    stop = {"do": "stop", "signal": signal, "grace_s": grace_s, "reason": reason, "requested_at_ns": requested_at_ns}
    return _send(path, {**stop, "by": by})


def send_signal(path: str, *, signal: int, requested_at_ns: int) -> bool:
    """Tell the worker to send its command's group a signal, and do no more. False as for ``send_stop``."""
    return _send(path, {"do": "signal", "signal": signal, "requested_at_ns": requested_at_ns})


def send_close_stdin(path: str) -> bool:
    """Tell the worker to let bash's stdin come to its end. False as for ``send_stop``."""
    return _send(path, {"do": "close_stdin"})


def _send(path: str, message: "dict[str, Any]") -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            return False
        raise
    try:
        os.write(fd, json.dumps(message).encode() + b"\n")
    except (BlockingIOError, BrokenPipeError):
        return False  # full: the worker is not reading; or it went away this moment
    finally:
        os.close(fd)
    return True


def parse_control(text: bytes) -> "list[dict[str, Any]]":
    """The messages in what was read from a control pipe: whole lines, since each was one write."""
    return [json.loads(line) for line in text.splitlines() if line]


def report_changed(fd: int, command_id: int, *, ended: bool) -> bool:
    """Tell the supervisor that a journal has something new, or the end. False: the pipe is full, the report dropped.

    Nothing is lost by that: the journal holds the truth, and the worker's end is seen without a report.
    """
    try:
        os.write(fd, _REPORT.pack(-command_id if ended else command_id))
    except (BlockingIOError, BrokenPipeError):
        return False
    return True


def parse_reports(buffer: bytes) -> "dict[int, bool]":
    """Of each id in what was read from the reports pipe whether its end was told, in order of first appearance."""
    found: dict[int, bool] = {}
    for (signed,) in _REPORT.iter_unpack(buffer):
        found[abs(signed)] = found.get(abs(signed), False) or signed < 0
    return found
