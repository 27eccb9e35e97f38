"""The load generator: clients on bare sockets, in a process of its own, that cost little beside what they measure."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Load:
    """What one run of the generator saw."""

    ids: list[int]  # of the accepted commands
    latencies_s: list[float]  # from each request until its answer
    refused: int  # answers other than 201
    cpu_s: float  # of the generator itself


def post(
    address: tuple[str, int], token: str, body: dict[str, object], *, clients: int, count: int, query: str
) -> Load:
    """POST ``body`` ``count`` times, from so many clients, each of which sends the next request when it is answered."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-E", str(Path(__file__))],
        input=json.dumps([*address, token, json.dumps(body), clients, count, query]).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return Load(**json.loads(done.stdout))


def _run(host: str, port: int, token: str, body: str, clients: int, count: int, query: str) -> dict[str, object]:
    request = (
        f"POST /v1/commands{query} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    epoll = select.epoll()
    connections: dict[int, socket.socket] = {}
    sent_at: dict[socket.socket, float] = {}
    answers: dict[socket.socket, bytes] = {}
    ids: list[int] = []
    latencies_s: list[float] = []
    refused = started = 0
    for _ in range(min(clients, count)):
        client = socket.create_connection((host, port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        epoll.register(client.fileno(), select.EPOLLIN)
        connections[client.fileno()] = client
        answers[client] = b""
        sent_at[client] = time.monotonic()
        client.sendall(request)
        started += 1
    while len(latencies_s) < count:
        for fd, _ in epoll.poll():
            client = connections[fd]
            answer = answers[client] + client.recv(65536)
            head = answer.find(b"\r\n\r\n")
            at = answer.lower().find(b"content-length:", 0, head)
            if head < 0 or len(answer) < head + 4 + int(answer[at + 15 : answer.index(b"\r", at)]):
                answers[client] = answer
                continue
            latencies_s.append(time.monotonic() - sent_at[client])
            if answer.startswith(b"HTTP/1.1 201"):
                at = answer.index(b'"id":', head) + 5
                ids.append(int(answer[at : answer.index(b",", at)]))
            else:
                refused += 1
            answers[client] = b""
            if started < count:
                sent_at[client] = time.monotonic()
                client.sendall(request)
                started += 1
    for client in answers:
        client.close()
    return {"ids": ids, "latencies_s": latencies_s, "refused": refused, "cpu_s": time.process_time()}


if __name__ == "__main__":
    print(json.dumps(_run(*json.load(sys.stdin))))
