"""The settings as plain values: what the launcher hands to init, and init to every process below it."""

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Config:
    """Validated settings, frozen. The launcher alone builds it from flags, environment and files.

    A plain class because ``dataclasses`` would make every fork of a worker dearer (5 %).
    """

    version: str
    node_id: str  # UUID of this state directory, the owner of its rows
    state_dir: str
    host: str
    port: int
    allowed_hosts: list[str]  # Host names answered beside those of the bound address; [] = only those
    token: str | None  # None: no authentication (loopback only)
    secrets_key: str  # 32 bytes in hexadecimal; seals the secrets of commands
    tls_cert: str | None  # files of a certificate and its key; None: plain HTTP
    tls_key: str | None
    behind_proxy: list[str]  # addresses or networks whose X-Forwarded-* are believed
    database_url: str  # libpq conninfo, with its password; for the embedded server its socket
    postgres_argv: list[str] | None  # the embedded postmaster's argv; None: the database is the user's own
    postgres_uid: int | None  # user and group the postmaster runs as; None: as we are
    postgres_gid: int | None
    max_running: int
    max_queued: int
    min_free_bytes: int  # on the disk of the state directory, for a command to be accepted; 0 = not looked at
    keep_days: float | None  # after its end a command is kept for so long; None: for ever
    keep_audit_days: float | None  # for so long an entry of the audit log is kept; None: for ever
    keep_commands: int | None  # so many of the newest are kept; None: all
    max_script_bytes: int
    max_body_bytes: int
    default_timeout_s: float | None  # for commands that name none; None: no limit
    default_limits: dict[str, int]  # for commands that name none of that kind (``protocol.limits``)
    max_limits: dict[str, int]  # that no command may exceed
    cgroups: str  # "auto", "always" or "never"
    groups: str | None  # the cgroup below which commands get groups of their own; None: nowhere
    controllers: list[str]  # that these have
    no_groups: str | None  # why not, or why not more of them
    commands_per_worker: int
    shutdown_timeout_s: float
    on_shutdown: str  # "stop" or "leave"
    log_format: str  # "text" or "json"
    pass_env: dict[str, str]  # what the operator lets every script see
    default_run_as: str | None  # as root: the user of commands that name none; None: as we are
    allowed_run_as: list[str]  # whom commands may name; [] = every user but root and that of the database
    no_new_privs: bool
    bash: str  # absolute path
    nofile: list[int]  # soft and hard RLIMIT_NOFILE as the launcher found them: scripts get these
    sys_path: list[str]  # the launcher's import path, for the API (the lean processes do without site)
    fault: str | None  # a named crash point, set by tests alone

    def __init__(self, **values: "Any") -> None:
        expected = set(Config.__annotations__)
        if set(values) != expected:
            raise TypeError(f"Config: missing {expected - set(values)}, unknown {set(values) - expected}")
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Config is frozen; tried to set {name}")

    def to_json(self) -> bytes:
        return json.dumps(self.__dict__).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Config":
        return cls(**json.loads(text))


def boot_id() -> str:
    """Names the life of this machine or container; another value means that no process of before lives.

    The kernel's boot id alone is not enough: a restarted container keeps it and its process ids begin low
    again. The start time of the first process tells the two lives apart (proc_pid_stat(5), field 22).
    """
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    try:
        with open("/proc/1/stat", "rb") as file:
            first_process_start = file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        first_process_start = "hidden"  # /proc mounted with hidepid: then the machine's boot is all we know
    return f"{boot}/{first_process_start}/{os.readlink('/proc/self/ns/pid')}"
