"""Control groups of commands: made, empty of everybody else, and gone afterwards; where there are none, it says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import groups
from tests.conftest import StartService
from tests.processes import REPOSITORY, Command, Service, eventually, kill, marked
from worker.group import Group

MIB = 1024 * 1024


@pytest.fixture
def unified() -> Iterator[Path]:
    """Our own cgroup of version 2, if we may make others in it; nothing of Bashd is in it afterwards."""
    found = groups.look()
    if found.directory is None:
        pytest.skip(f"no cgroup v2 to try with: {found.why_not}")
    place = Path(found.directory)
    before = set(place.iterdir())
    yield place
    eventually(lambda: set(place.iterdir()) == before)


@pytest.fixture
def grouping(unified: Path, own_service: StartService) -> Service:
    """A service that gives each command a group."""
    assert unified
    return own_service(cgroups="always").start()


@pytest.fixture
def controlled(unified: Path, own_service: StartService) -> Service:
    """A service that has the controllers of memory and processes."""
    assert unified
    service = own_service().start()
    controllers = service.http.get("/readyz").json()["cgroups"]["controllers"]
    if not {"memory", "pids"} <= set(controllers):
        service.close()
        pytest.skip("no controllers of memory and processes in version 2")
    return service


def _group(service: Service, command: Command) -> Path:
    """Where the script says that it is."""
    eventually(lambda: service.output(command).endswith(b"\n"))
    text = service.output(command).decode()
    path = next(line for line in text.splitlines() if line.startswith("0::")).removeprefix("0::")
    return Path(f"{groups.look().directory}{path.removeprefix('/')}" if path == "/" else _below_root(path))


def _below_root(path: str) -> str:
    own = groups.look().directory
    assert own is not None
    with open("/proc/self/cgroup") as file:
        ours = next(line for line in file if line.startswith("0::")).strip().removeprefix("0::")
    return own + "/" + path.removeprefix(ours).lstrip("/")


def test_each_command_has_a_group_that_is_gone_with_it(grouping: Service) -> None:
    """Bash and what escapes it are in there, the worker is not; afterwards there is none."""
    command = grouping.started(grouping.run("cat /proc/self/cgroup; setsid sleep 1000 & exec sleep 1000"))
    place = _group(grouping, command)
    assert place.name == str(command.id)
    eventually(lambda: len((place / "cgroup.procs").read_text().split()) == 2)
    inside = {int(pid) for pid in (place / "cgroup.procs").read_text().split()}

    grouping.stop(command)

    assert command.pid in inside
    assert command.worker_pid not in inside
    ended = grouping.ended(command)
    assert (ended.status, ended.swept["escaped"]) == ("stopped", 1)
    assert not place.exists()


def test_what_a_script_makes_in_its_group_is_removed_too(grouping: Service) -> None:
    """Groups below it are no reason for it to stay."""
    script = f"""
        cat /proc/self/cgroup; mine={groups.look().directory}$(sed -n 's/^0:://p' /proc/self/cgroup)
        mkdir -p "$mine/a/b"; setsid sleep 1000 & echo $! > "$mine/a/b/cgroup.procs"
    """
    command = grouping.done(script)

    assert sum(command.swept.values()) == 1
    assert not _group(grouping, command).exists()


# Its child uses half a second of the processor and is waited for by nobody, so the kernel does not add it to ours.
UNCOUNTED = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    while time.process_time() < 0.5:
        pass
    os._exit(0)
try:
    os.wait()
except ChildProcessError:
    pass
"""


def test_processor_time_of_whom_nobody_waited_for_is_counted(grouping: Service) -> None:
    """The group counts all that was ever in it."""
    command = grouping.done(f"'{sys.executable}' -I -S -c \"$PROGRAM\"", env={"PROGRAM": UNCOUNTED})

    assert command.exit_code == 0
    assert command.usage["cpu_s"] > 0.5


def test_a_group_ends_with_what_was_left_in_it(grouping: Service, mark: str) -> None:
    """``leave`` leaves the group too, until the last one in it is gone."""
    command = grouping.done(f"cat /proc/self/cgroup; sleep {mark} > /dev/null 2>&1 &", leftovers="leave")
    place = _group(grouping, command)
    assert place.exists()

    [left] = marked(mark)
    kill(left)

    eventually(lambda: not place.exists())


def test_the_group_of_a_dead_worker_is_emptied_and_removed(grouping: Service, mark: str) -> None:
    """Whoever is in it dies with it."""
    command = grouping.started(grouping.run(f"cat /proc/self/cgroup; setsid sleep {mark} & sleep {mark}"))
    place = _group(grouping, command)

    kill(command.worker_pid)

    assert grouping.ended(command).reason == "worker_died"
    assert marked(mark) == []
    eventually(lambda: not place.exists())


def test_after_a_crash_of_everything_no_group_is_left(unified: Path, own_service: StartService, mark: str) -> None:
    """The next start clears up what nobody could."""
    service = own_service(cgroups="always").start()
    command = service.started(service.run(f"cat /proc/self/cgroup; sleep {mark}"))
    place = _group(service, command)
    service.kill_everything()
    assert place.exists()

    service = own_service(cgroups="always").start()

    assert service.ended(command).status == "lost"
    assert not place.exists()
    service.terminate()
    assert not list(unified.glob("bashd-*"))


def test_a_command_without_such_a_limit_needs_no_group(service: Service) -> None:
    """The default, ``auto``: it stays where Bashd is."""
    command = service.done("cat /proc/self/cgroup > mine; cmp mine /proc/$PPID/cgroup && echo same")

    assert service.output(command) == b"same\n"


def test_readyz_says_which_commands_have_one_and_why_not_more(own_service: StartService) -> None:
    """``never``: none, because it was asked for."""
    service = own_service(cgroups="never").start()

    assert service.http.get("/readyz").json()["cgroups"] == {
        "commands": "none",
        "controllers": [],
        "why_not": "cgroups=never",
    }


def test_memory_of_the_whole_tree_is_limited_and_is_the_reason(controlled: Service) -> None:
    """Four children that would each be allowed it by themselves: all are ended, and it says why."""
    script = "for i in 1 2 3 4; do (x=x; while :; do x=$x$x; done) & done; wait"

    command = controlled.done(script, limits={"memory_bytes": 64 * MIB})

    assert (command.status, command.reason) == ("failed", "memory")
    assert 32 * MIB < command.usage["peak_memory_bytes"] <= 64 * MIB


def test_what_the_kernel_tells_of_a_group_is_understood(tmp_path: Path) -> None:
    """The files as admin-guide/cgroup-v2 shows them; where one is not there, nothing is made up."""
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n")
    group = Group(str(tmp_path), {})
    assert (group.usage(), group.oom_killed) == ({"cpu_s": 1.5}, False)

    (tmp_path / "memory.peak").write_text("4096000\n")
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 1\n")

    assert (group.usage(), group.oom_killed) == ({"cpu_s": 1.5, "peak_memory_bytes": 4096000}, True)


def test_processes_of_the_tree_are_counted_whoever_the_user_is(controlled: Service, mark: str) -> None:
    """Root too is held by its group, and others of the same user do not count."""
    command = controlled.run(f"for i in {{1..40}}; do sleep {mark} & done; wait", limits={"processes": 20}, grace_s=0.5)
    controlled.says(command, b"Resource temporarily unavailable")

    assert 0 < len(marked(mark)) < 20
    controlled.stop(command)
    assert controlled.ended(command).status == "stopped"


# In a process of its own, which is moved: what is handed down, where it is, and that nothing is left.
MOVE = """
import os, sys
from protocol import cgroup
from supervisor import groups
before = cgroup.own("")
found = groups.prepare("test", "auto", (sys.argv[1],))
print(found.controllers, found.why_not, os.path.relpath(cgroup.own(""), before))
os.mkdir(f"{found.directory}/42")
print(sys.argv[1] in open(f"{found.directory}/42/cgroup.controllers").read().split())
groups.leave(found.directory, found.controllers)
print(cgroup.own("") == before, os.path.exists(found.directory))
"""


def test_bashd_moves_out_of_the_way_of_controllers_and_back(unified: Path) -> None:
    """A cgroup hands down only what no process of its own uses: so we go one down, and come back at the end."""
    offered = (unified / "cgroup.controllers").read_text().split()
    if not offered or (unified / "cgroup.type").exists():
        pytest.skip("no controller at the root of version 2")
    was_handed_down = (unified / "cgroup.subtree_control").read_text()
    place = unified / f"tests-{os.getpid()}"
    (unified / "cgroup.subtree_control").write_text(f"+{offered[0]}")
    place.mkdir()
    try:
        enter = f'echo $$ > {place}/cgroup.procs; exec "$@"'
        argv = ["bash", "-c", enter, "bash", sys.executable, "-c", MOVE, offered[0]]
        ended = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    finally:
        eventually(lambda: not (place / "cgroup.procs").read_text())
        place.rmdir()
        if offered[0] not in was_handed_down.split():
            (unified / "cgroup.subtree_control").write_text(f"-{offered[0]}")

    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [f"['{offered[0]}'] None bashd-test/bashd", "True", "True False"]
