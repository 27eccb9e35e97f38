"""What no signal ends: processes that wait for a disk that does not answer. Bashd says so, and waits for the truth.

The disk is real, an ext4 in a file, frozen with fsfreeze(8): who writes to it then is in uninterruptible sleep.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.processes import Command, Service, eventually, is_alive, kill, marked, process, started_here, title

MEGABYTE = 1024 * 1024
WATCHDOG_S = 150  # then the disk is thawed, whatever became of the test and of its process
UNKILLABLE_WITHIN_S = 45.0  # said after 10 s of killing

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a disk and freeze it")

# Where the writing takes place, and how many are stuck. $1: a file on the disk.
WRITERS = {
    "bash itself": "echo writes; echo frozen > $1",
    "a child in its group": "echo writes; dd if=/dev/zero of=$1 count=1 2>&1",
    "a child that escaped": "setsid dd if=/dev/zero of=$1 count=1 & echo writes; wait",
}


class Disk:
    """A disk of the test's own that can be frozen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Until the end of the block, or ``thaw``, nobody can write to it: who tries is in state D."""
        # Not a process of pytest: it works though that is killed. Its session is its own, so Ctrl-C does not end it.
        with subprocess.Popen(
            ["sh", "-c", 'sleep "$1"; exec fsfreeze -u "$0"', self.path, str(WATCHDOG_S)], start_new_session=True
        ) as watchdog:
            started_here.add(watchdog.pid)
            try:
                subprocess.run(["fsfreeze", "-f", self.path], check=True)
                yield
            finally:
                self.thaw()
                os.killpg(watchdog.pid, signal.SIGKILL)
                watchdog.wait()
                started_here.discard(watchdog.pid)

    def thaw(self) -> None:
        """Let everybody go on. Twice is safe."""
        subprocess.run(["fsfreeze", "-u", self.path], check=False, capture_output=True)


@pytest.fixture
def disk(place: Path, mark: str) -> Iterator[Disk]:
    """An ext4 in a file, mounted; everybody may write to it. Unmounted whatever happens."""
    for program in ("mkfs.ext4", "losetup", "fsfreeze"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    top = place / f"disk-{mark}"
    path, image = top / "mounted", top / "image"
    path.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(16 * MEGABYTE)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, path], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no loop device can be had here: {mounted.stderr.strip()}")
    disk = Disk(path)
    try:
        path.chmod(0o777)
        yield disk
    finally:
        disk.thaw()
        subprocess.run(["umount", "-l", path], check=True)
        shutil.rmtree(top)


def _stuck(worker_pid: int) -> list[int]:
    """Who below this worker is in uninterruptible sleep for good: seen so twice."""
    found = [set(_in_state_d(worker_pid)) for _ in range(5)]
    return sorted(set.intersection(*found))


def _in_state_d(worker_pid: int) -> list[int]:
    """The worker leads the session of its bash; who left that is the worker's child or grandchild still."""
    below, waiting = [], [worker_pid]
    while waiting:
        parent = waiting.pop()
        try:
            children = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        except FileNotFoundError:
            continue
        below += children
        waiting += children
    return [pid for pid in below if (one := process(pid)) is not None and one.state == "D"]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _writing(service: Service, disk: Disk, script: str, **fields: object) -> tuple[Command, list[int]]:
    """A command that is stuck in its writing, and who of it is."""
    command = service.started(service.run(script, args=[str(disk.path / "file")], timeout_s=None, **fields))
    return command, eventually(lambda: _stuck(command.worker_pid))


def _unkillable(service: Service, command: Command) -> Command:
    """The command when it says that it cannot be killed."""

    def said() -> Command | None:
        now = service.get(command)
        assert now.status == "running", now
        return now if now.evidence else None

    return eventually(said, within_s=UNKILLABLE_WITHIN_S)


@pytest.mark.parametrize("script", WRITERS.values(), ids=WRITERS.keys())
def test_what_cannot_be_killed_is_said_and_ends_truly_after_the_thaw(service: Service, disk: Disk, script: str) -> None:
    """It stays ``running`` and names who it is and where; without a busy loop; then it is ``stopped``."""
    with disk.frozen():
        command, stuck = _writing(service, disk, script)
        service.stop(command, grace_s=0.1)

        now = _unkillable(service, command)

        assert [one["pid"] for one in now.evidence["unkillable"]] == stuck
        assert all(one["wchan"] for one in now.evidence["unkillable"])
        assert (now.status, now.reason, now.ended_at) == ("running", None, None)
        assert now.stop_requested_at is not None
        # It has been killing for ten seconds by now.
        assert _cpu_s(command.worker_pid) < 2
        assert service.http.get(f"/v1/commands/{command.id}/processes").status_code == 200
        assert service.done("echo alive").status == "succeeded"
        assert service.stop(command).status == "running"

    ended = service.ended(command)
    assert (ended.status, ended.reason, ended.evidence) == ("stopped", "client", now.evidence)
    assert not any(is_alive(pid) for pid in stuck)


def test_who_watches_is_told(service: Service, disk: Disk) -> None:
    """A ``status`` event carries the evidence, then comes the end; the list and the row have it too."""
    with disk.frozen():
        command, stuck = _writing(service, disk, WRITERS["bash itself"])
        service.stop(command, grace_s=0)

        with service.http.stream("GET", f"/v1/commands/{command.id}/events", timeout=UNKILLABLE_WITHIN_S) as events:
            lines = events.iter_lines()
            told = next(line for line in lines if '"unkillable":' in line)
            disk.thaw()
            rest = list(lines)

    assert f'"pid":{stuck[0]}' in told
    assert '"status":"running"' in told
    end = rest[rest.index("event: end") :]
    assert any('"status":"stopped"' in line and '"unkillable":' in line for line in end)


def test_a_timeout_is_a_timeout_after_the_thaw(service: Service, disk: Disk) -> None:
    """Nobody asked for a stop: it has failed, and not before it has ended."""
    with disk.frozen():
        script, file = WRITERS["a child in its group"], str(disk.path / "file")
        command = service.started(service.run(script, args=[file], timeout_s=0.5, grace_s=0.1))

        assert _unkillable(service, command).status == "running"

    assert (service.ended(command).status, service.get(command).reason) == ("failed", "timeout")


def test_bashd_ends_in_time_and_the_next_one_waits_on(own_service: StartService, disk: Disk) -> None:
    """A shutdown does not wait for it, and calls it nothing that it is not; its worker stays, and is adopted."""
    service = own_service(shutdown_timeout_s=4).start()
    with disk.frozen():
        command, _ = _writing(service, disk, WRITERS["bash itself"], grace_s=0.1)

        assert service.terminate() == 0

        assert is_alive(command.worker_pid)
        service.start()
        now = _unkillable(service, command)
        assert now.worker_pid == command.worker_pid

    ended = service.ended(command)
    assert (ended.status, ended.reason) == ("stopped", "shutdown")


def test_what_a_dead_worker_left_unkillable_is_waited_for(service: Service, disk: Disk, mark: str) -> None:
    """Its end is recorded when nobody is left, and not before; other dead workers' commands do not wait for it."""
    with disk.frozen():
        command, stuck = _writing(service, disk, WRITERS["a child that escaped"])
        kill(command.worker_pid)
        eventually(lambda: not title(command.worker_pid))
        other = service.started(service.run(f"sleep {mark}"))
        kill(other.worker_pid)

        assert service.ended(other).reason == "worker_died"
        assert marked(mark) == []
        now = _unkillable(service, command)
        assert [one["pid"] for one in now.evidence["unkillable"]] == stuck

    ended = service.ended(command)
    assert (ended.status, ended.reason) == ("lost", "worker_died")
    assert ended.evidence["unkillable"] == now.evidence["unkillable"]
    assert not any(is_alive(pid) for pid in stuck)
