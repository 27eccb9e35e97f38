"""Exit statuses: those of the scripts, and ours beside them (docs/cli.md)."""

from __future__ import annotations

import signal

from client.answers import Command

USAGE = 2
NO_SERVICE = 122  # nobody answers
REFUSED = 123  # the service says that it cannot be done
TIMED_OUT = 124  # as timeout(1) has it
UNKNOWN = 125  # nobody knows how it ended, or not all of its output was kept
NOT_STARTED = 126  # as a shell has it for a program that cannot be executed
BY_SIGNAL = 128  # and the number of the signal


def of(command: Command) -> int:
    """The status with which a word exits that stands for a command that has ended."""
    if command.status == "lost":
        return UNKNOWN
    if command.reason == "timeout":
        return TIMED_OUT
    if command.reason == "spawn":
        return NOT_STARTED
    if command.signal is not None:
        return BY_SIGNAL + command.signal
    if command.status == "stopped" and not command.exit_code:
        # It was stopped in the queue, or took the signal for a reason to end well: it has not done what it was for.
        return BY_SIGNAL + signal.SIGTERM
    return UNKNOWN if command.exit_code is None else command.exit_code


def why(command: Command) -> str | None:
    """The line for an end that the exit status does not tell by itself; None for all others."""
    match of(command), command.status:
        case _, "lost":
            return f"command {command.id} is lost: {command.reason}"
        case 124, "failed" if command.reason == "timeout":
            return f"command {command.id} was stopped after its {command.timeout_s:g} s"
        case 126, _ if command.reason == "spawn":
            return f"command {command.id} could not be started"
    return None
