"""Who scripts run as, what that lets them do, and the programs that they and their operators need."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator

from supervisor.doctor.finding import Finding, failed, ok, warning
from supervisor.settings import Settings

OLDEST_BASH = (4, 4)
BASH_SAYS = r"version (\d+)\.(\d+)\S*"


def findings(settings: Settings) -> Iterator[Finding]:
    """Bash first: without it there is nothing else to say."""
    yield _bash(str(settings.bash))
    yield _user(settings)
    if not settings.no_new_privs:
        yield warning(
            "privileges",
            "no_new_privs is off: a script may use sudo and other setuid programs, and its processes may then be such "
            "that Bashd must not end them",
            "leave it on, unless scripts have to",
        )
    yield _program("ps", "procps", "to look at Bashd and its groups")


def _bash(path: str) -> Finding:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, env={}, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return failed("bash", f"{path}: {error}", "install bash, or set bash to where it is")
    found = re.search(BASH_SAYS, said)
    if found is None:
        return failed("bash", f"{path} does not say that it is bash", "set bash to where it is")
    if (int(found[1]), int(found[2])) < OLDEST_BASH:
        return warning("bash", f"{path}, {found[0]}", "Bashd is tried with bash 5; install a newer one")
    return ok("bash", f"{path}, {found[0]}")


def _user(settings: Settings) -> Finding:
    if os.getuid() != 0:
        return ok("user", f"scripts run as user {os.getuid()}, as Bashd does: they can signal it, and not read it")
    if settings.default_run_as is not None and pwd.getpwnam(settings.default_run_as).pw_uid != 0:
        return ok("user", f"Bashd runs as root, scripts that name nobody as {settings.default_run_as}")
    return warning(
        "user",
        "Bashd runs as root: a script without run_as can do everything on this machine",
        "run Bashd as an ordinary user, or set default_run_as",
    )


def _program(name: str, package: str, what_for: str) -> Finding:
    path = shutil.which(name)
    if path is None:
        return warning(name, f"it is not there ({what_for})", f"install {package}")
    return ok(name, path)
