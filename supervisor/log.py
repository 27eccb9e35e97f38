"""One line for each thing worth knowing, on stderr, as text or JSON; for the processes without ``logging``."""

import json
import os
import time


class Log:
    """Writes lines for one process; a line is one write, so lines of several processes do not mix."""

    def __init__(self, process: str, log_format: str) -> None:
        self._process = process
        self._json = log_format == "json"

    def info(self, message: str, **facts: object) -> None:
        """An outcome, as expected."""
        self._write("info", message, facts)

    def error(self, message: str, **facts: object) -> None:
        """A surprise."""
        self._write("error", message, facts)

    def _write(self, level: str, message: str, facts: dict[str, object]) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        if self._json:
            line = json.dumps({"time": stamp, "level": level, "process": self._process, "message": message, **facts})
        else:
            line = f"{stamp} {level:5} {self._process}: {message}"
            line += "".join(f" {name}={value}" for name, value in facts.items())
        try:
            os.write(2, line.encode(errors="replace") + b"\n")
        except OSError:
            pass  # nobody reads our stderr any more; the work goes on
