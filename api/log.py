"""The log of the API: lines of its own, with facts beside them; those of its libraries come in the same form."""

from __future__ import annotations

import logging
from typing import Any

from api.command import Command
from protocol.line import line, traceback_of, write

_LEVELS = {logging.CRITICAL: "error", logging.DEBUG: "info"}  # what Bashd does not tell apart


class Log:
    """What the parts of the API write with. ``command`` is the one that a line is about, or its id.

    Not through ``logging``, which costs every command more than its line does.
    """

    log_format = "text"  # of all; see to_stderr

    def info(self, message: str, *, command: Command | int | None = None, **facts: object) -> None:
        """An outcome, as expected."""
        write(line(Log.log_format, "api", "info", message, _about(command) | facts))

    def error(self, message: str, *, command: Command | int | None = None, **facts: object) -> None:
        """A surprise."""
        write(line(Log.log_format, "api", "error", message, _about(command) | facts))

    def failed(self, message: str, error: BaseException, **facts: object) -> None:
        """Something of ours failed, with where it came from."""
        told = {"error": repr(error), **facts, "traceback": traceback_of(error)}
        write(line(Log.log_format, "api", "error", message, told))


def _about(command: Command | int | None) -> dict[str, object]:
    if isinstance(command, Command):
        trace = {} if command.traceparent is None else {"traceparent": command.traceparent}
        return {"command": command.id, **trace}
    return {} if command is None else {"command": command}


def to_stderr(log_format: str) -> None:
    """From here on everything that is logged in this process is a line on stderr."""
    Log.log_format = log_format
    lines = _Stderr()
    lines.setFormatter(_Lines(log_format))
    logging.basicConfig(level=logging.WARNING, handlers=[lines], force=True)
    logging.captureWarnings(True)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    logging.getLogger("sanic.root").setLevel(logging.ERROR)


class _Stderr(logging.Handler):
    """What libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write(self.format(record))
        except Exception:
            self.handleError(record)  # of a library that does not know how to say it; the library goes on


class _Lines(logging.Formatter):
    def __init__(self, log_format: str) -> None:
        super().__init__()
        self._format = log_format

    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            facts["traceback"] = traceback_of(record.exc_info[1])
        level = _LEVELS.get(record.levelno, record.levelname.lower())
        return line(self._format, "api", level, record.getMessage(), facts, int(record.created * 1_000_000) * 1000)
