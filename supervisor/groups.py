"""Control groups for commands, as far as the machine lets us make some: found and prepared at the start.

        our own cgroup ──▶ bashd-<node id> ──▶ bashd        we ourselves, where controllers are handed down
                                          └──▶ 42           a command
                                          └──▶ 43 …

The kernel hands controllers down to the groups below only from one that has no processes itself, unless that is the
root (admin-guide/cgroup-v2, "No Internal Process Constraint"); so we move out of ours into one of our own.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from protocol import cgroup
from worker import group

WANTED = ("memory", "pids", "cpu")
_SYSTEMD = "/run/systemd/system"  # sd_booted(3)
_DELEGATED = ("user.delegate", "trusted.delegate")  # systemd.resource-control(5), Delegate=


@dataclass(frozen=True)
class Found:
    """What there is. ``directory``: where each command may have a group; None: nowhere, and ``why_not`` says why."""

    directory: str | None
    controllers: list[str]
    why_not: str | None


def look(wanted: tuple[str, ...] = WANTED) -> Found:
    """What there would be; changes nothing. ``directory`` is our own cgroup."""
    base = cgroup.own("")
    if base is None:
        return Found(None, [], "no cgroup v2 is mounted here")
    if not os.access(base, os.W_OK) or not os.access(f"{base}/cgroup.procs", os.W_OK):
        return Found(None, [], "our cgroup is not ours to write in")
    if os.path.isdir(_SYSTEMD) and not _is_root(base) and not _is_delegated(base):
        return Found(None, [], "systemd has not delegated our cgroup")
    with open(f"{base}/cgroup.controllers") as file:
        offered = file.read().split()
    controllers = [one for one in wanted if one in offered]
    missing = [one for one in wanted if one not in offered]
    return Found(base, controllers, f"our cgroup does not have: {', '.join(missing)}" if missing else None)


def prepare(node_id: str, setting: str, wanted: tuple[str, ...] = WANTED) -> Found:
    """Make the place for groups, as ``setting`` (auto, always, never) has it, and move us if that is needed for it.

    What an earlier Bashd of this state directory has left there, and is empty, is removed.
    """
    if setting == "never":
        return Found(None, [], "cgroups=never")
    found = look(wanted)
    if found.directory is None or (setting == "auto" and not found.controllers):
        return Found(None, [], found.why_not)
    base, place = found.directory, f"{found.directory}/bashd-{node_id}"
    try:
        os.makedirs(place, exist_ok=True)
        controllers, trouble = _hand_down(base, place, found.controllers)
    except OSError as error:
        group.remove(place)
        return Found(None, [], f"our cgroup: {error.strerror}")
    for name in os.listdir(place):
        if name.isdigit():
            group.remove(f"{place}/{name}")
    if setting == "auto" and not controllers:
        group.remove(place)
        return Found(None, [], trouble)
    return Found(place, controllers, trouble or found.why_not)


def _hand_down(base: str, place: str, offered: list[str]) -> tuple[list[str], str | None]:
    """Give the groups below ``place`` these controllers; which they have, and why not more. Raises ``OSError``."""
    if not offered:
        return [], None
    moved = not _is_root(base)
    if moved:
        os.makedirs(f"{place}/bashd", exist_ok=True)
        _write(f"{place}/bashd/cgroup.procs", "0")
    controllers, trouble = [], None
    for one in offered:
        try:
            _write(f"{base}/cgroup.subtree_control", f"+{one}")
            _write(f"{place}/cgroup.subtree_control", f"+{one}")
        except OSError as error:
            others = "other processes are in it" if error.errno == errno.EBUSY else error.strerror
            trouble = f"our cgroup does not hand down {one}: {others}"
        else:
            controllers.append(one)
    if moved and not controllers:
        _write(f"{base}/cgroup.procs", "0")
        os.rmdir(f"{place}/bashd")
    return controllers, trouble


def leave(place: str, controllers: list[str]) -> None:
    """Undo ``prepare``, at the very end of Bashd. Nothing is done while commands are in there.

    At the root nothing is taken back: others there may rely on what was handed down before we came, or since.
    """
    base = os.path.dirname(place)
    try:
        if any(name.isdigit() and not group.remove(f"{place}/{name}") for name in os.listdir(place)):
            return
        if os.path.isdir(f"{place}/bashd"):
            for directory in (place, base):
                for one in controllers:
                    _write(f"{directory}/cgroup.subtree_control", f"-{one}")
            _write(f"{base}/cgroup.procs", "0")
    except OSError:
        return  # somebody has come in, and needs them; or it was taken from us
    group.remove(place)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _is_root(base: str) -> bool:
    return not os.path.exists(f"{base}/cgroup.type")  # the root has none


def _is_delegated(base: str) -> bool:
    for name in _DELEGATED:
        try:
            if os.getxattr(base, name) == b"1":
                return True
        except OSError:
            continue
    return False
