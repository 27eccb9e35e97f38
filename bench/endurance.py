"""``python -m bench.endurance``: ten minutes at 80 % of full load, with random stops: errors, memory, descriptors."""

from __future__ import annotations

import http.client
import json
import os
import random
import sys
import threading
import time
from dataclasses import dataclass, field

from bench import report, throughput
from bench.family import Family, resident_bytes
from bench.place import started
from tests.processes import TOKEN, Service, children, eventually

MIB = 1024 * 1024
SHARE = 0.8  # of the throughput that is measured first
STOPPED = 0.05  # of the commands would run on, and are stopped
STOPPED_AFTER_S = (0.0, 2.0)
CLIENTS = 16
SHORT = json.dumps({"script": "echo hi"}).encode()
LONG = json.dumps({"script": "sleep 1000 & setsid sleep 1000 & wait", "grace_s": 1}).encode()
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
SAMPLE_EVERY_S = 5.0


@dataclass
class Client:
    """One that hands in commands at its own pace, whatever the answers take, and stops some of them."""

    address: tuple[str, int]
    every_s: float
    until: float  # monotonic
    chance: random.Random
    handed_in: int = 0
    stopped: int = 0
    behind_s: float = 0.0  # at most, of its pace
    errors: list[str] = field(default_factory=list)
    _to_stop: list[tuple[float, int]] = field(default_factory=list)

    def run(self) -> None:
        """Until the time is over."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        next_at = time.monotonic() + self.chance.uniform(0, self.every_s)
        while (now := time.monotonic()) < self.until:
            if now < next_at:
                time.sleep(next_at - now)  # the pace
            self.behind_s = max(self.behind_s, now - next_at)
            next_at += self.every_s
            long = self.chance.random() < STOPPED
            command_id = self._ask(connection, "/v1/commands", LONG if long else SHORT, 201)
            self.handed_in += 1
            if long and command_id is not None:
                self._to_stop.append((time.monotonic() + self.chance.uniform(*STOPPED_AFTER_S), command_id))
            self._stop(connection, before=time.monotonic())
        self._stop(connection, before=float("inf"))
        connection.close()

    def _stop(self, connection: http.client.HTTPConnection, *, before: float) -> None:
        due = [one for one in self._to_stop if one[0] <= before]
        self._to_stop = [one for one in self._to_stop if one[0] > before]
        for _, command_id in due:
            self._ask(connection, f"/v1/commands/{command_id}/stop", b"", 200)
            self.stopped += 1

    def _ask(self, connection: http.client.HTTPConnection, path: str, body: bytes, expected: int) -> int | None:
        try:
            connection.request("POST", path, body, HEADERS)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.errors.append(f"{path}: {error!r}")
            connection.close()
            return None
        if answer.status != expected:
            self.errors.append(f"{path}: {answer.status} {text[:200]!r}")
            return None
        return int(json.loads(text)["id"])


@dataclass(frozen=True)
class Sample:
    """What one process holds at one moment."""

    mib: float  # resident
    fds: int


def main() -> int:
    """Measure, print one table; exit status 1 when anything was not as it should be."""
    parser = report.parser("endurance", __doc__)
    parser.add_argument("--minutes", type=float, help="(10; with --quick 0.2)")
    arguments = parser.parse_args()
    minutes = arguments.minutes or (0.2 if arguments.quick else 10)
    with started(keep_commands=20_000) as service:
        throughput.measure(service, clients=4, count=100)  # warm
        count = 100 if arguments.quick else 2000
        full, _ = throughput.measure(service, clients=CLIENTS, count=count)
        began_at = service.newest_id()
        clients, samples = _load(service, rate=full * SHARE, seconds=minutes * 60)
        troubles = [error for client in clients for error in client.errors] + _troubles(service, clients, began_at)
        behind_s = max(client.behind_s for client in clients)
        report_ = _report(minutes, full, clients, samples, behind_s, troubles)
    report_.finish(arguments)
    print("\n".join(troubles[:20]), file=sys.stderr)
    return 1 if troubles else 0


def _load(service: Service, *, rate: float, seconds: float) -> tuple[list[Client], list[dict[str, Sample]]]:
    host, _, port = service.url.removeprefix("http://").partition(":")
    until = time.monotonic() + seconds
    clients = [Client((host, int(port)), CLIENTS / rate, until, random.Random(number)) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    samples = []
    while any(thread.is_alive() for thread in threads):
        samples.append(_sample(service))
        time.sleep(min(SAMPLE_EVERY_S, seconds / 20))
    for thread in threads:
        thread.join()
    return clients, samples


def _sample(service: Service) -> dict[str, Sample]:
    family = Family.of(service)
    found = {
        name: Sample(resident_bytes(pid) / MIB, len(os.listdir(f"/proc/{pid}/fd")))
        for name, pid in family.named().items()
    }
    backends = [family.postmaster, *children(family.postmaster)]
    found["postgres"] = Sample(len(backends), sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in backends))
    return found


def _troubles(service: Service, clients: list[Client], began_at: int) -> list[str]:
    """What is not as it should be when the load is over."""
    troubles = []
    try:
        eventually(lambda: not any(_counts(service)[one] for one in ("queued", "running")), within_s=120)
    except AssertionError:
        troubles.append(f"not all have ended: {_counts(service)}")
    eventually(lambda: not list((service.state_dir / "journals").iterdir()), within_s=60)
    handed_in = sum(client.handed_in for client in clients)
    if service.newest_id() - began_at < handed_in:
        troubles.append(f"{handed_in} were handed in, {service.newest_id() - began_at} ids given")
    counts = _counts(service)
    wrong = {name: counts[name] for name in ("failed", "lost") if counts[name]}
    if wrong:
        troubles.append(f"ended otherwise than they should: {wrong}")
    return troubles


def _counts(service: Service) -> dict[str, int]:
    answer = service.http.get("/v1/counts").raise_for_status().json()
    return dict(answer.get("counts", answer))


def _report(
    minutes: float,
    full: float,
    clients: list[Client],
    samples: list[dict[str, Sample]],
    behind_s: float,
    troubles: list[str],
) -> report.Report:
    quarter = max(1, len(samples) // 4)
    first, last = samples[quarter : 2 * quarter], samples[-quarter:]
    rows = []
    figures = {}
    for name in samples[0]:
        mib = [report.span([one[name].mib for one in part]) for part in (first, last)]
        fds = [report.span([float(one[name].fds) for one in part]) for part in (first, last)]
        # Of PostgreSQL's processes much memory is shared: it is their number that is told.
        memory = [f"{one[0]:.0f}" + (" processes" if name == "postgres" else " MiB") for one in mib]
        rows.append([name, *memory, *(f"{one[0]:.0f} ({one[1]:.0f}–{one[2]:.0f})" for one in fds)])
        figures[name] = {"mib": mib, "fds": fds}
    handed_in, stopped = (sum(getattr(one, what) for one in clients) for what in ("handed_in", "stopped"))
    rate = handed_in / minutes / 60
    return report.Report(
        bench="endurance",
        note=f"{minutes:g} minutes, {rate:,.0f} commands a second, which is {rate / full:.2f} of the {full:,.0f} that "
        f"were measured before; {handed_in:,} commands, {stopped:,} of them stopped at random with what escaped them; "
        f"{len(troubles)} errors; the slowest client was at most {behind_s:.1f} s behind its pace; second quarter of "
        "the time against the last",
        header=["process", "memory then", "memory at last", "descriptors then", "descriptors at last"],
        rows=rows,
        figures={"rate": rate, "full": full, "handed_in": handed_in, "errors": len(troubles), "processes": figures},
    )


if __name__ == "__main__":
    sys.exit(main())
