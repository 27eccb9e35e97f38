"""The disk: full, almost full, read-only, broken, gone; that of the journals, and that of the database.

Each test has a disk of its own, mounted where the state directory is, so nobody else meets what happens to it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest

from protocol import journal
from tests.conftest import StartService
from tests.postgres import PostgresServer
from tests.processes import FINAL, Command, Service, eventually, is_alive, kill, marked, process, started_here

MEGABYTE = 1024 * 1024

# Prints, then waits for the file in $1, then prints three million bytes and a word to stderr.
BURST = """
echo before; while [ ! -e "$1" ]; do sleep 0.05; done
head -c 3000000 /dev/zero | tr '\\0' x; echo word >&2; exit 3
"""
BURST_BYTES = 7 + 3_000_000


class Disk:
    """A file system of our own, mounted at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mounts = 0

    def mount(self, *arguments: str | Path) -> None:
        """Mount something over it."""
        done = subprocess.run(["mount", *arguments, self.path], capture_output=True, text=True, check=False)
        if done.returncode and not self.mounts:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        self.mounts += 1

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True)

    def unmount(self) -> None:
        """Take away what was mounted last."""
        # Lazily: what a failed test left may have files open.
        subprocess.run(["umount", "-l", self.path], check=True)
        self.mounts -= 1

    def free_bytes(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Use it up with one big file, but for so much."""
        with (self.path / "filler").open("ab", buffering=0) as file:
            for size in (65536, 4096, 512):
                try:
                    while self.free_bytes() - size >= leave_bytes:
                        file.write(b"f" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    @contextmanager
    def kept_full(self) -> Iterator[None]:
        """Others take whatever becomes free, at once; until the end of the block, from where on there is room."""
        over = threading.Event()

        def take() -> None:
            while not over.wait(0.001):
                self.fill()

        self.fill()
        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.empty()

    def empty(self) -> None:
        """Take the big file away."""
        (self.path / "filler").unlink()

    def close(self) -> None:
        while self.mounts:
            self.unmount()


@pytest.fixture
def state_dir(state_dir: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The state directory is a disk of its own; unmounted when the services of the test have ended."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a disk")
    state_dir.mkdir()
    disk = request.node.own_disk = Disk(state_dir)
    try:
        yield state_dir
    finally:
        disk.close()


@pytest.fixture
def disk(state_dir: Path, request: pytest.FixtureRequest) -> Disk:
    """A small one in memory."""
    disk: Disk = request.node.own_disk
    assert disk.path == state_dir
    disk.mount("-t", "tmpfs", "-o", "size=16m,mode=711", "bashd-tests")
    return disk


@pytest.fixture
def ext4(state_dir: Path, request: pytest.FixtureRequest) -> Disk:
    """One with an ext4 on it, which becomes read-only at its first error."""
    image = state_dir.with_name("image")
    with image.open("wb") as file:
        file.truncate(32 * MEGABYTE)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    disk: Disk = request.node.own_disk
    disk.mount("-o", "loop,errors=remount-ro", image)
    return disk


def _error_trigger(disk: Disk) -> Path:
    """The file that makes an ext4 have an error."""
    source = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", disk.path], check=True, capture_output=True, text=True
    ).stdout.strip()
    trigger = Path("/sys/fs/ext4") / Path(source).name / "trigger_fs_error"
    if not trigger.exists():
        pytest.skip("this kernel cannot make an ext4 fail")
    return trigger


def _recorded(service: Service, command: Command) -> None:
    """Wait until the row alone tells of this command."""
    eventually(lambda: not (service.state_dir / "journals" / str(command.id)).exists())


def _reserve(service: Service, command: Command) -> int:
    """How many bytes the journal has on the disk behind what stands in it."""
    found = os.stat(service.state_dir / "journals" / str(command.id))
    return found.st_blocks * 512 - found.st_size


def _refused(service: Service, *words: str) -> httpx.Response:
    """A command is refused in time, and so that a client can act on it."""
    answer = service.create("true")
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert all(word in answer.json()["detail"] for word in words), answer.text
    return answer


def _why(service: Service) -> dict[str, str]:
    """What keeps it from being ready."""
    why: dict[str, str] = service.http.get("/readyz").json()["why"]
    return why


# Full: the journals


@pytest.mark.parametrize("file_system", ["disk", "ext4"])
def test_the_reserve_holds_all_that_is_still_to_be_said(request: pytest.FixtureRequest, file_system: str) -> None:
    """On a full disk output ends where the reserve begins, facts where the last words do, and the end has room."""
    disk: Disk = request.getfixturevalue(file_system)
    path = disk.path / "42"
    journal.create(str(path), 1, {"id": 42})
    fd = os.open(path, os.O_RDWR)
    try:
        with journal.Reader(str(path)) as reader:
            list(reader.frames())
            writer = journal.Writer(fd, reader.position)
        writer.append(journal.STDOUT, 2, b"o" * 300_000, keep=journal.RESERVE_BYTES)
        disk.fill()

        def append_for_ever(kind: int, payload: bytes, keep: int) -> None:
            while True:
                writer.append(kind, 2, payload, keep=keep)

        with pytest.raises(OSError, match="No space"):
            append_for_ever(journal.STDOUT, b"o" * 999, journal.RESERVE_BYTES)
        output_end = writer.position
        with pytest.raises(OSError, match="No space"):
            append_for_ever(journal.PAUSED, b'{"paused": true}', journal.LAST_WORDS_BYTES)
        facts_end = writer.position
        writer.append(journal.ENDED, 3, b"e" * (journal.LAST_WORDS_BYTES - 100))
    finally:
        os.close(fd)

    assert disk.free_bytes() == 0
    assert facts_end - output_end > 4096
    with journal.Reader(str(path)) as reader:
        assert [frame.kind for frame in reader.frames()][-1] == journal.ENDED


def test_a_journal_that_has_no_room_for_its_reserve_is_not_made(disk: Disk) -> None:
    """A command that could not tell its end is not begun: whole or not at all."""
    disk.fill(leave_bytes=8192)

    with pytest.raises(OSError, match="No space"):
        journal.create(str(disk.path / "42"), 1, {"id": 42})

    assert os.listdir(disk.path) == ["filler"]


def test_what_was_allocated_ahead_is_given_back(disk: Disk) -> None:
    """A journal that waits for the database takes no more room than what stands in it, and a block."""
    path = disk.path / "42"
    journal.create(str(path), 1, {"id": 42})
    fd = os.open(path, os.O_RDWR)
    try:
        with journal.Reader(str(path)) as reader:
            list(reader.frames())
            writer = journal.Writer(fd, reader.position)
        writer.append(journal.STDOUT, 2, b"o" * 100_000, keep=journal.RESERVE_BYTES)
        ahead = os.stat(path).st_blocks * 512
        writer.release()
    finally:
        os.close(fd)

    assert ahead > 300_000
    assert os.stat(path).st_blocks * 512 < 110_000


def test_a_full_disk_costs_output_and_nothing_else(
    disk: Disk, own_service: StartService, tmp_path: Path, mark: str
) -> None:
    """The script is not hung, its status is true while the disk is still full, and what is missing is named.

    A stop works meanwhile, with the last words of the script; and commands that print little do not notice.
    """
    go = tmp_path / "go"
    service = own_service(min_free_bytes=0).start()
    burst = service.run(BURST, args=[str(go)])
    polite = service.run(f"trap 'echo bye; exit 6' TERM; setsid sleep {mark} & echo ready; sleep {mark} & wait")
    quiet = service.run('echo ready; while [ ! -e "$1" ]; do sleep 0.05; done; exit 4', args=[str(go)])
    for command, word in ((burst, b"before"), (polite, b"ready"), (quiet, b"ready")):
        service.says(command, word)

    with disk.kept_full():
        go.touch()
        stopped = service.stop(polite)
        ended = {one.id: service.ended(one) for one in (burst, polite, quiet)}

    assert stopped.stop_requested_at is not None
    assert (ended[burst.id].status, ended[burst.id].exit_code) == ("failed", 3)
    assert (ended[polite.id].status, ended[polite.id].exit_code) == ("stopped", 6)
    assert ended[polite.id].swept["escaped"] == 1
    assert service.output(polite) == b"ready\nbye\n"
    assert (ended[quiet.id].status, ended[quiet.id].exit_code, ended[quiet.id].truncated) == ("failed", 4, None)
    _recorded(service, burst)
    row = service.get(burst)
    assert (row.stdout_bytes, row.stderr_bytes) == (BURST_BYTES, 5)
    assert row.truncated["reason"] == "disk_full"
    kept = service.output(row, stream="stdout")
    assert row.truncated["stdout"] == [[len(kept), BURST_BYTES]]
    assert kept == (b"before\n" + b"x" * 3_000_000)[: len(kept)]
    assert row.row == ended[burst.id].row


def test_a_script_that_prints_for_ever_on_a_full_disk_can_be_stopped(
    disk: Disk, own_service: StartService, mark: str
) -> None:
    """It neither waits for room nor uses up what its end needs; nor do a hundred stops, and pauses."""
    service = own_service(min_free_bytes=0).start()
    endless = service.run(f"trap '' TERM; echo ready; yes {mark} & yes {mark} >&2 & wait; wait", grace_s=2)
    paused = service.run(f"trap '' TERM; echo ready; for i in {{1..300}}; do kill -STOP $$; done; sleep {mark}")
    service.says(endless, b"ready")
    service.says(paused, b"ready")

    with disk.kept_full():
        pid = service.get(paused).pid
        for _ in range(200):
            eventually(lambda: (found := process(pid)) is not None and found.state == "T")
            kill(pid, signal.SIGCONT)
        for _ in range(100):
            service.stop(paused, grace_s=30)
            service.stop(endless, grace_s=30)
        reserves = [_reserve(service, one) for one in (endless, paused)]
        for command in (paused, endless):
            service.stop(command, signal="KILL", grace_s=0)
        ended, killed = service.ended(endless), service.ended(paused)

    assert min(reserves) >= journal.LAST_WORDS_BYTES
    assert (ended.status, ended.signal, ended.truncated["reason"]) == ("stopped", 9, "disk_full")
    assert (killed.status, killed.signal) == ("stopped", 9)
    [[first, to]] = ended.truncated["stdout"]
    assert first < to == ended.stdout_bytes
    eventually(lambda: not marked(mark))


def test_a_worker_that_dies_on_a_full_disk_has_its_end_recorded(
    disk: Disk, own_service: StartService, mark: str
) -> None:
    """The supervisor writes it where the worker would have: into what was kept for it."""
    service = own_service(min_free_bytes=0).start()
    command = service.run(f"echo kept; sleep {mark} & trap '' TERM; yes & wait")
    service.says(command, b"kept")

    with disk.kept_full():
        kill(service.get(command).worker_pid)
        ended = service.ended(command)

    assert (ended.status, ended.reason) == ("lost", "worker_died")
    assert ended.evidence["worker_signal"] == 9
    assert service.output(ended).startswith(b"kept\n")
    eventually(lambda: not marked(mark))


def test_a_command_for_whose_control_pipe_the_disk_has_no_room_can_be_stopped(
    disk: Disk, own_service: StartService, mark: str
) -> None:
    """With room for its journal and not for its control pipe it runs, and its worker is told by a signal."""
    service = own_service(min_free_bytes=0).start()
    assert service.done("true").status == "succeeded"
    eventually(lambda: os.listdir(disk.path / "journals") == [])
    found = os.statvfs(disk.path)
    disk.remount(f"nr_inodes={found.f_files - found.f_ffree}")

    command = service.started(service.run(f"echo begun; sleep {mark}", cwd="/"))
    service.stop(command)
    ended = service.ended(command)

    assert not (disk.path / "controls" / str(command.id)).exists()
    assert (ended.status, ended.reason, ended.signal) == ("stopped", "client", signal.SIGTERM)
    assert service.output(ended) == b"begun\n"
    disk.remount("nr_inodes=1000")
    assert service.done("true").status == "succeeded"


def test_a_command_whose_journal_the_disk_does_not_take_waits(disk: Disk, own_service: StartService) -> None:
    """One was accepted before that was known: it runs when there is room. The next are refused, and told why."""
    service = own_service(min_free_bytes=0).start()
    service.done("true")
    disk.fill()

    # Longer than any journal that may be there to become this one's.
    waiting = service.run(f"echo at last #{'x' * 200_000}")
    eventually(lambda: "disk" in _why(service))
    _refused(service, "does not take the journals", "No space left on device")
    status = service.get(waiting).status
    disk.empty()

    assert status == "queued"
    assert service.output(service.ended(waiting)) == b"at last\n"
    eventually(service.is_ready)
    assert service.log.count("cannot write its journal") == 1


# Almost full


def test_commands_are_refused_before_the_disk_is_full(
    disk: Disk, own_service: StartService, tmp_path: Path, mark: str
) -> None:
    """503 with both figures. What runs goes on, prints and can be stopped; what waits follows when there is room."""
    go = tmp_path / "go"
    service = own_service(min_free_bytes=4 * MEGABYTE, max_running=2).start()
    burst = service.run(BURST, args=[str(go)], leftovers="wait")
    stopped = service.run(f"echo before; sleep {mark}")
    for command in (burst, stopped):
        service.says(command, b"before")
    waiting = service.run("echo at last")

    disk.fill(leave_bytes=4 * MEGABYTE - 65536)
    _refused(service, f"{disk.free_bytes()} bytes are free", f"{4 * MEGABYTE} are needed")
    why = _why(service)
    seed = service.http.post("/command", json={"script": "true"})
    go.touch()
    service.stop(stopped)
    ended = service.ended(burst)

    assert set(why) == {"disk"}
    assert "min_free_bytes" in why["disk"]
    assert seed.status_code == 503
    assert (ended.status, ended.exit_code, ended.truncated) == ("failed", 3, None)
    assert len(service.output(ended, stream="stdout")) == BURST_BYTES
    assert service.ended(stopped).status == "stopped"
    assert service.get(waiting).status == "queued"

    freed_at = datetime.now(UTC)
    disk.empty()
    followed = service.ended(waiting)
    assert service.output(followed) == b"at last\n"
    assert datetime.fromisoformat(followed.started_at) >= freed_at
    eventually(service.is_ready)


def test_a_disk_without_a_free_inode_is_full(disk: Disk, own_service: StartService) -> None:
    """There is room for bytes and none for another file: refused as well."""
    service = own_service(min_free_bytes=1).start()
    found = os.statvfs(disk.path)

    disk.remount(f"nr_inodes={found.f_files - found.f_ffree}")

    _refused(service, "inode")
    assert "inode" in _why(service)["disk"]
    disk.remount("nr_inodes=1000")
    assert service.done("true").status == "succeeded"


def test_bashd_starts_again_on_a_full_disk(ext4: Disk, own_service: StartService, mark: str) -> None:
    """Killed and started while nothing can be written: it adopts what runs, stops it, and says why it takes no more."""
    service = own_service(min_free_bytes=MEGABYTE).start()
    command = service.started(service.run(f"sleep {mark}"))

    ext4.fill()
    service.kill_init()
    service.start(ready=False)
    eventually(lambda: set(_why(service)) == {"disk"})

    service.stop(command)
    ended = service.ended(command)
    assert (ended.status, ended.pid) == ("stopped", command.pid)


# Read-only


def test_on_a_disk_that_became_read_only_what_runs_goes_on(
    disk: Disk, own_service: StartService, tmp_path: Path, mark: str
) -> None:
    """What is open can be written, and nothing new: 503 and /readyz say so; nothing is left when that is over."""
    go = tmp_path / "go"
    service = own_service(min_free_bytes=0, max_running=2).start()
    burst = service.run(BURST, args=[str(go)])
    stopped = service.run(f"echo before; sleep {mark}")
    for command in (burst, stopped):
        service.says(command, b"before")
    waiting = service.run("echo at last")

    # A second mount of the same, for a disk with files open for writing cannot be made read-only itself.
    disk.mount("--bind", disk.path)
    disk.remount("bind,ro")
    _refused(service, "read-only")
    why = _why(service)
    go.touch()
    service.stop(stopped)

    assert "read-only" in why["disk"]
    assert service.ended(stopped).status == "stopped"
    ended = service.ended(burst)
    assert (ended.exit_code, ended.truncated) == (3, None)
    assert len(service.output(ended, stream="stdout")) == BURST_BYTES
    assert service.get(waiting).status == "queued"

    disk.unmount()
    assert service.output(service.ended(waiting)) == b"at last\n"
    assert service.terminate() == 0
    service.start()
    assert {name: os.listdir(disk.path / name) for name in ("journals", "controls")} == {"journals": [], "controls": []}
    assert service.get(ended).row == ended.row
    assert "Traceback" not in service.log


def test_a_disk_that_fails_does_not_hang_a_script_or_a_stop(
    ext4: Disk, own_service: StartService, tmp_path: Path, mark: str
) -> None:
    """Not one byte can be written any more: scripts go on, stop at once, and Bashd ends in time with nobody left."""
    go = tmp_path / "go"
    trigger = _error_trigger(ext4)
    service = own_service(min_free_bytes=0).start()
    burst = service.run(BURST.replace("exit 3", 'touch "$1.done"'), args=[str(go)])
    stopped = service.run(f"echo before; sleep {mark}")
    running = service.run(f"echo before; sleep {mark}")
    for command in (burst, stopped, running):
        service.says(command, b"before")
    pids = [service.get(one).pid for one in (stopped, running)]
    workers = [service.get(one).worker_pid for one in (burst, stopped, running)]

    trigger.write_text("a test wants it to fail")
    with pytest.raises(OSError, match="Read-only"):
        (ext4.path / "new").touch()
    go.touch()
    eventually((tmp_path / "go.done").exists)
    service.stop(stopped)

    eventually(lambda: not is_alive(pids[0]))
    assert is_alive(pids[1])
    accepted = service.create("true")  # the disk does not say that it is broken before somebody writes to it
    assert accepted.status_code in (201, 503)
    _refused(service, "Read-only file system")
    assert "Read-only" in _why(service)["disk"]
    # Its end cannot be written, so nobody may say that it has come.
    assert service.get(stopped).status == "running"

    assert service.terminate() == 0
    assert not marked(mark)
    assert not any(is_alive(pid) for pid in workers)
    assert "Traceback" not in service.log


# Gone


def _remove_all(directory: Path) -> None:
    """``rm -rf directory/*``."""
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _spins(pids: list[int]) -> bool:
    """True when one of them used a tenth of the second in which it was watched."""

    def ticks(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = {pid: ticks(pid) for pid in pids}
    time.sleep(1)  # what is measured is a time
    return any(ticks(pid) - before[pid] > os.sysconf("SC_CLK_TCK") / 10 for pid in pids)


def test_without_its_state_directory_bashd_ends_what_it_began(
    disk: Disk, own_service: StartService, tmp_path: Path, mark: str, postgres: PostgresServer
) -> None:
    """Removed under it: what runs goes on, is read, stopped and recorded; new commands are refused; nothing spins.

    SIGTERM still ends everything in time, and the record of it is true.
    """
    go = tmp_path / "go"
    url = postgres.new_database()
    service = own_service(database_url=url, min_free_bytes=0).start()
    burst = service.run(BURST, args=[str(go)])
    polite = service.run(f"trap 'echo bye; exit 6' TERM; setsid sleep {mark} & echo before; sleep {mark} & wait")
    deaf = service.run(f"trap '' TERM; echo before; sleep {mark}; sleep {mark}", grace_s=600)
    last = service.run(f"trap '' TERM; echo before; sleep {mark}; sleep {mark}", grace_s=600)
    for command in (burst, polite, deaf, last):
        service.says(command, b"before")

    _remove_all(disk.path)
    _refused(service, "gone")
    assert "gone" in _why(service)["disk"]
    service.stop(polite)
    service.stop(deaf, grace_s=0.2)
    go.touch()

    ended = service.ended(polite)
    assert (ended.status, ended.reason, ended.exit_code, ended.swept["escaped"]) == ("stopped", "client", 6, 1)
    assert service.output(ended) == b"before\nbye\n"
    assert (service.ended(deaf).status, service.get(deaf).signal) == ("stopped", 9)
    ended = service.ended(burst)
    assert (ended.exit_code, ended.truncated, len(service.output(ended, stream="stdout"))) == (3, None, BURST_BYTES)
    assert service.http.get("/v1/commands/999999").status_code == 404
    eventually(lambda: not _spins([*service.pids("bashd: "), service.get(last).worker_pid]))

    assert service.terminate() == 0
    with psycopg.connect(url) as connection:
        row = connection.execute("select status, reason, signal from commands where id = %s", [last.id]).fetchone()
    assert row == ("stopped", "shutdown", 9)
    assert not marked(mark)
    assert "Traceback" not in service.log


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_without_its_state_directory_a_dead_workers_command_is_lost(
    disk: Disk, own_service: StartService, mark: str, how: str
) -> None:
    """Nobody can read how it ended, so that is what is said; and its whole tree is dead."""
    service = own_service(min_free_bytes=0).start()
    command = service.run(f"echo kept; setsid sleep {mark} & trap '' TERM; sleep {mark} & wait; wait", grace_s=0.2)
    service.says(command, b"kept")
    eventually(lambda: len(marked(mark)) == 2)
    worker = service.get(command).worker_pid

    _remove_all(disk.path)
    if how == "killed":
        kill(worker)
    else:
        os.kill(worker, signal.SIGSTOP)
        service.stop(command)

    ended = service.ended(command)
    assert (ended.status, ended.reason) == ("lost", "journal_gone")
    assert service.output(ended) == b"kept\n"
    eventually(lambda: not marked(mark))
    assert "Traceback" not in service.log


def test_without_its_state_directory_a_new_api_declares_nothing_lost(
    disk: Disk, own_service: StartService, mark: str, postgres: PostgresServer
) -> None:
    """It finds rows that run and no journals; as long as their workers may live it leaves them as they are."""
    url = postgres.new_database()
    service = own_service(database_url=url, min_free_bytes=0).start()
    command = service.started(service.run(f"sleep {mark}"))
    api = service.pid("bashd: api")
    with psycopg.connect(url, autocommit=True) as connection:
        eventually(lambda: connection.execute("select from commands where status = 'running'").fetchone() is not None)

    _remove_all(disk.path)
    kill(api)
    eventually(lambda: service.pids("bashd: api") not in ([], [api]))

    eventually(lambda: "gone" in _why(service).get("disk", ""))
    assert service.get(command).status not in FINAL
    assert is_alive(command.pid)
    assert service.terminate() == 0
    assert not marked(mark)
    assert "Traceback" not in service.log


# The database's disk


def test_when_the_disk_of_postgresql_is_full_nothing_is_lost_or_doubled(disk: Disk, state_dir: Path, mark: str) -> None:
    """The log and /readyz say so; commands run, end and are stopped; with space every byte is in its row, once."""
    disk.remount("size=160m")
    go = state_dir.with_name("go")
    server = PostgresServer(state_dir / "pg")
    try:
        url = server.new_database()
        with Service(state_dir.with_name("bashd-on-it"), database_url=url).start() as service:
            random = [_random_bytes(service, go) for _ in range(3)]
            stopped = service.run(f"echo ready; sleep {mark}")
            for command in (*random, stopped):
                service.says(command, b"ready")

            disk.fill()
            go.touch()
            eventually(lambda: "No space left on device" in service.log)
            eventually(lambda: "postgres" in _why(service))
            service.stop(stopped)
            eventually(lambda: not marked(mark))
            eventually(lambda: all(_has_ended(service, one) for one in random))
            disk.empty()
            if server.process.poll() is not None:
                started_here.discard(server.process.pid)
                server.begin()
            eventually(service.is_ready, within_s=60)

            for command in random:
                ended = service.ended(command)
                _recorded(service, command)
                assert (ended.status, ended.exit_code, ended.truncated) == ("failed", 5, None)
                content = service.output(ended, stream="stdout").removeprefix(b"ready\n")
                said = service.output(ended, stream="stderr").split()[0].decode()
                assert (len(content), hashlib.sha256(content).hexdigest()) == (9_000_000, said)
            assert service.ended(stopped).status == "stopped"
            with psycopg.connect(url) as connection:
                rows = connection.execute(
                    'select command_id, stream, sum(length(bytes)), count(distinct "offset") = count(*) from output'
                    " group by 1, 2 order by 1, 2"
                ).fetchall()
            assert [row[2:] for row in rows if row[1] == 1] == [(9_000_006, True)] * 3 + [(6, True)]
            assert service.done("true").status == "succeeded"
    finally:
        if server.process.poll() is None:
            server.close()
        started_here.discard(server.process.pid)


def _random_bytes(service: Service, go: Path) -> Command:
    """Prints nine million random bytes as soon as there is that file, and their checksum on stderr."""
    script = """
        head -c 9000000 /dev/urandom > bytes; echo ready
        while [ ! -e "$1" ]; do sleep 0.05; done; cat bytes; sha256sum < bytes >&2; exit 5
    """
    return service.run(script, args=[str(go)])


def _has_ended(service: Service, command: Command) -> bool:
    return service.get(command).exit_code is not None
