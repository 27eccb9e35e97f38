"""Where the service is: what ``BASHD_URL`` and ``BASHD_TOKEN`` say, else what a running ``bashd serve`` has left."""

from __future__ import annotations

import os
from dataclasses import dataclass

from client.errors import NoService

SYSTEM = "/var/lib/bashd"


@dataclass(frozen=True)
class Place:
    """An address, and the token for it."""

    url: str
    token: str | None


def find() -> Place:
    """The service that is meant. Raises ``NoService`` when there is no trace of one."""
    url, token = os.environ.get("BASHD_URL"), os.environ.get("BASHD_TOKEN")
    if url:
        # The token of this machine is for no other: it is sent there only when it is the same address.
        same = [one for one in state_dirs() if _read(one, "url") == url.rstrip("/")]
        return Place(url, token or (_token(same[0]) if same else None))
    for state_dir in state_dirs():
        found = _read(state_dir, "url")
        if found:
            return Place(found, token or _token(state_dir))
    where = " or ".join(state_dirs())
    raise NoService(f"there is no service: none has run in {where}; start one with bashd serve, or set BASHD_URL")


def local_token() -> str:
    """The token of the service on this machine. Raises ``NoService`` when there is none that we may read."""
    for state_dir in state_dirs():
        token = _token(state_dir)
        if token:
            return token
    where = " or ".join(state_dirs())
    raise NoService(f"there is no token in {where}: no service has made one there, or it was given one")


def state_dirs() -> list[str]:
    """The state directories in which to look, ours first."""
    chosen = os.environ.get("BASHD_STATE_DIR")
    if chosen:
        return [os.path.abspath(os.path.expanduser(chosen))]
    if os.getuid() == 0:
        return [SYSTEM]
    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):
        home = os.path.join(os.path.expanduser("~"), ".local", "state")
    return [os.path.join(home, "bashd"), SYSTEM]


def _token(state_dir: str) -> str | None:
    try:
        return _read(state_dir, "token")
    except OSError as error:
        raise NoService(
            f"its token is in {state_dir}/token, which cannot be read: {error.strerror}; set BASHD_TOKEN"
        ) from error


def _read(state_dir: str, name: str) -> str | None:
    try:
        with open(os.path.join(state_dir, name), encoding="utf-8") as file:
            return file.read().strip() or None
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    except OSError:
        if name == "token":
            raise
        return None  # an address that we may not read is none of ours
