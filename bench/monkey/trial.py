"""One trial: a service, clients, havoc, and the judgement afterwards."""

from __future__ import annotations

import os
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.monkey.checker import Checker
from bench.monkey.clients import Clients, connect
from bench.monkey.havoc import Havoc
from tests.processes import TOKEN, Service, children, descendants, eventually, reap_orphans, title


@dataclass
class Report:
    """What happened, and what should not have."""

    seed: int
    blows: Counter[str]  # kind → how often
    outcomes: Counter[str]  # what the client was told, status/reason → how many
    violations: list[str]

    def table(self) -> str:
        """Both counts, readable."""
        lines = [f"seed {self.seed}", "", "what happened to Bashd"]
        lines += [f"{count:7}  {name}" for name, count in sorted(self.blows.items())]
        lines += ["", "what became of the scripts"]
        lines += [f"{count:7}  {name}" for name, count in sorted(self.outcomes.items())]
        lines += [f"{sum(self.outcomes.values()):7}  in all", "", f"violations: {len(self.violations)}"]
        return "\n".join([*lines, *self.violations])


def run(place: Path, *, seed: int, seconds: float, clients: int = 12) -> Report:
    """Run one trial in ``place``, an empty directory that every user can reach.

    The calling process must be a subreaper, for what a killed Bashd leaves comes to it.
    """
    others = set(children(os.getpid()))
    private = place / "private"
    private.mkdir()
    port = _free_port()
    service = Service(place / "state", port=port, on_shutdown="leave", max_running=64)
    crowd = Clients(f"http://127.0.0.1:{port}", TOKEN, private, seed=seed, count=clients)
    try:
        service.start(within_s=120)
        havoc = Havoc(service, place / "diary", seed=seed)
        crowd.start()
        try:
            havoc.rage(seconds)
        finally:
            crowd.finish()
        troubles = crowd.troubles + havoc.troubles
        eventually(service.is_ready, within_s=60)
        # Once more through a start, so that nothing comes from a process that has seen it happen.
        service.terminate(within_s=60)
        service.start(within_s=60)
        crowd.stop_the_unanswered()
        try:
            eventually(lambda: _all_final(service), within_s=60)
        except AssertionError:
            troubles.append("not every command comes to an end")
        with connect(service.url, TOKEN) as http:
            checker = Checker(http, hurt=havoc.hurt)
            checker.check(crowd.submissions)
        if service.terminate(within_s=60) != 0:
            troubles.append("the last shutdown did not end with 0")
        troubles += _left_behind(service, others)
        return Report(seed, havoc.counts, checker.outcomes, troubles + checker.violations)
    finally:
        service.close()


def _all_final(service: Service) -> bool:
    return not service.page(status="running") and not service.page(status="queued")


def _left_behind(service: Service, others: set[int]) -> list[str]:
    """What is still there, beside those that were there before us. Orphans have come to us by now."""
    reap_orphans()
    ours = set(children(os.getpid())) - others
    left = [f"process {pid} is left: {title(pid)}" for one in ours for pid in (one, *descendants(one))]
    for name in ("journals", "controls", "left", "work"):
        left += [f"{name}/{one} is left" for one in os.listdir(service.state_dir / name)]
    return left


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
