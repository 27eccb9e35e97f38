"""What a journal says of its command, folded frame by frame into facts.

Shared by those who must read a journal's meaning: the API, and the supervisor for a worker that died.
"""

from protocol import journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


SIGNALS_KEPT = 50


class Story:
    """The facts so far. Applying the same frames gives the same facts, whoever does it and whenever."""

    def __init__(self) -> None:
        self.spec: dict[str, Any] | None = None
        self.worker: dict[str, Any] | None = None  # {"pid", "start_time", "boot_id", "monotonic_s"}, from taken
        self.bash: dict[str, Any] | None = None  # {"pid", "start_time", "monotonic_s"}, from started
        self.started_at_ns: int | None = None
        self.stdout_bytes = 0  # bytes written by the command, kept or missing
        self.stderr_bytes = 0
        self.tailed = False  # what was printed since lies beside the journal, until the end
        self.missing: list[dict[str, Any]] = []  # {"stream", "from", "to", "reason"}
        self.stopping: dict[str, Any] | None = None  # the first stop; it gives the reason
        self.signals: list[dict[str, Any]] = []  # {"signal", "time_ns"}: sent for clients, the newest SIGNALS_KEPT
        self.paused = False
        self.stdin_open: bool | None = None  # None: nobody may write into it yet
        self.unkillable: dict[str, Any] | None = None
        self.crash: str | None = None
        self.ended: dict[str, Any] | None = None
        self.ended_at_ns: int | None = None
        self.last_time_ns = 0

    def apply(self, frame: journal.Frame) -> None:
        """Take in the next frame."""
        self.last_time_ns = frame.time_ns
        kind = frame.kind
        if kind == journal.STDOUT:
            self.stdout_bytes += len(frame.payload)
        elif kind == journal.STDERR:
            self.stderr_bytes += len(frame.payload)
        elif kind == journal.MISSING:
            self._apply_missing(frame.facts())
        elif kind == journal.SPEC:
            self.spec = frame.facts()
        elif kind == journal.TAKEN:
            self.worker = frame.facts()
        elif kind == journal.STARTED:
            self.bash = frame.facts()
            self.started_at_ns = frame.time_ns
        elif kind == journal.STOPPING:
            self.stopping = self.stopping or frame.facts()
        elif kind == journal.SIGNALLED:
            self.signals = [
                *self.signals[1 - SIGNALS_KEPT :],
                {"signal": frame.facts()["signal"], "time_ns": frame.time_ns},
            ]
        elif kind == journal.PAUSED:
            self.paused = bool(frame.facts()["paused"])
        elif kind == journal.STDIN:
            self.stdin_open = bool(frame.facts()["open"])
        elif kind == journal.TAILED:
            self.tailed = True
        elif kind == journal.UNKILLABLE:
            self.unkillable = frame.facts()
        elif kind == journal.CRASHED:
            self.crash = str(frame.facts()["traceback"])
        elif kind == journal.ENDED:
            self.ended = frame.facts()
            self.ended_at_ns = frame.time_ns
            self.paused = False

    def _apply_missing(self, missing: "dict[str, Any]") -> None:
        if missing["stream"] == "stdout":
            self.stdout_bytes = missing["to"]
        else:
            self.stderr_bytes = missing["to"]
        for last in self.missing:
            if last["stream"] == missing["stream"] and last["to"] == missing["from"]:
                last["to"] = missing["to"]
                return
        self.missing.append(dict(missing))


def traceparent(path: str) -> "str | None":
    """The place in a trace that a journal's spec names; None when it names none, or there is no journal to be read."""
    try:
        with journal.Reader(path) as reader:
            first = next(reader.frames(), None)
    except OSError:
        return None
    if first is None or first.kind != journal.SPEC:
        return None
    spec = first.facts()
    found = spec.get("traceparent") if isinstance(spec, dict) else None  # of another version or hand, perhaps
    return found if isinstance(found, str) else None


def read(path: str) -> "tuple[Story, int]":
    """The story of a whole journal and the position after its last whole frame.

    Raises ``FileNotFoundError`` without one, be it that it went away while it was read.
    """
    story = Story()
    with journal.Reader(path) as reader:
        for frame in reader.frames():
            story.apply(frame)
        if not reader.is_at(path):
            raise FileNotFoundError(path)
        return story, reader.position
