"""Bashd as PID 1 of a pid namespace: what a container does with it, without an engine."""

from __future__ import annotations

import os
import signal
import subprocess

from tests.processes import BASHD, Service, children, eventually

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
# As the image's entry point begins: a signal that comes before its handler stands waits.
ENTRYPOINT = [*NAMESPACE, "env", "--block-signal=TERM,INT,HUP", BASHD]


def is_permitted() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def blocks_term(pid: int) -> bool:
    """Whether env(1) has come so far: before that the kernel drops what is sent to a PID 1 without handler."""
    with open(f"/proc/{pid}/status") as file:
        masks = dict(line.split(":", 1) for line in file)
    return bool(int(masks["SigBlk"], 16) >> (signal.SIGTERM - 1) & 1)


class FirstProcess(Service):
    """``init`` is unshare(1), whose only child Bashd is."""

    def bashd_pid(self) -> int:
        assert self.init is not None
        unshare = self.init.pid
        return eventually(lambda: children(unshare))[0]

    def tell(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.bashd_pid(), number)
