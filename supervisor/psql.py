"""``bashd psql``: the embedded database, opened with the psql that belongs to it."""

from __future__ import annotations

import os
import shutil
import stat
from typing import NoReturn

from protocol.places import Places
from supervisor import cluster


def become(places: Places, arguments: list[str]) -> NoReturn:
    """Replace this program by psql. Raises ``ClusterError`` when there is nothing to open, or no psql."""
    host = _socket_directory(places)
    psql = _psql(places)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    argv = [psql, "-h", host, "-U", cluster.SUPERUSER, "-d", cluster.DATABASE, *arguments]
    os.execve(psql, argv, environment)


def _socket_directory(places: Places) -> str:
    """Where the running PostgreSQL listens."""
    directory = places.postgres
    try:
        with open(os.path.join(places.postgres, "socket_directory")) as file:
            directory = file.read().strip()
    except FileNotFoundError:
        pass  # it lies in the usual place
    except PermissionError as error:
        raise cluster.ClusterError(f"{places.postgres} is not ours to read: ask as the user of the service") from error
    try:
        if stat.S_ISSOCK(os.stat(os.path.join(directory, cluster.SOCKET)).st_mode):
            return directory
    except FileNotFoundError:
        pass  # said below
    except PermissionError as error:
        raise cluster.ClusterError(f"{directory} is not ours to read: ask as the user of the service") from error
    raise cluster.ClusterError(
        f"no embedded PostgreSQL runs on {places.state_dir}: start bashd serve; "
        "a database of your own is opened with psql and its address"
    )


def _psql(places: Places) -> str:
    """That of the version which made the cluster, else any: it speaks with older servers too."""
    try:
        with open(os.path.join(places.postgres, "data", "PG_VERSION")) as file:
            major = int(file.read())
    except (OSError, ValueError):
        major = 0
    found = sorted(cluster.find_binaries(), key=lambda one: one.major != major)
    for path in [*(one.path("psql") for one in found), shutil.which("psql") or ""]:
        if path and os.access(path, os.X_OK):
            return path
    raise cluster.ClusterError(
        "there is no psql beside these PostgreSQL binaries or on PATH: install a PostgreSQL client"
    )
