"""A pid is not an identity: it is given again, and whoever has it then has nothing to do with us."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import REPOSITORY, started_here


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a pid namespace")
@pytest.mark.parametrize("scene", ["everything_dead", "behind_the_back_of_the_supervisor", "of_what_was_left"])
def test_who_got_the_pid_of_a_dead_one_is_left_alone(state_dir: Path, database_url: str, scene: str) -> None:
    """The pids of a worker, a bash, a left process belong to others when Bashd looks: they are not touched.

    What the dead left is ended all the same, and the record says that it is lost.
    """
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with subprocess.Popen(
        [*namespace, sys.executable, "-m", "tests.pid_reuse", scene, str(state_dir), database_url],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as inside:
        started_here.add(inside.pid)
        try:
            said, _ = inside.communicate(timeout=120)
        finally:
            inside.kill()
            started_here.discard(inside.pid)

    log = state_dir.with_name(state_dir.name + ".log")
    assert inside.returncode == 0, f"{said}\n{log.read_text() if log.exists() else ''}"
