"""What Bashd's processes cost: processor time and memory, as the kernel counts them (proc_pid_stat(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.processes import Service, arguments, children, process, title

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> tuple[float, float]:
    """Seconds of processor time of the process itself, and of its children that were waited for.

    Nothing for one that is gone: then it is among the children of its parent.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0
    own, waited = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
    return own / _TICKS_PER_S, waited / _TICKS_PER_S


def tree_cpu_s(root: int) -> float:
    """Seconds so far of a process and all below it; of those that ended, if somebody among them waited for them."""
    return sum(sum(cpu_s(pid)) for pid in _tree(root))


def _tree(root: int) -> list[int]:
    """A process and all below it, also the dead whom nobody has waited for: what they cost is told by them alone."""
    by_parent: dict[int, list[int]] = {}
    for one in filter(None, (process(int(name)) for name in os.listdir("/proc") if name.isdigit())):
        by_parent.setdefault(one.ppid, []).append(one.pid)
    found = [root]
    for pid in found:
        found += by_parent.get(pid, [])
    return found


def private_bytes(pid: int) -> int:
    """Memory that would be free if the process ended."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total


def resident_bytes(pid: int) -> int:
    """Memory that is resident, shared or not."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Family:
    """The processes of one running service."""

    init: int
    supervisor: int
    forker: int
    api: int
    postmaster: int

    @classmethod
    def of(cls, service: Service) -> Family:
        """Find them."""
        assert service.init is not None
        return cls(
            init=service.init.pid,
            supervisor=service.pid("bashd: supervisor"),
            forker=service.pid("bashd: forker"),
            api=service.pid("bashd: api"),
            postmaster=service.postmaster(),
        )

    def named(self) -> dict[str, int]:
        """Those of Bashd itself."""
        return {"init": self.init, "supervisor": self.supervisor, "forker": self.forker, "api": self.api}

    def cpu_s(self) -> dict[str, float]:
        """Seconds so far, by part. ``workers``: spare ones too, and whatever they started and saw the end of."""
        found = {name: cpu_s(pid)[0] for name, pid in self.named().items()}
        found["workers"] = tree_cpu_s(self.forker) - found["forker"]
        found["postgres"] = tree_cpu_s(self.postmaster)
        return found


def workers(service: Service) -> list[int]:
    """The workers at work."""
    return [pid for pid in children(service.pid("bashd: forker")) if title(pid).startswith("bashd: worker")]


def sleeps(pid: int) -> int:
    """How often its threads have gone to sleep by themselves so far: as often as it woke up (proc_pid_status(5))."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in statuses)


def socket_directory(service: Service) -> str:
    """Where the embedded PostgreSQL listens."""
    [setting] = [one for one in arguments(service.postmaster()) if one.startswith("unix_socket_directories=")]
    return setting.partition("=")[2].strip('"')
