"""The first process of a pid namespace, in which every pid can be given again at will: run by test_identity.py.

``python -m tests.pid_reuse SCENE STATE_DIR DATABASE_URL`` prints nothing and ends with 0 when the scene went well.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.processes import Command, Service, eventually, kill, marked, process, processes, reap_orphans, unique_seconds

MARK = unique_seconds()
SCRIPT = f"trap '' TERM; setsid sleep {MARK} & sleep {MARK} & echo ready; while :; do sleep {MARK}; done"


def innocent_as(pid: int) -> int:
    """A process of somebody else with this pid, which leads a session and a group of the same number."""

    def with_this_pid() -> bool:
        reap_orphans()
        # The next pid that is free after this one (proc_sys_kernel(5), ns_last_pid).
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        child = os.fork()
        if child == 0:
            os.setsid()
            os.execv("/bin/sleep", ["sleep", unique_seconds()])
        if child != pid:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return child == pid

    eventually(with_this_pid)
    eventually(lambda: _command(pid) == b"sleep")
    return pid


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


def everything_dead(service: Service) -> list[int]:
    """Bashd, worker and script are killed; the pids of worker and bash are given again; Bashd starts."""
    command = running(service)
    service.kill_init()
    kill_all(command)
    innocents = [innocent_as(command.worker_pid), innocent_as(command.pid)]
    service.start()
    lost(service, command)
    return innocents


def behind_the_back_of_the_supervisor(service: Service) -> list[int]:
    """The same while the supervisor, which has adopted the worker, is held up: it sees that, and a stop, too late."""
    command, supervisor = adopted(service)
    os.kill(supervisor, signal.SIGSTOP)
    kill_all(command)
    innocents = [innocent_as(command.worker_pid), innocent_as(command.pid)]
    answer = service.http.post(f"/v1/commands/{command.id}/stop")
    assert answer.status_code == 503, answer.text
    os.kill(supervisor, signal.SIGCONT)
    lost(service, command)
    return innocents


def of_what_was_left(service: Service) -> list[int]:
    """What a final command had left dies with its worker while Bashd is away; the next one has others to clear up."""
    command = service.done(f"sleep {MARK} & echo ready", leftovers="leave")
    (left,) = eventually(lambda: marked(MARK))
    service.kill_init()
    kill_all(command)
    eventually(lambda: process(left) is None)
    innocents = [innocent_as(command.worker_pid), innocent_as(left), innocent_as(command.pid)]
    service.start()
    other, _ = adopted(service)
    kill(other.worker_pid)
    lost(service, other)
    return innocents


def shown_to_nobody(service: Service) -> list[int]:
    """A supervisor that is held up has not noticed that worker and bash died: others with their pids are not shown."""
    command, supervisor = adopted(service)
    assert command.worker_pid in _parents(service, command)
    os.kill(supervisor, signal.SIGSTOP)
    kill_all(command)
    innocents = [innocent_as(command.worker_pid), innocent_as(command.pid)]
    assert service.get(command).status == "running"
    assert _parents(service, command) == set()
    os.kill(supervisor, signal.SIGCONT)
    lost(service, command)
    return innocents


def _parents(service: Service, command: Command) -> set[int]:
    answer = service.http.get(f"/v1/commands/{command.id}/processes")
    assert answer.status_code == 200, answer.text
    return {one["ppid"] for one in answer.json()["processes"]}


def adopted(service: Service) -> tuple[Command, int]:
    """A running command, and the supervisor that has adopted its worker from the one that forked it."""
    command = running(service)
    first = service.pid("bashd: supervisor")
    kill(first)
    eventually(lambda: service.pids("bashd: supervisor") not in ([], [first]))
    eventually(service.is_ready)
    return command, service.pid("bashd: supervisor")


def running(service: Service) -> Command:
    command = service.run(SCRIPT, timeout_s=None)
    service.says(command, b"ready")
    return service.started(command)


def kill_all(command: Command) -> None:
    """The worker and its session, until both pids are free: the kernel gives no number of a living group or session.

    What left the session lives on.
    """

    def gone() -> bool:
        for one in processes():
            if one.sid == command.worker_pid:
                kill(one.pid)
        reap_orphans()
        return process(command.worker_pid) is None and process(command.pid) is None

    eventually(gone)


def lost(service: Service, command: Command) -> None:
    ended = service.ended(command)
    assert (ended.status, ended.reason) == ("lost", "worker_died"), ended
    assert service.output(ended) == b"ready\n"


def main() -> int:
    scene, state_dir, database_url = sys.argv[1:]
    with Service(Path(state_dir), database_url=database_url).start() as service:
        innocents = globals()[scene](service)
        eventually(lambda: not marked(MARK))
        assert service.terminate() == 0
        for pid in innocents:
            assert _command(pid) == b"sleep", "an innocent process is gone"
            kill(pid)
            os.waitpid(pid, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
