"""As PID 1 Bashd is killed with all that is in the namespace, begins again among the same pids, and reaps for all."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.first_process import ENTRYPOINT, FirstProcess, is_permitted
from tests.processes import descendants, eventually, marked, process

pytestmark = pytest.mark.skipif(not is_permitted(), reason="unshare --pid is not permitted here")


def test_killed_and_started_again_among_the_same_pids_it_adopts_nobody(place: Path, mark: str) -> None:
    """Same machine, same low pids, other processes: what ran is lost, and who has its pid now is left alone."""
    with FirstProcess(place / "again", command=ENTRYPOINT) as service:
        service.start()
        # So that no process of Bashd itself has come to the pid of the dead when the next life is asked for scripts.
        service.done("for i in $(seq 200); do (:); done")
        old = service.started(service.run(f"echo ready; sleep {mark} & wait"))
        service.says(old, b"ready\n")
        service.tell(signal.SIGKILL)
        service.wait()
        eventually(lambda: marked(mark) == [])

        service.start()
        lost = service.ended(old)
        # A namespace gives its pids in turn, so one of these has that of the dead.
        crowd = service.run(
            f'for i in $(seq 400); do sleep {mark} & pids+=" $! "; done; [[ $pids == *" $1 "* ]] && echo reused; wait',
            args=[str(old.pid)],
        )
        service.says(crowd, b"reused\n")
        stopped = service.stop(old)

        assert (lost.status, lost.reason) == ("lost", "host_died")
        assert service.output(lost) == b"ready\n"
        assert (stopped.status, stopped.ended_at) == ("lost", lost.ended_at)
        assert len(marked(mark)) == 400
        service.stop(crowd)
        assert service.ended(crowd).swept["group"] == 400


def test_a_thousand_orphans_leave_no_zombie(place: Path, mark: str) -> None:
    """From below a script they come to its worker, from outside (``docker exec``) to PID 1; both reap."""
    with FirstProcess(place / "orphans", command=ENTRYPOINT) as service:
        service.start()
        first = service.bashd_pid()
        orphans = "for i in $(seq 1000); do (setsid true &); done; echo made"
        command = service.run(f"{orphans}; sleep {mark}")
        service.says(command, b"made\n")
        made = subprocess.run(
            ["nsenter", "--pid", "--target", str(first), "bash", "-c", orphans], capture_output=True, check=True
        )

        assert made.stdout == b"made\n"
        eventually(lambda: [pid for pid in descendants(first) if (one := process(pid)) and one.state == "Z"] == [])
        service.stop(command)
        assert service.terminate(within_s=10) == 0
