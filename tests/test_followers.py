"""Hundreds who watch: each gets every byte, none holds up another, and the memory of the API stays bounded."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import StartService
from tests.listening import bytes_of, listen, parsed, path_of
from tests.processes import Service, eventually

FOLLOWERS = 200
POOL = 8  # connections to PostgreSQL that the API may have opened meanwhile
MORE_THAN_ENOUGH = 150 * 1024 * 1024  # what the API may take for all of them; docs/operations.md says what it took

NOISY = "for i in {1..30}; do head -c 40000 /dev/urandom | base64 -w 0; echo >&2; sleep 0.02; done"


def _request(service: Service, path: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {service.token}", "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode()


async def _body(service: Service, path: str) -> bytes:
    """What one more client gets, on a connection of its own."""
    address = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(_request(service, path))
    assert b" 200 " in await reader.readline()
    while await reader.readline() != b"\r\n":
        pass  # a header
    parts = []
    while length := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(length))
        await reader.readexactly(2)
    writer.close()
    return b"".join(parts)


def _bodies(service: Service, paths: list[str]) -> list[bytes]:
    async def together() -> list[bytes]:
        async with asyncio.timeout(120):
            return await asyncio.gather(*(_body(service, path) for path in paths))

    return asyncio.run(together())


def _peak_bytes(pid: int) -> int:
    """The most memory that a process has had (proc(5), VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found.group(1)) * 1024


def test_two_hundred_followers_of_one_get_every_byte(own_service: StartService) -> None:
    """Half of them as events, half as bytes; and what that costs the API is bounded."""
    service = own_service().start()
    service.done("echo warm")
    before = _peak_bytes(service.pid("bashd: api"))
    command = service.run(NOISY)
    paths = [path_of(command), f"/v1/commands/{command.id}/output?follow=true&stream=stdout"]

    bodies = _bodies(service, paths * (FOLLOWERS // 2))

    whole = service.output(service.ended(command), stream="stdout")
    assert len(whole) > 1_500_000
    assert {hashlib.sha256(body).digest() for body in bodies[1::2]} == {hashlib.sha256(whole).digest()}
    for body in bodies[::2]:
        events = list(parsed(iter([body])))
        assert bytes_of(events, "stdout") == whole
        assert events[-1].name == "end"
    grown = _peak_bytes(service.pid("bashd: api")) - before
    print(f"the API grew by {grown / 2**20:.0f} MiB")
    assert grown < MORE_THAN_ENOUGH


def test_two_hundred_commands_with_a_follower_each(own_service: StartService) -> None:
    """Each hears of its own command alone, from its first byte to its end."""
    service = own_service(max_running=FOLLOWERS).start()
    before = _peak_bytes(service.pid("bashd: api"))
    with ThreadPoolExecutor(8) as pool:
        script = "echo $1 a; sleep 1; echo $1 b >&2; sleep 0.5; echo $1 c"
        commands = list(pool.map(lambda number: service.run(script, args=[str(number)]), range(FOLLOWERS)))

    bodies = _bodies(service, [path_of(command) for command in commands])

    for number, body in enumerate(bodies):
        events = list(parsed(iter([body])))
        assert bytes_of(events, "stdout") == b"%d a\n%d c\n" % (number, number)
        assert bytes_of(events, "stderr") == b"%d b\n" % number
        assert (events[-1].name, events[-1].value["id"]) == ("end", commands[number].id)
    assert _peak_bytes(service.pid("bashd: api")) - before < MORE_THAN_ENOUGH


def _deaf(service: Service, paths: list[str]) -> Iterator[socket.socket]:
    """Clients that ask and never read; their sockets take as little as the kernel allows."""
    address = urlsplit(service.url)
    for path in paths:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((address.hostname, address.port))
        deaf.sendall(_request(service, path))
        yield deaf


def test_who_never_reads_harms_no_one(own_service: StartService) -> None:
    """A hundred of them, of everything there is to follow: others are served, memory is bounded, and all is freed."""
    service = own_service().start()
    large = service.done("head -c 12000000 /dev/zero | tr '\\0' x; head -c 100 /dev/urandom >&2")
    eventually(lambda: not (service.state_dir / "journals" / str(large.id)).exists())
    api = service.pid("bashd: api")
    before, open_before = _peak_bytes(api), _open(api)
    living = service.run("head -c 8000000 /dev/zero; until [ -e go ]; do sleep 0.05; done; echo done >&2")
    eventually(lambda: service.get(living).stdout_bytes == 8_000_000)
    paths = [f"/v1/commands/{one.id}/{what}" for one in (large, living) for what in ("events", "output?follow=true")]

    with ExitStack() as held:
        for deaf in _deaf(service, [*paths, "/v1/events"] * 20):
            held.enter_context(deaf)
        eventually(lambda: len(_open(api)) >= len(open_before) + 100)
        short = service.done("echo others")
        assert bytes_of(listen(service, short), "stdout") == b"others\n"
        assert len(bytes_of(listen(service, large), "stdout")) == 12_000_000
        heard = listen(service, living, until=lambda event: event.id == "1-8000000-0")
        assert bytes_of(heard, "stdout") == b"\0" * 8_000_000
        for number in range(300):
            service.http.get("/healthz") if number % 3 else service.run("true")
        (service.state_dir / "work" / str(living.id) / "go").touch()
        service.ended(living)
        assert _peak_bytes(api) - before < MORE_THAN_ENOUGH
        print(f"the API grew by {(_peak_bytes(api) - before) / 2**20:.0f} MiB")

    # They have gone: their connections, and the journal that they kept open, are let go.
    eventually(
        lambda: len(_open(api)) <= len(open_before) + POOL and not any("/journals/" in one for one in _open(api))
    )
    assert service.pid("bashd: api") == api


def _open(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue  # closed this moment
    return found


def test_who_never_reads_does_not_hold_up_the_end(own_service: StartService) -> None:
    """Told to go, Bashd goes in time, though clients have not taken what they asked for."""
    service = own_service().start()
    large = service.done("head -c 8000000 /dev/zero")

    with ExitStack() as held:
        for deaf in _deaf(service, [path_of(large), f"/v1/commands/{large.id}/output", "/v1/events"] * 5):
            held.enter_context(deaf)
        assert service.terminate(within_s=9) == 0
