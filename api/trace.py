"""W3C Trace Context: the place in somebody's trace that a request names, for its command to go on from.

Bashd makes no spans of its own: what comes is kept, shown, written beside the command in the log, and given to its
script as ``TRACEPARENT``. ``tracestate`` is not taken.
"""

from __future__ import annotations

import re

from api.parameters import Parameter

# https://www.w3.org/TR/trace-context/#traceparent-header-field-values
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1  # the flag that version 00 knows


def _traceparent(text: str) -> str:
    """The header as version 00 has it; of a later version what 00 knows, for nobody knows the rest (section 4.3)."""
    found = _TRACEPARENT.fullmatch(text.strip(" \t"))  # Sanic leaves blanks behind a value (RFC 9110, 5.5)
    if found is None:
        raise ValueError("must be a traceparent, like 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    version, trace_id, parent_id, flags, more = found.groups()
    if version == "ff" or not int(trace_id, 16) or not int(parent_id, 16) or (version == "00" and more is not None):
        raise ValueError("must be valid as a traceparent")
    if version != "00":
        flags = f"{int(flags, 16) & _SAMPLED:02x}"
    return f"00-{trace_id}-{parent_id}-{flags}"


TRACEPARENT: Parameter[str | None] = Parameter(
    "traceparent",
    "The place in a trace that the command belongs to (W3C Trace Context), for `TRACEPARENT` of the script and for the "
    "log. One that is not valid is ignored, as the standard has it.",
    _traceparent,
    {"type": "string"},
    None,
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ignored_when_wrong=True,
)
