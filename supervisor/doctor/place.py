"""Where Bashd would live: its state directory, and the address that it listens on."""

from __future__ import annotations

import fcntl
import http.client
import os
import socket
import stat
import tempfile
from collections.abc import Iterator

from protocol import linux
from protocol.places import Places
from supervisor.doctor.finding import Finding, failed, ok, warning
from supervisor.settings import Settings

ANSWER_WITHIN_S = 3.0
FEW_FILES = 10_000  # inodes


def findings(settings: Settings, places: Places, owner: int | None) -> Iterator[Finding]:
    """``owner``: the pid of the Bashd that runs on this state directory, None when there is none."""
    yield _running(places, owner)
    directory = _nearest(places.state_dir)
    yield _state_directory(places, directory)
    if os.access(directory, os.W_OK | os.X_OK):
        yield from _file_system(directory)
        yield _free(directory, settings.min_free_bytes)
    if settings.auth == "token" and settings.token is None:
        yield _token(places)
    yield _address(settings, owner)


def owner_of(places: Places) -> int | None:
    """The process that holds the state directory's lock and has written its pid there; None when nobody holds it."""
    try:
        fd = os.open(places.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(fd, 100).split()[0] or b"0")
    except OSError:
        return None  # no flock here: the file system's finding says so
    finally:
        os.close(fd)
    return None


def _running(places: Places, owner: int | None) -> Finding:
    if owner is None:
        return ok("service", f"no Bashd runs on {places.state_dir}")
    return ok("service", f"Bashd runs on {places.state_dir} (process {owner})")


def _nearest(path: str) -> str:
    """The directory itself, or the nearest above it that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _state_directory(places: Places, nearest: str) -> Finding:
    path = places.state_dir
    if os.path.exists(path) and not os.path.isdir(path):
        return failed("state directory", f"{path} is no directory", "move it away, or set state_dir")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return failed("state directory", f"we may not write in {nearest}", "chown it to Bashd's user, or set state_dir")
    if nearest != path:
        return ok("state directory", f"{path} will be made at the first start")
    status = os.stat(path)
    if status.st_uid != os.getuid():
        return failed(
            "state directory",
            f"{path} belongs to user {status.st_uid}, we are {os.getuid()}",
            "run Bashd as its owner, or set state_dir",
        )
    if status.st_mode & 0o022:
        return warning("state directory", f"others may write in {path}", f"chmod go-w {path}")
    return ok("state directory", f"{path}, mode {stat.S_IMODE(status.st_mode):04o}")


def _file_system(directory: str) -> Iterator[Finding]:
    """What Bashd asks of a file system, tried in a directory of its own that is removed again."""
    remedy = "put state_dir onto a local file system such as ext4 or xfs"
    try:
        with tempfile.TemporaryDirectory(prefix="bashd-doctor-", dir=directory) as place:
            for subject, what_for, attempt in (
                ("file locks", "a lock proves who works on a command", _lock),
                ("named pipes", "workers report and are stopped by them", _named_pipe),
            ):
                try:
                    attempt(place)
                except OSError as error:
                    yield failed(subject, f"{what_for}: {error.strerror}", remedy)
                else:
                    yield ok(subject, what_for)
            yield _reserve(place)
    except OSError as error:
        yield failed("file system", f"{directory}: {error.strerror}", remedy)


def _lock(place: str) -> None:
    with open(os.path.join(place, "lock"), "w") as file, open(os.path.join(place, "lock")) as other:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise OSError(0, "a lock that is held is given again")


def _named_pipe(place: str) -> None:
    path = os.path.join(place, "pipe")
    os.mkfifo(path)
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def _reserve(place: str) -> Finding:
    with open(os.path.join(place, "reserve"), "w") as file:
        if linux.allocate(file.fileno(), 0, 4096):
            return ok("reserved blocks", "every journal has room for its end")
    return warning(
        "reserved blocks",
        "this file system sets nothing aside (fallocate): on a full disk the end of a command waits for room",
        "put state_dir onto ext4, xfs, btrfs or tmpfs",
    )


def _free(directory: str, wanted: int) -> Finding:
    room = os.statvfs(directory)
    free = room.f_bavail * room.f_frsize
    says = f"{free // 2**20} MiB free on the disk of the state directory"
    if free < wanted:
        return failed(
            "disk", f"{says}, min_free_bytes is {wanted}: no new command would be accepted", "make room, or lower it"
        )
    if room.f_files and room.f_favail < FEW_FILES:
        return warning("disk", f"{says}, but only {room.f_favail} files", "make room: each running command is a file")
    return ok("disk", says)


def _token(places: Places) -> Finding:
    try:
        mode = stat.S_IMODE(os.stat(places.token).st_mode)
    except FileNotFoundError:
        return ok("token", f"one will be generated into {places.token}")
    except OSError as error:
        return failed("token", f"{places.token}: {error.strerror}", "let Bashd's user reach its state directory")
    if mode & 0o077:
        return warning("token", f"{places.token} can be read by others (mode {mode:04o})", f"chmod 600 {places.token}")
    return ok("token", f"{places.token}, mode {mode:04o}")


def _address(settings: Settings, owner: int | None) -> Finding:
    where = f"{settings.host} port {settings.port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        version = _bashd_that_answers(settings) if owner is not None else None
        if version is not None:
            return ok("address", f"{where}: {version} answers")
        return failed("address", f"{where}: {error.strerror}", "set host or port, or end who listens there (ss -ltnp)")
    if owner is not None:
        return warning(
            "address", f"nobody listens on {where}", "give bashd doctor the host and port that the service was given"
        )
    return ok("address", f"{where} is free")


def _bashd_that_answers(settings: Settings) -> str | None:
    """Name and version of the Bashd that listens there; None when it is somebody else, or silent."""
    asked = http.client.HTTPConnection(settings.host, settings.port, timeout=ANSWER_WITHIN_S)
    try:
        asked.request("GET", "/healthz")
        answer = asked.getresponse()
        return "Bashd" if answer.status == 200 and b'"version"' in answer.read(4096) else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        asked.close()
