"""A way to a PostgreSQL server that breaks at COMMITs, so that a client cannot know whether they took place.

Knows as much of the protocol as that needs: https://www.postgresql.org/docs/current/protocol-message-formats.html.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Self

from tests.processes import eventually

_PROTOCOL_3 = 196608
_READY = b"Z\0\0\0\x05"  # ReadyForQuery; one byte about the transaction follows
_IN_A_REQUEST = (b"P", b"B", b"D", b"E", b"C")  # Parse, Bind, Describe, Execute, Close: a Sync follows
_WRITES = ("insert", "update", "delete", "with progress", "with added")


class Cut(Enum):
    """When a connection is cut; in the eyes of the client all three are the same."""

    BEFORE = "the server has not heard of the COMMIT"
    PASSED_ON = "the server has heard of it"
    ANSWERED = "the server has carried it out, and its answer is not passed on"


class Proxy:
    """Listens on a port of its own for as long as the ``with`` takes.

    ``cut`` is asked at each COMMIT, also of a statement that is a transaction of its own, with what it commits (the
    first words of the last writing statement), and says when to cut the connection, if at all. Set it at any time.
    """

    def __init__(self, server: Path) -> None:
        """``server`` is the socket that the server listens on."""
        self.cut: Callable[[str], Cut | None] = lambda _what: None
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._accepting = threading.Thread(target=self._accept)

    def through(self, url: str) -> str:
        """The address, over this way, of a database that ``url`` names at the server itself."""
        database = url.partition("@/")[2].partition("?")[0]
        user = url.partition("//")[2].partition("@")[0]
        port = self._listening.getsockname()[1]
        return f"postgresql://{user}@127.0.0.1:{port}/{database}?sslmode=disable&gssencmode=disable"

    def ask(self, what: str) -> Cut | None:
        """One at a time, so that ``cut`` needs no lock."""
        with self._lock:
            return self.cut(what)

    def cut_all(self) -> None:
        """Cut every connection that there is now, as a network that fails."""
        with self._lock:
            connections = list(self._connections)
        for one in connections:
            one.end()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return  # it was closed
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._server))
            except OSError:
                client.close()
                server.close()
                continue
            with self._lock:
                self._connections = [one for one in self._connections if one.alive]
                self._connections.append(_Connection(self, client, server))

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join()
        self.cut_all()
        eventually(lambda: not any(one.alive for one in self._connections))


class _Connection:
    """Both directions of one connection, a thread for each."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._swallow = threading.Event()  # answers are not passed on any more
        self._statements: dict[bytes, str] = {}  # prepared ones, by name
        self._statement = ""  # the one that is about to be carried out
        self._in_transaction = False
        self._wrote = ""  # the last writing statement
        self._threads = [threading.Thread(target=self._run, args=[one]) for one in (self._up, self._down)]
        for thread in reversed(self._threads):  # the first waits for the second
            thread.start()

    @property
    def alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        """Cut both sides."""
        for side in (self._client, self._server):
            with contextlib.suppress(OSError):  # it has been cut already
                side.shutdown(socket.SHUT_RDWR)

    def _run(self, pump: Callable[[], None]) -> None:
        try:
            pump()
        except OSError:
            pass  # one of the two is gone, so the other one has to go
        self.end()
        if threading.current_thread() is self._threads[0]:
            self._threads[1].join()
            self._client.close()
            self._server.close()

    def _up(self) -> None:
        """What the client sends, one request at a time: as far as the next Sync, Query, or whatever stands alone."""
        with self._client.makefile("rb") as stream:
            request = b""
            started = False
            while True:
                kind = stream.read(1) if started else b""
                head = stream.read(4)
                if len(head) < 4:
                    return
                (length,) = struct.unpack("!I", head)
                body = stream.read(length - 4)
                request += kind + head + body
                started = started or struct.unpack("!I", body[:4])[0] == _PROTOCOL_3
                self._note(kind, body)
                if kind not in _IN_A_REQUEST:
                    if not self._pass_on(request):
                        return
                    request = b""

    def _note(self, kind: bytes, body: bytes) -> None:
        """Learn from Parse, Bind or Query which statement is about to be carried out."""
        if kind == b"P":
            name, sql, _ = body.split(b"\0", 2)
            self._statements[name] = " ".join(sql.decode().split()[:4])
        elif kind == b"B":
            self._statement = self._statements[body.split(b"\0", 2)[1]]
        elif kind == b"Q":
            self._statement = " ".join(body.rstrip(b"\0").decode().split()[:4])

    def _pass_on(self, request: bytes) -> bool:
        """Pass a whole request on, if it is to be; false when the connection was cut."""
        cut = self._proxy.ask(self._wrote) if self._commits() else None
        self._statement = ""
        if cut is Cut.BEFORE:
            return False
        if cut is not None:
            self._swallow.set()
        self._server.sendall(request)
        if cut is Cut.ANSWERED:
            self._threads[1].join()  # it returns when the answer is whole
        return cut is None

    def _commits(self) -> bool:
        words = self._statement.lower()
        if words.startswith(_WRITES):
            self._wrote = self._statement
            return not self._in_transaction
        if words.startswith("begin"):
            self._in_transaction = True
        elif words.startswith(("commit", "rollback")):
            self._in_transaction = False
            return words.startswith("commit")
        return False

    def _down(self) -> None:
        """What the server answers."""
        swallowed = b""
        while chunk := self._server.recv(65536):
            if not self._swallow.is_set():
                self._client.sendall(chunk)
                continue
            swallowed += chunk
            if swallowed[-6:-1] == _READY:
                return
