"""One line for each thing worth knowing, on stderr, as text or JSON; for the processes without ``logging``."""

import os

from protocol.line import line, traceback_of, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def how_it_ended(status: int) -> str:
    """A wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


class Log:
    """Writes lines for one process."""

    def __init__(
        self, process: str, log_format: str, *, trace_of: "Callable[[int], str | None]" = lambda _command_id: None
    ) -> None:
        """``trace_of`` gives the ``traceparent`` of a command; asked only when there is a line about it."""
        self._process = process
        self._format = log_format
        self._trace_of = trace_of

    def info(self, message: str, **facts: object) -> None:
        """An outcome, as expected."""
        self._write("info", message, facts)

    def error(self, message: str, **facts: object) -> None:
        """A surprise."""
        self._write("error", message, facts)

    def failed(self, error: BaseException) -> None:
        """The process fails, and this is why."""
        self._write("error", "this process fails and ends", {"error": error, "traceback": traceback_of(error)})

    def _write(self, level: str, message: str, facts: dict[str, object]) -> None:
        command_id = facts.get("command")
        if isinstance(command_id, int) and (traceparent := self._trace_of(command_id)):
            facts["traceparent"] = traceparent
        write(line(self._format, self._process, level, message, facts))
