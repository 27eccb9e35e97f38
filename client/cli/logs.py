"""``logs``: what a command has printed, as bytes; its last lines, its times."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from client.answers import Output
from client.cli import show
from client.cli.service import client
from client.client import Handle

FIRST_LOOK_BYTES = 64 * 1024


def logs(arguments: argparse.Namespace) -> int:
    with client() as service:
        handle = service.get(arguments.id)
        if arguments.json:
            for event in handle.follow():
                if not isinstance(event, Output) or arguments.stream in ("both", event.stream):
                    print(show.event_json(event), flush=arguments.follow)
            return 0
        if arguments.follow and not arguments.tail and not arguments.timestamps:
            # By its events, which go on exactly after a cut.
            for event in handle.follow():
                if isinstance(event, Output) and arguments.stream in ("both", event.stream):
                    _put(event.bytes)
            return 0
        params: dict[str, Any] = {"stream": arguments.stream}
        if arguments.timestamps:
            params["timestamps"] = "true"
        if arguments.follow:
            params["follow"] = "true"
        if arguments.tail:
            params["offset"] = _beginning_of_last_lines(handle, arguments.stream, arguments.tail)
        for piece in handle.read(text=arguments.timestamps, **params):
            _put(piece)
    return 0


def _put(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _beginning_of_last_lines(handle: Handle, stream: str, lines: int) -> int:
    """Where the last lines begin, in bytes of what is asked for; as far back as it was kept."""
    written = {"stdout": handle.command.stdout_bytes, "stderr": handle.command.stderr_bytes}
    end = written.get(stream, sum(written.values()))
    look_bytes = FIRST_LOOK_BYTES
    while True:
        begin = max(0, end - look_bytes)
        last = handle.output(stream, tail=look_bytes)[: end - begin] if begin else handle.output(stream, limit=end)
        begin = max(begin, end - len(last))
        position = len(last) - 1 if last.endswith(b"\n") else len(last)
        for _ in range(lines):
            position = last.rfind(b"\n", 0, position)
            if position < 0:
                break
        else:
            return begin + position + 1
        if len(last) < look_bytes:
            return begin
        look_bytes *= 4
