"""The state directory before init runs: made, checked, locked; and what is found or put there once."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
import time
import uuid

from protocol import linux
from protocol.places import Places
from protocol.sealed import KEY_BYTES, key_of

LOCK_WITHIN_S = 10.0  # for the remains of a dead Bashd to end


class StateError(Exception):
    """The state directory cannot be used: one line that says why."""


class RunsAlready(StateError):
    """A living Bashd has the state directory."""


def prepare(places: Places) -> None:
    """Make the directory and what belongs into it. Nothing that exists is changed. Raises ``StateError``."""
    try:
        _make(places.state_dir, 0o711 if os.getuid() == 0 else 0o700)
        owner = os.stat(places.state_dir)
        if owner.st_uid != os.getuid():
            raise StateError(f"{places.state_dir} belongs to user {owner.st_uid}, we are {os.getuid()}")
        for directory in (
            places.journals,
            places.controls,
            places.stdins,
            places.left,
            places.spare,
            places.starts,
        ):
            _make(directory, 0o700)
        # A command's own directory must be reached by its run_as user.
        _make(places.work, 0o711)
        if not os.path.exists(places.reports):
            os.mkfifo(places.reports, 0o600)
        if not stat.S_ISFIFO(os.stat(places.reports).st_mode):
            raise StateError(f"{places.reports} is not a named pipe; move it away")
    except OSError as error:
        raise StateError(f"state directory {places.state_dir}: {error.strerror} ({error.filename})") from error


def _make(path: str, mode: int) -> None:
    if os.path.isdir(path):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.mkdir(path, mode)
    os.chmod(path, mode)  # whatever the umask is


def take_lock(places: Places) -> int:
    """The lock file, locked: the proof that this state directory is ours alone. Raises ``StateError``.

    Refuses at once when its owner lives; waits for what a dead one has left to end.
    """
    try:
        fd = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{places.lock}: {error.strerror}") from error
    give_up_at = time.monotonic() + LOCK_WITHIN_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _living_owner(fd)
            if owner is not None:
                raise RunsAlready(f"Bashd runs already on {places.state_dir} (process {owner})") from None
            if time.monotonic() > give_up_at:
                raise StateError(f"{places.lock} is held by the remains of a dead Bashd that do not end") from None
            time.sleep(0.02)
        except OSError as error:
            raise StateError(f"{places.lock}: this file system has no flock: {error.strerror}") from error
        else:
            break
    _write_owner(fd)
    return fd


def _living_owner(fd: int) -> int | None:
    try:
        pid, start_time = (int(word) for word in os.pread(fd, 100, 0).split())
    except ValueError:
        return None  # not written yet, or not by us: whoever holds the lock has to end by itself
    owner = linux.process(pid)
    return owner.pid if owner is not None and owner.alive and owner.start_time == start_time else None


def _write_owner(fd: int) -> None:
    # exec keeps pid and start time: what is written here stays true of init.
    me = linux.process(os.getpid())
    assert me is not None
    text = f"{me.pid} {me.start_time}\n".encode()
    try:
        # In this order: what a killed Bashd wrote there keeps a block for us on a disk that is full.
        os.pwrite(fd, text, 0)
        os.ftruncate(fd, len(text))
    except OSError as error:
        raise StateError(f"the lock file cannot be written: {error.strerror}") from error


def node_id(places: Places) -> str:
    """The UUID under which this state directory owns its rows; made at the first start."""
    try:
        with open(places.node_id) as file:
            return str(uuid.UUID(file.read().strip()))
    except FileNotFoundError:
        made = str(uuid.uuid4())
        _write(places.node_id, made)
        return made
    except ValueError as error:
        raise StateError(
            f"{places.node_id} does not hold a UUID; restore it, it names the owner of the rows"
        ) from error
    except OSError as error:
        raise StateError(f"{places.node_id}: {error.strerror}") from error


def token(places: Places) -> tuple[str, bool]:
    """The generated token, and whether it was generated now."""
    try:
        with open(places.token) as file:
            found = file.read().strip()
        if len(found) < 16:
            raise StateError(f"{places.token} holds no token of at least 16 characters; remove it to get a new one")
        return found, False
    except FileNotFoundError:
        made = secrets.token_urlsafe(32)
        _write(places.token, made)
        return made, True
    except UnicodeError as error:
        raise StateError(f"{places.token} holds no token but other bytes; remove it to get a new one") from error
    except OSError as error:
        raise StateError(f"{places.token}: {error.strerror}") from error


def secrets_key(places: Places) -> bytes:
    """The key that seals the secrets of commands; made at the first start."""
    try:
        with open(places.secrets_key) as file:
            return key_of(file.read().strip())
    except FileNotFoundError:
        made = os.urandom(KEY_BYTES)
        _write(places.secrets_key, base64.b64encode(made).decode())
        return made
    except ValueError as error:
        raise StateError(f"{places.secrets_key} {error}; restore it, it opens the secrets of commands") from error
    except OSError as error:
        raise StateError(f"{places.secrets_key}: {error.strerror}") from error


def leave_url(places: Places, url: str) -> None:
    """Leave the address of the service for the command line, readable for all. Raises ``StateError``."""
    try:
        with open(places.url) as file:
            if file.read().strip() == url:
                return
    except (OSError, UnicodeError):
        pass  # it is written now
    _write(places.url, url, mode=0o644)


def login_code(places: Places) -> str:
    """A new code that stands for the token once; the state directory knows it by its SHA-256 alone."""
    code = secrets.token_urlsafe(24)
    _write(places.login_code, hashlib.sha256(code.encode()).hexdigest())
    return code


def forget_login_code(places: Places) -> None:
    """The code of an earlier start is worth nothing any more."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(places.login_code)


def put_back(places: Places, *, node_id: str, secrets_key: str | None) -> None:
    """What a backup kept of another state directory. Raises ``StateError`` for what could not be read again."""
    _write(places.node_id, node_id)
    if secrets_key is not None:
        _write(places.secrets_key, secrets_key)


def _write(path: str, text: str, mode: int = 0o600) -> None:
    """Write a small file, whole or not at all."""
    temporary = f"{path}.new"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(fd, "w") as file:
            os.fchmod(fd, mode)  # whatever the umask is
            file.write(text + "\n")
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error
