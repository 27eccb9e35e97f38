"""Bashd as one of those that are compared: ``POST /v1/commands`` with ``{"script": "echo hi"}``."""

from __future__ import annotations

import time

from bench import throughput
from bench.family import Family
from bench.place import hand_in
from tests.processes import Service


class HandedIn:
    """Answered when it is accepted; finished when the last final row is committed."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def measure(self, *, clients: int, count: int) -> tuple[float, float]:
        """Commands a second, and milliseconds of processor time a command, PostgreSQL's too."""
        rate, parts = throughput.measure(self._service, clients=clients, count=count)
        return rate, sum(parts.values()) - parts["client"]


class WaitedFor:
    """With ``?wait=60``: answered when it has ended."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def measure(self, *, clients: int, count: int) -> tuple[float, float]:
        """Commands a second, and milliseconds of processor time a command, PostgreSQL's too."""
        family = Family.of(self._service)
        before_s = sum(family.cpu_s().values())
        done = hand_in(self._service, throughput.BODY, clients=clients, count=count, to_the_end=True)
        seconds = time.monotonic() - done.began_s
        return count / seconds, (sum(family.cpu_s().values()) - before_s) / count * 1000
