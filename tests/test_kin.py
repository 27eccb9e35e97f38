"""What the supervisor takes for an orphan among the children of init, when workers died that it had adopted."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import story
from protocol.config import boot_id
from protocol.places import Places
from supervisor.fallen import Fallen
from supervisor.kin import BEGINNING_S, EMPTY_AGAIN_S, EMPTYING_S, Kin
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
    kin = Kin(places, own_pids=_ours(), init_pid=init.pid, postgres_argv=None, clock=lambda: now)
    dead = [_dead(adopted=True)]

    assert kin.kill_orphans(dead, api_pid=None)
    eventually(lambda: not is_alive(orphan))
    assert kin.kill_orphans(dead, api_pid=None)
    assert is_alive(spare)

    now += BEGINNING_S
    assert kin.kill_orphans(dead, api_pid=None)
    eventually(lambda: not is_alive(spare))
    assert not kin.kill_orphans(dead, api_pid=None)


def test_who_comes_to_us_with_the_forkers_death_is_no_orphan(places: Places) -> None:
    """Its workers are at work, and their parent from then on is the supervisor, which may be clearing up just then."""
    others = _ours()
    forker = subprocess.Popen(["bash", "-c", "sleep 1000 & sleep 1000"])
    eventually(lambda: [title(pid) for pid in children(forker.pid)] == ["sleep", "sleep"])
    workers = children(forker.pid)
    kin = Kin(places, own_pids=others | {forker.pid}, init_pid=1, postgres_argv=None)
    os.kill(forker.pid, signal.SIGKILL)
    eventually(lambda: set(workers) <= set(children(os.getpid())))

    with pytest.raises(ChildProcessError, match=f"process {forker.pid} has ended"):
        kin.kill_orphans([_dead(adopted=False)], api_pid=None)

    assert all(is_alive(pid) for pid in workers)
    assert Kin(places, own_pids=others, init_pid=1, postgres_argv=None).kill_orphans(
        [_dead(adopted=False)], api_pid=None
    )
    eventually(lambda: not any(is_alive(pid) for pid in workers))
    forker.wait()


def test_a_group_that_the_kernel_does_not_let_go_of_yet_is_removed_later(places: Places, tmp_path: Path) -> None:
    """After the last process has ended it may take a moment until its directory can be removed."""
    busy = tmp_path / "groups" / "7"
    (busy / "somebody").mkdir(parents=True)
    (busy / "somebody" / "is in it").touch()
    now = 100.0
    kin = Kin(places, own_pids=set(), init_pid=1, postgres_argv=None, groups=str(busy.parent), clock=lambda: now)
    kin.tidy(7)
    kin.remove_groups()
    assert busy.exists()
    assert kin.due() == now + EMPTY_AGAIN_S

    (busy / "somebody" / "is in it").unlink()
    kin.remove_groups()

    assert not busy.exists()
    assert kin.due() is None


def test_a_group_that_somebody_stays_in_is_given_up(places: Places, tmp_path: Path) -> None:
    """Nobody looks for ever: the next start of Bashd tries again."""
    busy = tmp_path / "7"
    busy.mkdir()
    (busy / "somebody is in it").touch()
    now = 100.0
    kin = Kin(places, own_pids=set(), init_pid=1, postgres_argv=None, groups=str(tmp_path), clock=lambda: now)
    kin.tidy(7)

    now += EMPTYING_S + 1
    kin.remove_groups()

    assert kin.due() is None


def _ours() -> set[int]:
    """Services that other tests share, and what stands for init."""
    return {pid for pid in children(os.getpid()) if is_alive(pid)}


def _dead(*, adopted: bool) -> Fallen:
    facts = story.Story()
    facts.worker = {"pid": 1 << 23, "start_time": 1, "boot_id": boot_id()}
    return Fallen(1, facts, adopted=adopted, host_died=False, status=None)
