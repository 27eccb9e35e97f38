"""A way to a service that cuts its connections in the middle of what is answered."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self
from urllib.parse import urlsplit


class CuttingProxy:
    """Passes bytes on, and cuts the first ``cuts`` connections that have answered ``after_bytes``."""

    def __init__(self, url: str, *, cuts: int, after_bytes: int) -> None:
        self._port = urlsplit(url).port
        self._cuts_left = cuts
        self._after_bytes = after_bytes
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []
        self.cut = 0  # how many have been cut
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return  # it was closed
            server = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [client, server]
            for pump in (lambda c=client, s=server: self._up(c, s), lambda c=client, s=server: self._down(c, s)):
                thread = threading.Thread(target=pump)
                self._threads.append(thread)
                thread.start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                server.sendall(piece)
        _end(client, server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        answered = 0
        with contextlib.suppress(OSError):
            while piece := server.recv(4096):
                answered += len(piece)
                if answered > self._after_bytes and self._may_cut():
                    break
                client.sendall(piece)
        _end(client, server)

    def _may_cut(self) -> bool:
        with self._lock:
            if not self._cuts_left:
                return False
            self._cuts_left -= 1
            self.cut += 1
            return True

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join()
        _end(*self._sockets)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):  # the other side was quicker
            one.shutdown(socket.SHUT_RDWR)
