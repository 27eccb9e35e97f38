"""The directory of a command that names none: empty, its own, and gone when the command has ended.

Making one costs up to a quarter of a millisecond (ext4 looks past every inode that was freed within the last minutes).
So a directory that a command leaves exactly as it found it is kept for the next one.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pwd


# Never as root: chmod(1) may follow a link that was a directory a moment before.
_OPEN_AND_REMOVE = 'exec 2> /dev/null; rm -rf -- "$1" || { chmod -R u+rwx -- "$1"; rm -rf -- "$1"; }'


class OwnDirectory:
    """The directory at ``path`` while a command runs; ``spare`` is where one waits between two commands."""

    def __init__(self, path: str, spare: str) -> None:
        self.path = path
        self._spare = spare
        self._as_made: tuple[int, ...] | None = None  # None: not to be kept

    def make(self, user: "pwd.struct_passwd | None") -> str:
        """Have the directory, of this user if it is not ours; returns its path. Raises ``OSError``."""
        if user is None:
            try:
                os.rename(self._spare, self.path)
            except OSError:
                self._mkdir()
            self._as_made = _look(self.path)
        else:
            self._mkdir()
            os.chown(self.path, user.pw_uid, user.pw_gid)
        return self.path

    def _mkdir(self) -> None:
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            # Of a worker that went before it took the command; or of a command of another database that had this id,
            # perhaps of another user: nobody is to find what somebody else has left.
            remove(self.path)
            os.mkdir(self.path, 0o700)

    def remove(self) -> None:
        """Remove it with all that is in it, or keep it when nothing was done to it. One that is not there is fine."""
        try:
            if self._as_made is not None and _look(self.path) == self._as_made and _is_empty(self.path):
                os.rename(self.path, self._spare)
                return
        except OSError:
            pass  # it was removed, or belongs to another by now
        remove(self.path)


def remove(path: str) -> None:
    """Remove a command's directory with all that is in it. One that is not there is fine."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass  # the command named a directory of its own
    except OSError:
        os.waitpid(start_removing(path), 0)


def start_removing(path: str) -> int:
    """Start a process that removes it with all that is in it; returns its pid.

    rm(1) copes with what a script may have left: deep, wide, full of links, which it does not follow, even if somebody
    changes the tree meanwhile. Directories that are closed to their owner hinder everybody but root.
    """
    if os.getuid() == 0:
        return os.posix_spawnp("rm", ["rm", "-rf", "--", path], {"PATH": os.defpath})
    return os.posix_spawnp("sh", ["sh", "-c", _OPEN_AND_REMOVE, "sh", path], {"PATH": os.defpath})


def _look(path: str) -> "tuple[int, ...]":
    """What would show that something was done to the directory; its time tells of every entry that came or went."""
    now = os.lstat(path)
    return now.st_ino, now.st_mode, now.st_uid, now.st_gid, now.st_nlink, now.st_size, now.st_mtime_ns


def _is_empty(path: str) -> bool:
    """True when it holds neither entries nor attributes (access control lists among them)."""
    return not os.listdir(path) and not os.listxattr(path, follow_symlinks=False)
