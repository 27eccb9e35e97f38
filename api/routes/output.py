"""``/v1/commands/{id}/output``: what a command printed, as bytes or as text, all or a part."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from sanic import Blueprint, Request

from api.command import Command
from api.commands import Commands
from api.models import MAX_ID, parse_id
from api.operation import Answer, Operation
from api.parameters import Asked, bad, choice, flag, integer
from api.problems import Conflict, NotAcceptable, NotFound, Unavailable
from api.routes import streams
from api.rows import STREAMS, Chunk
from api.text import Text

BYTES, TEXT = "application/octet-stream", "text/plain"


STREAM = choice("stream", "Which of the two, or both as they were recorded.", ("both", *STREAMS), default="both")
FROM = integer(
    "offset",
    "The first byte wanted; every byte counts that was written.",
    least=0,
    most=MAX_ID,
    default=None,
    example=0,
)
TAIL = integer("tail", "The last bytes, instead of `offset`.", least=1, most=MAX_ID, default=None, example=4096)
MOST = integer("limit", "How many bytes at most.", least=1, most=MAX_ID, default=None, example=65536)
FOLLOW = flag("follow", "Go on until the command has ended.")
ANSI = choice(
    "ansi", "Of text: keep or strip the sequences of terminals.", ("keep", "strip"), default=None, example="strip"
)
TIMESTAMPS = flag("timestamps", "Of text: each line with its time, and of both streams with the stream.")

OUTPUT = Operation(
    id="getOutput",
    method="GET",
    path="/v1/commands/{id}/output",
    tag="Output",
    summary="Read what a command printed",
    about="Byte for byte, or with `Accept: text/plain` as text, in which U+FFFD stands for what is no UTF-8.",
    query=(STREAM, FROM, TAIL, MOST, FOLLOW, ANSI, TIMESTAMPS),
    answers={200: Answer("It.", media_type=BYTES, or_media_types=(f"{TEXT}; charset=utf-8",))},
    problems=(NotFound, Conflict, NotAcceptable, Unavailable),
)

OPERATIONS = (OUTPUT,)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The parameters of a request."""

    stream: str
    offset: int | None
    tail: int | None
    limit: int | None
    follow: bool
    ansi: str | None
    timestamps: bool

    @property
    def number(self) -> int | None:
        """Of the stream; None: both."""
        return STREAMS.get(self.stream)


def blueprint(commands: Commands) -> Blueprint:
    """The one route."""
    routes = Blueprint("output", url_prefix="/v1/commands")

    @OUTPUT.on(routes)
    async def output(request: Request, asked: Asked, command_id: str) -> None:
        wanted, content_type = _wanted(asked), _content_type(request)
        if content_type == BYTES and (wanted.ansi or wanted.timestamps):
            name = "ansi" if wanted.ansi else "timestamps"
            raise bad(name, f"is for text: send the header 'Accept: {TEXT}'")
        command = await commands.get(parse_id(command_id))
        await _refuse_missing(command, wanted)
        if wanted.follow:
            command = await commands.started(command)
        chunks = commands.output.chunks(
            command, stream=wanted.number, offset=_first(command, wanted), limit=wanted.limit, follow=wanted.follow
        )
        pieces = _text(chunks, wanted) if content_type == TEXT else _bytes(chunks)
        # Nobody may take for a page what a script printed.
        headers = {"X-Content-Type-Options": "nosniff", "Vary": "Accept"}
        full = f"{TEXT}; charset=utf-8" if content_type == TEXT else BYTES
        await streams.send(request, pieces, content_type=full, headers=headers)

    async def _refuse_missing(command: Command, wanted: Wanted) -> None:
        if wanted.offset is None:
            return  # who names no place gets what there is
        missing = await commands.output.missing_at(command, wanted.number, wanted.offset)
        if missing is not None:
            first, to = missing
            message = f"lies in the bytes from {first} up to {to} that were not kept; the next one is {to}"
            raise Conflict(f"offset {message}.", errors=[("offset", message)])

    return routes


def _wanted(asked: Asked) -> Wanted:
    wanted = Wanted(
        stream=asked[STREAM],
        offset=asked[FROM],
        tail=asked[TAIL],
        limit=asked[MOST],
        follow=asked[FOLLOW],
        ansi=asked[ANSI],
        timestamps=asked[TIMESTAMPS],
    )
    if wanted.tail is not None and wanted.offset is not None:
        raise bad("tail", "cannot be asked for together with offset")
    return wanted


def _content_type(request: Request) -> str:
    """What the client likes best of what there is (RFC 9110, section 12.5.1); raises ``NotAcceptable``."""
    best, liked = "", (0.0, 0)
    for offered in (BYTES, TEXT):
        entries = [one for one in request.accept if one.match(offered)]
        # Of several entries that name it the most precise one counts.
        precise = [((one.type != "*") + (one.subtype != "*"), float(one.q)) for one in entries]
        precision, q = max(precise, default=(0, 0.0))
        if q > 0 and (q, precision) > liked:
            best, liked = offered, (q, precision)
    if not best:
        message = f"must allow {BYTES} or {TEXT}"
        raise NotAcceptable(f"Accept {message}.", errors=[("Accept", message)])
    return best


def _first(command: Command, wanted: Wanted) -> int:
    """The first byte that is wanted."""
    if wanted.tail is None:
        return wanted.offset or 0
    written = {"stdout": command.stdout_bytes, "stderr": command.stderr_bytes}
    return max(0, written.get(wanted.stream, sum(written.values())) - wanted.tail)


async def _bytes(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk.bytes


async def _text(chunks: AsyncGenerator[Chunk, None], wanted: Wanted) -> AsyncGenerator[bytes, None]:
    text = Text(strip=wanted.ansi == "strip", timestamps=wanted.timestamps, name_streams=wanted.stream == "both")
    async with aclosing(chunks):
        async for chunk in chunks:
            if complete := text.of(chunk):
                yield complete.encode()
    if rest := text.rest():
        yield rest.encode()
