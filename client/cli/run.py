"""``run``, ``rerun``, ``wait``: they stand for a command, and end as it does.

A signal is passed on as a stop and the word goes on until the command has ended, so that what it says in its last
moments is shown, and nothing of it is left when the word is over.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from client import errors
from client.answers import Command, End, Gap, Status
from client.answers import Output as Printed
from client.cli import exits, show
from client.cli.main import UsageError
from client.cli.service import RUNNING_RETRY_FOR_S, client
from client.client import Client, Handle
from client.options import Fields

OUTPUT_LIMIT_BYTES = 1024**3  # what is followed live shall arrive whole
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PIECE_BYTES = 64 * 1024


def run(arguments: argparse.Namespace) -> int:
    script, args = _script(arguments)
    fields = _fields(arguments, args)
    return _stand_for(arguments, lambda service: service.run(script, **fields))


def rerun(arguments: argparse.Namespace) -> int:
    return _stand_for(arguments, lambda service: service.rerun(arguments.id))


def wait(arguments: argparse.Namespace) -> int:
    with client() as service:
        command = service.get(arguments.id).wait(arguments.timeout)
    if arguments.json:
        print(json.dumps(command.row))
    return _end(command)


def _stand_for(arguments: argparse.Namespace, begin: Callable[[Client], Handle]) -> int:
    with client() as service:
        if arguments.detach:
            command = begin(service).command
            print(json.dumps(command.row) if arguments.json else command.id)
            return 0
        told = Told()
        with told:
            handle = begin(service)
            with client(retry_for_s=RUNNING_RETRY_FOR_S) as patient:
                handle = Handle(patient, handle.command)
                told.passes_on_to(handle)
                try:
                    return _follow(handle, told, as_json=arguments.json, feeds=getattr(arguments, "stdin", False))
                except errors.Unreachable as error:
                    raise errors.Unreachable(f"{error}; command {handle.id} may still run") from error
                except OSError as error:
                    return _nobody_takes_it(handle, error)


class Told:
    """What signals have told us, passed on as stops: the first with the command's grace, the second with none."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._times = 0
        self._handle: Handle | None = None
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> None:
        for number in PASSED_ON:
            # Whoever started us so that it is ignored, as nohup does, means it.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def passes_on_to(self, handle: Handle) -> None:
        """From here on there is a command to stop; also for a signal that came before."""
        self._handle = handle
        if self._times:
            self._pass_on()

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self.first = self.first or number
        self._times += 1
        if self._times > 2:
            os._exit(exits.BY_SIGNAL + self.first)
        if self._handle is not None:
            self._pass_on()

    def _pass_on(self) -> None:
        # In a thread: what is being printed at this moment is to be printed whole.
        threading.Thread(target=self._stop, args=[self._times], daemon=True).start()

    def _stop(self, times: int) -> None:
        assert self._handle is not None
        try:
            self._handle.stop() if times == 1 else self._handle.stop("KILL", 0)
        except errors.BashdError as error:
            show.complain(f"command {self._handle.id} cannot be stopped: {error}")


def _follow(handle: Handle, told: Told, *, as_json: bool, feeds: bool) -> int:
    """Print what it prints, until it has ended."""
    complete = True
    over = threading.Event()
    for event in handle.follow():
        if as_json:
            print(show.event_json(event), flush=True)
        match event:
            case Status(command) if feeds and command.status == "running":
                # Not before: a command that waits for its turn takes nothing.
                feeds = False
                threading.Thread(target=_feed, args=[handle, over], daemon=True).start()
            case Printed() if not as_json:
                _write(2 if event.stream == "stderr" else 1, event.bytes)
            case Gap():
                complete = False
                show.complain(f"bytes {event.start} to {event.stop} of {event.stream} were not kept")
            case End():
                over.set()
                if told.first is not None:
                    return exits.BY_SIGNAL + told.first
                status = _end(event.command)
                return status if complete or status else exits.UNKNOWN
    raise errors.Unreachable(f"command {handle.id} was followed and has not ended")


def _nobody_takes_it(handle: Handle, error: OSError) -> int:
    """Stop a command whose output cannot be passed on: as in a pipeline without us, who prints in vain is ended."""
    handle.stop()
    handle.wait()
    if isinstance(error, BrokenPipeError):
        show.give_up_stdout()
        return exits.BY_SIGNAL + signal.SIGPIPE
    show.complain(f"command {handle.id} was stopped, for its output cannot be written: {error.strerror}")
    show.give_up_stdout()
    return exits.UNKNOWN


def _end(command: Command) -> int:
    if (line := exits.why(command)) is not None:
        show.complain(line)
    return exits.of(command)


def _write(fd: int, piece: bytes) -> None:
    """All of it, straight to the descriptor. Raises ``OSError`` when it takes nothing any more."""
    rest = memoryview(piece)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # whoever shares it with us has made it so
            show.wait_until_writable(fd)


def _feed(handle: Handle, over: threading.Event) -> None:
    """Our standard input becomes that of the command; held back while it does not read, given up when it is over."""
    try:
        while piece := os.read(0, PIECE_BYTES):
            handle.feed(piece)
        handle.feed(b"", close=True)
    except errors.Conflict:
        pass  # nobody reads it any more, like a pipe whose reader has gone
    except (OSError, RuntimeError, errors.BashdError) as error:  # RuntimeError: the client was closed meanwhile
        if not over.is_set():
            show.complain(f"standard input was not passed on: {error}")


def _script(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    words = list(arguments.words)
    if words[:1] == ["--"]:
        del words[0]
    if arguments.file is None:
        if not words:
            raise UsageError("run: a script is needed: bashd run 'echo hello', or bashd run -f FILE")
        return words[0], words[1:]
    if arguments.file == "-" and arguments.stdin:
        raise UsageError("run: standard input cannot be both the script and what it reads")
    try:
        if arguments.file == "-":
            return sys.stdin.buffer.read().decode(), words
        with open(arguments.file, "rb") as file:
            return file.read().decode(), words
    except OSError as error:
        raise UsageError(f"run: {arguments.file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"run: {arguments.file} is not UTF-8: byte {error.start}") from error


def _fields(arguments: argparse.Namespace, args: list[str]) -> Fields:
    fields: Fields = {"args": args, "env": dict(map(_variable, arguments.env))}
    if arguments.secret:
        fields["secrets"] = dict(map(_secret, arguments.secret))
    if arguments.label:
        fields["labels"] = dict(map(_label, arguments.label))
    if arguments.timeout is not ...:  # None: without end
        fields["timeout_s"] = arguments.timeout
    if arguments.grace is not None:
        fields["grace_s"] = arguments.grace
    if arguments.cwd is not None:
        fields["cwd"] = os.path.abspath(arguments.cwd)
    if arguments.name is not None:
        fields["name"] = arguments.name
    if arguments.run_as is not None:
        fields["run_as"] = arguments.run_as
    if arguments.stdin:
        fields["stdin_open"] = True
    if arguments.merge_stderr:
        fields["merge_stderr"] = True
    if arguments.output_limit is not None or not arguments.detach:
        fields["output_limit_bytes"] = arguments.output_limit or OUTPUT_LIMIT_BYTES
    return fields


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals and name not in os.environ:
        raise UsageError(f"run: --env {name}: we have no such variable; NAME=VALUE sets one")
    return name, value if equals else os.environ[name]


def _secret(name: str) -> tuple[str, str]:
    # Its value is no argument: everybody on this machine reads those of a process.
    if name not in os.environ:
        raise UsageError(f"run: --secret {name}: we have no such variable; its value is taken from ours")
    return name, os.environ[name]


def _label(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError(f"run: --label {text}: a label is NAME:VALUE")
    return name, value
