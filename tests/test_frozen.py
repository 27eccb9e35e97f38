"""What no signal ends: processes in uninterruptible sleep, on a file system that is frozen."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.processes import eventually, kill, process

MEGABYTE = 1024 * 1024
THAW_AFTER_S = 90.0  # whatever becomes of the test: nobody may sleep for ever


class Ice:
    """A file system that can be frozen: who writes there then sleeps until it thaws."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._watchdog: threading.Timer | None = None

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "--freeze", self.path], check=True)
        self._watchdog = threading.Timer(THAW_AFTER_S, self.thaw)
        self._watchdog.start()

    def thaw(self) -> None:
        """Twice is safe."""
        subprocess.run(["fsfreeze", "--unfreeze", self.path], check=False, capture_output=True)
        if self._watchdog is not None:
            self._watchdog.cancel()


@pytest.fixture
def ice(place: Path) -> Iterator[Ice]:
    """A small ext4 of the test's own, thawed and unmounted afterwards."""
    if os.getuid() != 0 or shutil.which("mkfs.ext4") is None or shutil.which("fsfreeze") is None:
        pytest.skip("freezing a file system takes root, mkfs.ext4 and fsfreeze")
    image, path = place / "ice.image", place / "ice"
    with image.open("wb") as file:
        file.truncate(16 * MEGABYTE)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    path.mkdir()
    mounted = subprocess.run(["mount", "-o", "loop", image, path], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no loop mounts here: {mounted.stderr.strip()}")
    path.chmod(0o777)
    ice = Ice(path)
    try:
        yield ice
    finally:
        ice.thaw()
        eventually(lambda: subprocess.run(["umount", path], capture_output=True, check=False).returncode == 0)
        path.rmdir()
        image.unlink()


def _sleeps_for_good(pid: int) -> bool:
    one = process(pid)
    return one is not None and one.state == "D"


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_who_cannot_be_killed_is_named_and_never_called_stopped(own_service: StartService, ice: Ice) -> None:
    """The command stays running and says who keeps it; it ends truly after the thaw, and others do not notice."""
    service = own_service().start()
    ice.freeze()
    command = service.started(service.run(f"echo $$; exec touch {ice.path}/file", grace_s=0.2))
    eventually(lambda: _sleeps_for_good(command.pid))

    service.stop(command)
    told = eventually(lambda: service.get(command).evidence, within_s=40)

    assert [one["pid"] for one in told["processes"]] == [command.pid]
    assert told["count"] == 1
    assert service.get(command).status == "running"
    assert service.done("echo others").status == "succeeded"
    worker, before = command.worker_pid, _cpu_ticks(command.worker_pid)
    service.done("sleep 2")
    assert _cpu_ticks(worker) - before <= 5, "it waits without a busy loop"
    ice.thaw()
    ended = service.ended(command)
    assert (ended.status, ended.reason) == ("stopped", "client")
    assert ended.signal in (signal.SIGTERM, signal.SIGKILL)  # it has both to take
    assert ended.evidence is None


def test_what_a_dead_worker_left_unkillable_holds_up_its_own_command_alone(own_service: StartService, ice: Ice) -> None:
    """It is named by the supervisor, which goes on concluding for other workers that died."""
    service = own_service().start()
    ice.freeze()
    stuck = service.started(service.run(f"setsid touch {ice.path}/file & echo ready; wait"))
    other = service.started(service.run("sleep 1000"))
    service.says(stuck, b"ready\n")
    (sleeper,) = eventually(
        lambda: [int(name) for name in os.listdir("/proc") if name.isdigit() and _touches(int(name), ice.path)]
    )
    eventually(lambda: _sleeps_for_good(sleeper))

    kill(stuck.worker_pid)
    told = eventually(lambda: service.get(stuck).evidence, within_s=40)
    assert [one["pid"] for one in told["processes"]] == [sleeper]
    assert service.get(stuck).status == "running"
    kill(other.worker_pid)
    assert service.ended(other).reason == "worker_died"
    assert service.get(stuck).status == "running"

    ice.thaw()
    ended = service.ended(stuck)
    assert (ended.status, ended.reason) == ("lost", "worker_died")


def _touches(pid: int, path: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b"touch\0%s/file\0" % os.fsencode(path)
    except OSError:
        return False
