"""What the supervisor takes for an orphan among the children of init, when workers died that it had adopted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from protocol import story
from protocol.config import boot_id
from protocol.places import Places
from supervisor.fallen import Fallen
from supervisor.kin import BEGINNING_S, Kin
from tests.processes import children, eventually, is_alive, title


@pytest.fixture
def places(state_dir: os.PathLike[str]) -> Places:
    """A state directory with no command in it."""
    places = Places(str(state_dir))
    for path in (places.journals, places.left):
        os.makedirs(path)
    return places


@pytest.fixture
def init() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for init: parent of one that says it is a spare worker, and of one that does not."""
    script = '(exec -a "bashd: spare" sleep 1000) & sleep 1000 & read -r; kill $!; kill %1; wait'
    process = subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE)
    eventually(lambda: sorted(title(pid) for pid in children(process.pid)) == ["bashd: spare", "sleep"])
    yield process
    process.communicate(b"\n")


def test_a_worker_that_has_not_yet_taken_its_lock_is_no_orphan(places: Places, init: subprocess.Popen[bytes]) -> None:
    """It is waited for, not killed; one that only says so is killed when a worker would have taken its lock."""
    spare, orphan = sorted(children(init.pid), key=title)
    now = 100.0
    ours = set(children(os.getpid()))  # the test's init, and services that other tests share
    kin = Kin(places, own_pids=ours, init_pid=init.pid, postgres_argv=None, clock=lambda: now)
    facts = story.Story()
    facts.worker = {"pid": 1 << 23, "start_time": 1, "boot_id": boot_id()}
    dead = [Fallen(1, facts, adopted=True, host_died=False, status=None)]

    assert kin.kill_orphans(dead, api_pid=None)
    eventually(lambda: not is_alive(orphan))
    assert kin.kill_orphans(dead, api_pid=None)
    assert is_alive(spare)

    now += BEGINNING_S
    assert kin.kill_orphans(dead, api_pid=None)
    eventually(lambda: not is_alive(spare))
    assert not kin.kill_orphans(dead, api_pid=None)
