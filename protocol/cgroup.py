"""Where our own control groups are (cgroups(7)): what the kernel tells of them is read there."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def own(controller: str) -> "str | None":
    """The directory of the cgroup of version 1 that we are in for ``controller``; with "" that of version 2.

    None when there is none, or it cannot be seen from here.
    """
    for controllers, path in _memberships():
        if controller in controllers.split(","):
            for root, place in _mounts(controller):
                if path == root or path.startswith(root.rstrip("/") + "/"):
                    return place + path[len(root.rstrip("/")) :].rstrip("/")
    return None


def _memberships() -> "Iterator[tuple[str, str]]":
    """(controllers with commas between, path) of each hierarchy; the controllers of version 2 are named "" here."""
    try:
        with open("/proc/self/cgroup") as file:
            for line in file:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                yield controllers, path
    except OSError:
        return


def _mounts(controller: str) -> "Iterator[tuple[str, str]]":
    """(what of the hierarchy is mounted, where) of each mount with this controller (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split()[:3]
            root, place = before.split()[3:5]
            if (kind == "cgroup2" and not controller) or (kind == "cgroup" and controller in options.split(",")):
                yield root, place


def oom_counter() -> "str | None":
    """The file that counts whom the kernel ended in our cgroup for want of memory; None: nobody counts that.

    It has a line ``oom_kill NUMBER`` in both versions (kernel: admin-guide/cgroup-v2, admin-guide/cgroup-v1/memory).
    """
    for controller, name in (("", "memory.events"), ("memory", "memory.oom_control")):
        directory = own(controller)
        if directory is not None:
            path = f"{directory}/{name}"
            try:
                with open(path, "rb") as file:
                    if count_in(file.read(), b"oom_kill") is not None:
                        return path
            except OSError:
                pass  # the root of version 2 has no such file; the other version may count
    return None


def count_in(text: bytes, name: bytes) -> "int | None":
    """The number behind ``name`` in the content of a file of such lines; None when it is not there."""
    for line in text.splitlines():
        if line.startswith(name + b" "):
            return int(line[len(name) + 1 :])
    return None
