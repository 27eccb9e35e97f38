"""Starting bash: its group, its environment, its descriptors, and nothing of ours."""

import os
import pwd
import signal
import time

from protocol import linux
from worker import limits
from worker.directory import OwnDirectory
from worker.feed import Feed
from worker.group import Group, spread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

OOM_SCORE_ADJ = 500  # how much sooner than Bashd the kernel is to end scripts when memory runs out
SHOWN_TRIES = 20  # a tenth of a millisecond apart
SCRIPT_FD = 250  # the script's own: above what scripts number by hand, below bash's 255

# Python ignores these two, and an ignored signal stays ignored over exec.
_IGNORED_BY_PYTHON = [signal.SIGPIPE, signal.SIGXFSZ]


class SpawnError(Exception):
    """Bash could not be started; the message says what failed."""


class Surroundings:
    """What is the same for every script of this Bashd; read once, before the first fork."""

    def __init__(self, *, bash: str, pass_env: "dict[str, str]") -> None:
        self.bash = bash
        self.precedence = Precedence()
        self.environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "SHELL": bash,  # without it bash looks its user up, which costs it a twentieth of its start
            **_home_of(os.getuid()),
            **pass_env,
        }


class Precedence:
    """Who is ended first when memory runs out: scripts before workers, so far as we may tell the kernel.

    What is started inherits the score of who starts it, and must have it from the beginning: set on bash afterwards,
    its first child might not have it. So a worker takes the scripts' score before it starts bash, and its own back
    only when the command lasts: most are over sooner, and each change is three system calls.
    """

    def __init__(self) -> None:
        """In the process that everything inherits its score from."""
        self.scripts = min(linux.oom_score_adj(os.getpid()) + OOM_SCORE_ADJ, 1000)
        self._own: int | None = None  # of forker and workers; None: they cannot change it
        self._is_scripts = False  # this process has the score of scripts now

    def go_between(self) -> None:
        """Be ended after scripts, and before the rest of Bashd; to be called by the process that forks workers."""
        score = (linux.oom_score_adj(os.getpid()) + self.scripts) // 2
        if _set_score(os.getpid(), score):
            self._own = score

    def as_scripts(self) -> bool:
        """Have what we start from now on be ended first. False: we cannot; then it has to be told of each by itself."""
        if self._own is None:
            return False
        if not self._is_scripts:
            self._is_scripts = self.put_first(os.getpid())
        return self._is_scripts

    def as_worker(self) -> None:
        """Be ended after scripts again."""
        if self._own is not None and self._is_scripts:
            self._is_scripts = not _set_score(os.getpid(), self._own)

    def put_first(self, pid: int) -> bool:
        """Have the kernel end this process before us. False: it cannot be told."""
        return _set_score(pid, self.scripts)


def _set_score(pid: int, score: int) -> bool:
    """False: the process is hidden from its own user, which is ours and not root."""
    try:
        linux.set_oom_score_adj(pid, score)
    except OSError:
        return False
    return True


def _home_of(uid: int) -> "dict[str, str]":
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return {"HOME": "/", "USER": str(uid), "LOGNAME": str(uid)}
    return _home(entry)


class Program:
    """What is executed: everything but whom it runs as, and what it is held to."""

    def __init__(
        self,
        path: str,
        argv: "list[str]",
        environment: "dict[str, str]",
        descriptors: "list[tuple[int, int]]",
        cwd: str,
    ) -> None:
        """``descriptors``: ours, and the number that each has there."""
        self.path = path
        self.argv = argv
        self.environment = environment
        self.descriptors = descriptors
        self.cwd = cwd


class Bash:
    """A started bash and our ends of its pipes. ``stderr_fd`` is None when both streams share one pipe."""

    def __init__(self, pid: int, start_time: int, stdout_fd: int, stderr_fd: "int | None") -> None:
        self.pid = pid
        self.start_time = start_time  # clock ticks after boot
        self.stdout_fd = stdout_fd
        self.stderr_fd = stderr_fd


def start(
    spec: "dict[str, Any]",
    secrets: "dict[str, str]",
    surroundings: Surroundings,
    own_directory: OwnDirectory,
    feed: "Feed | None",
    group: "Group | None",
) -> Bash:
    """Start the script in a group of its own; raises ``SpawnError`` with nothing left behind.

    ``own_directory`` is made for a command that names no ``cwd``, ``feed`` for one whose stdin is fed while it runs,
    ``group`` for one that has a cgroup of its own; to remove them is the caller's.
    """
    user = _user(spec["run_as"])
    environment = {
        **surroundings.environment,
        **_home(user),
        "BASHD_COMMAND_ID": str(spec["id"]),
        **_trace(spec.get("traceparent")),  # journals of an earlier version know of none
        **spec["env"],
        **secrets,
    }
    argv = [f"bashd-{spec['id']}", f"/dev/fd/{SCRIPT_FD}", *spec["args"]]
    opened: list[int] = []
    try:
        cwd = spec["cwd"] or own_directory.make(user)
        script = linux.sealed_memfd("script", spec["script"].encode())
        opened.append(script)
        stdin = _stdin(spec["stdin"], feed, user)
        opened.append(stdin)
        stdout, stdout_writer = _pipe(user)
        opened += [stdout, stdout_writer]
        stderr, stderr_writer = None, stdout_writer
        if not spec["merge_stderr"]:
            stderr, stderr_writer = _pipe(user)
            opened += [stderr, stderr_writer]
        descriptors = [(stdin, 0), (stdout_writer, 1), (stderr_writer, 2), (script, SCRIPT_FD)]
        program = Program(surroundings.bash, argv, environment, descriptors, cwd)
        before = linux.ticks()
        limited = spread(spec, group)
        if group is not None:
            group.make()
        inherits = surroundings.precedence.as_scripts()
        if user is None and group is None and not limited:
            pid = _spawn(program)
        else:
            pid = _fork_as(user, limited, group, program)
    except OSError as error:
        for fd in opened:
            os.close(fd)
        where = f"{error.filename}: " if error.filename else ""
        raise SpawnError(f"{where}{error.strerror}") from error
    for fd in opened:
        if fd not in (stdout, stderr):
            os.close(fd)
    if not inherits:
        # The kernel wakes us a moment before it takes the new program for one that its own user may look into.
        for _ in range(SHOWN_TRIES):
            if surroundings.precedence.put_first(pid):
                break
            time.sleep(0.0001)
    return Bash(pid, linux.started_since(pid, before), stdout, stderr)


def _user(name: "str | None") -> "pwd.struct_passwd | None":
    if name is None:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError as error:
        raise SpawnError(f"run_as: no user {name!r} on this machine") from error


def _home(user: "pwd.struct_passwd | None") -> "dict[str, str]":
    return {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name} if user else {}


def _trace(traceparent: "str | None") -> "dict[str, str]":
    return {"TRACEPARENT": traceparent} if traceparent else {}


def _stdin(text: "str | None", feed: "Feed | None", user: "pwd.struct_passwd | None") -> int:
    if feed is not None:
        return feed.open(None if user is None else (user.pw_uid, user.pw_gid))
    if text is None:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    return linux.sealed_memfd("stdin", text.encode())


def _pipe(user: "pwd.struct_passwd | None") -> "tuple[int, int]":
    reader, writer = os.pipe()
    if user is not None:
        os.fchown(writer, user.pw_uid, user.pw_gid)  # else he could not open /dev/stdout and /dev/stderr
    os.set_blocking(reader, False)  # ours alone: the script's end stays as programs expect it
    return reader, writer


def _spawn(program: Program) -> int:
    """The plain case: no copy of our memory is made (posix_spawn(3))."""
    os.chdir(program.cwd)
    return os.posix_spawn(
        program.path,
        program.argv,
        program.environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in program.descriptors],
        setpgroup=0,
        setsigmask=[],
        setsigdef=_IGNORED_BY_PYTHON,
    )


def _fork_as(
    user: "pwd.struct_passwd | None", limited: "dict[str, int]", group: "Group | None", program: Program
) -> int:
    """Fork, be limited, become ``user`` for good, then exec. What fails in the child is raised here as ``OSError``."""
    groups = os.getgrouplist(user.pw_name, user.pw_gid) if user else []
    failure, failure_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_bash(user, groups, limited, group, program, failure_writer)
    os.close(failure_writer)
    try:
        text = os.read(failure, 4096)  # EOF when exec has closed the other end
    finally:
        os.close(failure)
    if text:
        os.waitpid(pid, 0)
        number, _, step = text.decode().partition(" ")
        raise OSError(int(number), os.strerror(int(number)), step)
    return pid


def _become_bash(
    user: "pwd.struct_passwd | None",
    groups: "list[int]",
    limited: "dict[str, int]",
    group: "Group | None",
    program: Program,
    failure_writer: int,
) -> "NoReturn":
    step = "setpgid"
    try:
        os.setpgid(0, 0)
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        for ours, theirs in program.descriptors:
            os.dup2(ours, theirs)
        if group is not None:
            step = "cgroup"
            group.enter()
        if user is not None:
            # Groups before the user: afterwards we may change neither.
            step = f"run_as {user.pw_name}"
            os.setgroups(groups)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        step = program.cwd
        os.chdir(program.cwd)  # as the user, who must be able to reach it
        step = "limits"
        limits.apply(limited)
        step = program.path
        os.execve(program.path, program.argv, program.environment)
    except OSError as error:
        os.write(failure_writer, f"{error.errno} {step}".encode())
    except MemoryError:
        os.write(failure_writer, b"12 limits")  # ENOMEM: of its memory we are the first to use some
    finally:
        os._exit(127)
