"""The load generator: clients on bare sockets, in a process of its own, that cost little beside what they measure."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SILENCE_S = 60.0  # without any answer, and the run has failed


@dataclass(frozen=True)
class Post:
    """The request that every client sends over and over, and how a good answer is known."""

    path: str
    body: dict[str, object]
    token: str | None = None
    expected: dict[str, object] | None = None  # fields that a good answer has, beside a status of 2xx
    id_field: str | None = "id"  # where a good answer names what was accepted


@dataclass(frozen=True)
class Load:
    """What one run of the generator saw."""

    ids: list[Any]  # of what was accepted
    latencies_s: list[float]  # from each request until its answer
    refused: int  # answers that are not good ones
    complaint: str  # the first of those
    began_s: float  # the first request, on the monotonic clock that all processes share
    cpu_s: float  # of the generator itself


def send(address: tuple[str, int], post: Post, *, clients: int, count: int) -> Load:
    """Send ``post`` ``count`` times, from so many clients, each of which sends the next one when it is answered."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-E", str(Path(__file__))],
        input=json.dumps([*address, asdict(post), clients, count]).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return Load(**json.loads(done.stdout))


class _Clients:
    """Connections to one server, each with at most one request under way."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self._address = address
        self._request = request
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._answers: dict[int, bytes] = {}
        self._sent_at: dict[int, float] = {}

    def connect(self) -> None:
        """Make one more, and send its first request."""
        client = socket.create_connection(self._address)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._epoll.register(client.fileno(), select.EPOLLIN)
        self._sockets[client.fileno()] = client
        self.ask(client.fileno())

    def ask(self, fd: int) -> None:
        """Send a request over this connection."""
        self._answers[fd] = b""
        self._sent_at[fd] = time.monotonic()
        self._sockets[fd].sendall(self._request)

    def answers(self) -> list[tuple[int, float, int, bytes]]:
        """Wait for answers: connection, seconds that it took, status, body."""
        ready = self._epoll.poll(SILENCE_S)
        if not ready:
            raise TimeoutError(f"no answer within {SILENCE_S} s")
        return [found for fd, _ in ready if (found := self._read(fd))]

    def _read(self, fd: int) -> tuple[int, float, int, bytes] | None:
        more = self._sockets[fd].recv(65536)
        if not more:
            raise ConnectionError(f"closed after {self._answers[fd]!r}")
        answer = self._answers[fd] = self._answers[fd] + more
        head = answer.find(b"\r\n\r\n")
        at = answer.lower().find(b"content-length:", 0, head)
        if head < 0 or len(answer) < head + 4 + int(answer[at + 15 : answer.index(b"\r", at)]):
            return None
        return fd, time.monotonic() - self._sent_at[fd], int(answer[9:12]), answer[head + 4 :]

    def close(self) -> None:
        for client in self._sockets.values():
            client.close()


def _request(host: str, port: int, post: Post) -> bytes:
    body = json.dumps(post.body)
    token = f"Authorization: Bearer {post.token}\r\n" if post.token else ""
    return (
        f"POST {post.path} HTTP/1.1\r\nHost: {host}:{port}\r\n{token}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _run(host: str, port: int, post: Post, clients: int, count: int) -> Load:
    expected = (post.expected or {}).items()
    ids: list[Any] = []
    latencies_s: list[float] = []
    complaint = ""
    refused = 0
    started = min(clients, count)
    began_cpu_s, began_s = time.process_time(), time.monotonic()
    connections = _Clients((host, port), _request(host, port, post))
    for _ in range(started):
        connections.connect()
    while len(latencies_s) < count:
        for fd, seconds, status, body in connections.answers():
            latencies_s.append(seconds)
            fields = json.loads(body) if status // 100 == 2 else None
            if fields is None or not expected <= fields.items():
                complaint = complaint or f"{status} {body[:500]!r}"
                refused += 1
            elif post.id_field is not None:
                ids.append(fields[post.id_field])
            if started < count:
                started += 1
                connections.ask(fd)
    connections.close()
    return Load(ids, latencies_s, refused, complaint, began_s, time.process_time() - began_cpu_s)


if __name__ == "__main__":
    host, port, post, clients, count = json.load(sys.stdin)
    print(json.dumps(asdict(_run(host, port, Post(**post), clients, count))))
