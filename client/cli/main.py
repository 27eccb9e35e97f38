"""From the arguments to a word, and from what goes wrong to one line and an exit status."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys

from client import errors
from client.cli import exits, show, words


def main(argv: list[str]) -> int:
    """Carry out one word; returns the exit status."""
    _open_what_is_closed()
    # httpx brings a program of its own, and imports click and all of rich for it where they are installed: more than
    # half of the time until a script starts. None in its place is an ImportError, which httpx is prepared for.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    arguments = words.parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that knows few letters gets them all the same
    try:
        status = _carry_out(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        show.give_up_stdout()  # nobody reads on
        return exits.BY_SIGNAL + signal.SIGPIPE
    except KeyboardInterrupt:
        return exits.BY_SIGNAL + signal.SIGINT
    except errors.NotEnded as error:
        return _say(error, exits.TIMED_OUT)
    except (errors.NoService, errors.Unreachable) as error:
        return _say(error, exits.NO_SERVICE)
    except errors.Unauthorized as error:
        return _say(f"{error} Set BASHD_TOKEN.", exits.REFUSED)
    except errors.BashdError as error:
        return _say(error, exits.REFUSED)
    except UsageError as error:
        return _say(error, exits.USAGE)
    except UnicodeEncodeError:
        return _say("an argument is not UTF-8", exits.USAGE)
    except OSError as error:
        show.give_up_stdout()
        return _say(f"cannot write: {error.strerror}", exits.UNKNOWN)
    return status


def _open_what_is_closed() -> None:
    """A descriptor that we were not given would become that of a connection, into which output would be written."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  (for the life of the process)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


class UsageError(Exception):
    """Arguments that do not go together, or a file that cannot be read."""


def _say(error: object, status: int) -> int:
    print(f"bashd: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _carry_out(arguments: argparse.Namespace) -> int:
    match arguments.word:
        case "token":
            from client.cli import token

            return token.token(arguments)
        case "completion":
            from client.cli import completion

            print(completion.script(arguments.shell), end="")
            return 0
        case "run" | "rerun" | "wait":
            from client.cli import run

            return {"run": run.run, "rerun": run.rerun, "wait": run.wait}[arguments.word](arguments)
        case "ps" | "show":
            from client.cli import look

            return {"ps": look.ps, "show": look.show}[arguments.word](arguments)
        case "logs":
            from client.cli import logs

            return logs.logs(arguments)
        case "top":
            from client.cli import top

            return top.top(arguments)
        case _:
            from client.cli import steer

            return {"stop": steer.stop, "signal": steer.signal}[arguments.word](arguments)
