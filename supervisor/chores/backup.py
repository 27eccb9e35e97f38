"""``bashd backup`` and ``bashd restore``: the embedded database and what belongs to it, as one file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO

from api import store_history
from protocol import linux
from protocol.places import Places
from supervisor import cluster, database, state
from supervisor.chores import archive
from supervisor.chores.record import ChoreError, found
from supervisor.settings import Settings


def backup(settings: Settings, path: str, *, bashd_version: str) -> int:
    """Write the history of one moment to a new file, which appears when it is whole."""
    _only_embedded(settings, "pg_dump")
    places = Places(str(settings.state_dir))
    with _new_file(path) as file, tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(path))) as dump:
        with found(settings) as conninfo:
            with store_history.opened(conninfo) as store:
                schema_version = store.schema_version()
            options = ["--format=custom", "--no-owner", "--no-privileges", f"--dbname={conninfo}"]
            _run([cluster.program(places, "pg_dump"), *options], stdout=dump)
        manifest = archive.Manifest(
            bashd_version=bashd_version,
            schema_version=schema_version,
            made_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            dump_sha256=archive.digest_of(dump),
        )
        archive.write(file, manifest, node_id=state.node_id(places), secrets_key=_kept(places.secrets_key), dump=dump)
    print(
        f"bashd: saved {places.state_dir} as {path}; it holds scripts, output and keys: keep it like the token",
        file=sys.stderr,
    )
    return 0


def restore(settings: Settings, path: str) -> int:
    """Make an empty state directory what the backup saved; it stays empty when that fails."""
    _only_embedded(settings, "pg_restore")
    with archive.opened(path) as saved, _empty(Places(str(settings.state_dir))) as places:
        lost = _restore_into(places, settings, saved)
    print(
        f"bashd: restored {path} into {places.state_dir}; lost, for they had been handed over: {lost}", file=sys.stderr
    )
    return 0


def _restore_into(places: Places, settings: Settings, saved: archive.Backup) -> int:
    """Build it all beside the place where it is looked for, and move it there: what is half done is never served."""
    building = Places(os.path.join(places.state_dir, "restoring"))
    os.mkdir(building.state_dir, 0o711)
    os.chmod(building.state_dir, 0o711)  # noqa: S103  (the user of PostgreSQL goes through it, whatever the umask is)
    try:
        lost = _restore_database(building, settings, saved)
    finally:
        cluster.forget_socket_directory(building)
    state.put_back(places, node_id=saved.node_id.strip(), secrets_key=saved.secrets_key and saved.secrets_key.strip())
    state.node_id(places)  # raises for what could not be read at the next start
    os.sync()
    os.rename(building.postgres, places.postgres)
    os.rmdir(building.state_dir)
    return lost


def _restore_database(places: Places, settings: Settings, saved: archive.Backup) -> int:
    """Make the database; it does not run any more afterwards. Returns how many commands are lost."""
    embedded = cluster.prepare(places, settings.pg_user)
    with cluster.running(embedded):
        options = ["--single-transaction", "--exit-on-error", "--no-owner", f"--dbname={embedded.conninfo}"]
        _run([cluster.program(places, "pg_restore"), *options], stdin=saved)
        database.migrate(embedded.conninfo, check_only=False)
        with store_history.opened(embedded.conninfo) as store:
            lost = store.end_what_was_handed_over()
            store.settle()
    return lost


def _only_embedded(settings: Settings, instead: str) -> None:
    if settings.database_url is not None:
        raise ChoreError(
            f"database_url is set: this word is for the embedded database; use {instead} for one of your own"
        )


def _kept(path: str) -> str | None:
    """What the file holds; None when there is none, for the key was set or nothing was ever sealed."""
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


@contextmanager
def _new_file(path: str) -> Iterator[IO[bytes]]:
    """A private file that has its name when the body is through, and is not there when it fails."""
    if os.path.lexists(path):
        raise ChoreError(f"{path} is there already")
    temporary = f"{path}.new"
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ChoreError(f"{temporary}: {error.strerror}") from error
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            yield file
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError as error:
        os.unlink(temporary)
        raise ChoreError(f"{path} cannot be written: {error.strerror}") from error
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def _empty(places: Places) -> Iterator[Places]:
    """An empty state directory, prepared and locked; it is as it was when the body fails."""
    was_there = os.path.isdir(places.state_dir)
    if was_there and os.listdir(places.state_dir):
        raise ChoreError(f"{places.state_dir} is not empty: restore makes a state directory, and adds to none")
    state.prepare(places)
    lock_fd = state.take_lock(places)
    try:
        # Another who found it empty too may have been quicker.
        if cluster.exists(places) or os.path.exists(places.node_id):
            raise ChoreError(f"{places.state_dir} is not empty any more")
        try:
            yield places
        except BaseException as error:
            _clear(places.state_dir, itself=not was_there)
            if isinstance(error, OSError):
                raise ChoreError(f"{places.state_dir}: {error.strerror} ({error.filename})") from error
            raise
        os.ftruncate(lock_fd, 0)
    finally:
        os.close(lock_fd)


def _clear(directory: str, *, itself: bool) -> None:
    for entry in list(os.scandir(directory)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    if itself:
        os.rmdir(directory)


def _run(argv: list[str], *, stdin: archive.Backup | None = None, stdout: IO[bytes] | None = None) -> None:
    """Run a program of PostgreSQL to its end, which does not outlive us. Raises ``ChoreError`` with what it says."""
    parent_pid = os.getpid()
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=said if stdout is None else stdout,
            stderr=said,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            preexec_fn=lambda: linux.die_with_parent(parent_pid, signal.SIGKILL),
        )
        try:
            if stdin is not None:
                _feed(process, stdin)
            process.wait()
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            said.seek(0)
            raise ChoreError(f"{os.path.basename(argv[0])} failed: {' '.join(said.read().split())}")


def _feed(process: subprocess.Popen[bytes], saved: archive.Backup) -> None:
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            saved.copy_dump(pipe)
    except BrokenPipeError:
        pass  # it has ended, and says why
