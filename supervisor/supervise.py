"""The start of the supervisor: first the split into supervisor and forker, only then the dear imports."""

import os

from protocol import linux
from protocol.config import Config
from protocol.fault import Fault
from protocol.places import Places
from supervisor.forker import Forker
from supervisor.log import Log
from worker import bash
from worker.group import Groups
from worker.outset import Outset


def main(config: Config, socket_fd: int, lock_fd: int, title: linux.Title) -> int:
    """Be the supervisor until it is told to go; returns its exit status. Runs in init's child."""
    title.set("bashd: supervisor")
    init_pid = os.getppid()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    if config.no_new_privs:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    places = Places(config.state_dir)
    outset = Outset(
        places=places,
        surroundings=bash.Surroundings(bash=config.bash, pass_env=config.pass_env),
        title=title,
        fault=Fault(config.fault, places),
        commands_per_worker=config.commands_per_worker,
        secrets_key=bytes.fromhex(config.secrets_key),
        groups=Groups(config.groups, config.controllers, always=config.cgroups == "always"),
    )
    forker = Forker(outset, (config.nofile[0], config.nofile[1]), Log("forker", config.log_format))
    linux.prctl(linux.PR_SET_DUMPABLE, 0)

    # From here on forking is dear, and the forker does it.
    from protocol import starts
    from supervisor.api_process import ApiProcess
    from supervisor.kin import Kin
    from supervisor.loop import Supervisor

    starts.count(places, "forker")
    api = ApiProcess(config, socket_fd=socket_fd, lock_fd=lock_fd, title=title)
    kin = Kin(
        places, own_pids={forker.pid}, init_pid=init_pid, postgres_argv=config.postgres_argv, groups=config.groups
    )
    return Supervisor(config, forker=forker, api=api, kin=kin).run()
