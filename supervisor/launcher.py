"""``bashd``: reads the settings, prepares what must stand, then becomes init by ``execve``.

Everything that can be wrong from the beginning is found here, in one line and with exit code 2, before any process is
started. What comes after exec is lean and has no secret in its environment or arguments.
"""

import signal

# As PID 1 a signal is lost that comes before its handler stands. Blocked it waits, over exec too, for init.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
# Whoever started us may ignore it; then nobody below us could wait for a child, initdb to begin with.
signal.signal(signal.SIGCHLD, signal.SIG_DFL)

from protocol import linux

# A script of our user that outlived the last Bashd may look for secrets in our environment. (exec undoes this, and what
# we become has a clean one.)
linux.prctl(linux.PR_SET_DUMPABLE, 0)

import argparse
import ipaddress
import os
import resource
import shutil
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from protocol import tls
from protocol.config import Config
from protocol.places import Places
from protocol.sealed import key_of
from supervisor import cluster, database, groups, psql, state
from supervisor.chores import words as chores
from supervisor.chores.record import ChoreError
from supervisor.doctor import examination
from supervisor.log import Log
from supervisor.settings import Settings, SettingsError, load
from supervisor.words import OF_CLIENT

EXIT_CANNOT_START = 2
EXIT_PENDING = 1
BACKLOG = 1024
TITLE_ROOM = 200  # characters of arguments that a process title may be written over


class StartError(Exception):
    """Bashd cannot be started: one line that says why."""


CANNOT_START = (state.StateError, cluster.ClusterError, database.DatabaseError, StartError)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the program; returns the exit status, or never returns because it has become init."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.word != "psql":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    flags = {
        name: value for name, value in vars(arguments).items() if name in Settings.model_fields and value is not None
    }
    try:
        settings = load(flags)
        if arguments.word == "migrate":
            _end_on_signals()
            return _migrate(settings, check_only=arguments.check)
        if arguments.word == "doctor":
            _end_on_signals()
            _forget_libpq_variables()
            return examination.report(settings, as_json=arguments.json)
        if arguments.word in chores.WORDS:
            _end_on_signals()
            _forget_libpq_variables()
            return chores.do(settings, arguments, bashd_version=_version())
        if arguments.word == "psql":
            _unblock_signals()
            psql.become(Places(str(settings.state_dir)), rest)
        try:
            _serve(settings)
        except CANNOT_START as error:
            if settings.log != "json":
                raise
            Log("launcher", "json").error("cannot start", error=error)
            return EXIT_CANNOT_START
    except (SettingsError, ChoreError, *CANNOT_START) as error:
        print(f"bashd: {error}", file=sys.stderr)
        return EXIT_CANNOT_START


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, like every other of ours."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_CANNOT_START, f"bashd: {message} ({self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bashd",
        description="Runs bash scripts over HTTP, stops their whole tree, keeps the record in PostgreSQL.",
        epilog="Every setting is also a variable BASHD_NAME and a line in .env or bashd.toml. "
        "Exit status 2: it cannot start, and one line says why.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bashd {_version()}")
    words = parser.add_subparsers(dest="word", required=True, metavar="WORD")
    serve = words.add_parser("serve", help="run the service", allow_abbrev=False)
    migrate = words.add_parser("migrate", help="bring the database's schema up to date", allow_abbrev=False)
    migrate.add_argument("--check", action="store_true", help="change nothing; exit status 1 if something is pending")
    doctor = words.add_parser(
        "doctor", help="say what works on this machine, what does not, and what to do about it", allow_abbrev=False
    )
    doctor.add_argument("--json", action="store_true", help="one array of findings")
    psql_word = words.add_parser(
        "psql", help="open the embedded database", epilog="All other arguments are psql's.", allow_abbrev=False
    )
    for name, text in OF_CLIENT.items():
        words.add_parser(name, help=text)  # for the list: supervisor.entry has them before they come here
    moving = chores.add_to(words)
    for name, field in Settings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        default = "" if field.is_required() or field.default_factory or field.default is None else field.default
        text = f"{field.description}" + (f" ({default})" if default != "" else "")
        # A switch may stand for itself.
        alone: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        for parser_of_all in (serve, doctor):
            parser_of_all.add_argument(flag, dest=name, metavar="VALUE", help=text.replace("%", "%%"), **alone)
        if name in ("database_url", "state_dir", "pg_user"):
            for parser_of_database in (migrate, *moving):
                parser_of_database.add_argument(flag, dest=name, metavar="VALUE", help=text.replace("%", "%%"))
        if name == "state_dir":
            psql_word.add_argument(flag, dest=name, metavar="VALUE", help=text.replace("%", "%%"))
    return parser


def _version() -> str:
    return metadata.version("bashd")


def _serve(settings: Settings) -> NoReturn:
    """Prepare everything, then become init."""
    if not shutil.which("bash") and not os.access(settings.bash, os.X_OK):
        raise StartError("there is no bash on this machine")
    _try_tls(settings)
    pass_env = {name: os.environ[name] for name in settings.pass_env if name in os.environ}
    _forget_libpq_variables()
    places = Places(str(settings.state_dir))
    state.prepare(places)
    lock_fd = state.take_lock(places)
    node_id = state.node_id(places)
    token = _token(settings, places)
    secrets_key = _secrets_key(settings, places)
    listening = _listen(settings.host, settings.port)
    postgres, conninfo = _database(settings, places)
    _keep_scripts_from(postgres, settings)
    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The last thing that could fail is done: from here on we may be moved.
    found = groups.prepare(node_id, settings.cgroups)
    config = Config(
        version=_version(),
        node_id=node_id,
        state_dir=places.state_dir,
        host=settings.host,
        port=listening.getsockname()[1],
        allowed_hosts=settings.allowed_hosts,
        token=token,
        secrets_key=secrets_key.hex(),
        tls_cert=_path(settings.tls_cert),
        tls_key=_path(settings.tls_key),
        behind_proxy=settings.behind_proxy,
        database_url=conninfo,
        postgres_argv=postgres.argv if postgres else None,
        postgres_uid=postgres.uid if postgres else None,
        postgres_gid=postgres.gid if postgres else None,
        max_running=settings.max_running,
        max_queued=settings.max_queued,
        min_free_bytes=settings.min_free_bytes,
        keep_days=settings.keep_days,
        keep_audit_days=settings.keep_audit_days,
        keep_commands=settings.keep_commands,
        max_script_bytes=settings.max_script_bytes,
        max_body_bytes=settings.max_body_bytes,
        default_timeout_s=settings.default_timeout_s,
        default_limits=settings.default_limits,
        max_limits=settings.max_limits,
        cgroups=settings.cgroups,
        groups=found.directory,
        controllers=found.controllers,
        no_groups=found.why_not,
        commands_per_worker=settings.commands_per_worker,
        shutdown_timeout_s=settings.shutdown_timeout_s,
        on_shutdown=settings.on_shutdown,
        log_format=settings.log,
        pass_env=pass_env,
        default_run_as=settings.default_run_as,
        allowed_run_as=settings.allowed_run_as,
        no_new_privs=settings.no_new_privs,
        bash=str(settings.bash),
        nofile=list(nofile),
        sys_path=sys.path,
        fault=os.environ.get("BASHD_FAULT"),
    )
    # Thousands of commands need more descriptors than the usual soft limit; scripts get the original one.
    resource.setrlimit(resource.RLIMIT_NOFILE, (nofile[1], nofile[1]))
    _say_where(settings, places, config.port)
    _become_init(config, lock_fd, listening)


def _try_tls(settings: Settings) -> None:
    try:
        tls.context(_path(settings.tls_cert), _path(settings.tls_key))
    except OSError as error:
        # ssl.SSLError is an OSError too; of both the words are in the last place.
        why = error.strerror or str(error)
        raise StartError(f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key}: {why}") from error


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    except ValueError as error:  # of the codec for names, about labels; or about a NUL
        raise StartError(f"cannot listen on {host!r} port {port}: that is no host name") from error
    return listening


def _database(settings: Settings, places: Places) -> tuple[cluster.Cluster | None, str]:
    if settings.database_url is None:
        embedded = cluster.prepare(places, settings.pg_user, settings.log)
        return embedded, embedded.conninfo
    conninfo = settings.database_url.get_secret_value()
    silence = database.check(conninfo)
    if silence is not None:
        Log("launcher", settings.log).error("the database does not answer, starting without it", error=silence)
    return None, conninfo


def _keep_scripts_from(postgres: cluster.Cluster | None, settings: Settings) -> None:
    name = settings.script_user_with(postgres.uid) if postgres is not None else None
    if name is not None:
        raise StartError(f"{name} is the user of the embedded PostgreSQL, as whom no script may run; set pg_user")


def _token(settings: Settings, places: Places) -> str | None:
    if settings.auth == "none":
        return None
    if settings.token is not None:
        return settings.token.get_secret_value()
    return state.token(places)[0]


def _secrets_key(settings: Settings, places: Places) -> bytes:
    if settings.secrets_key is not None:
        return key_of(settings.secrets_key.get_secret_value())
    return state.secrets_key(places)


def _say_where(settings: Settings, places: Places, port: int) -> None:
    host = f"[{settings.host}]" if _is_ipv6(settings.host) else settings.host
    if settings.auth == "none":
        token = "no token is needed"  # noqa: S105
    elif settings.token is not None:
        token = "the token is the one that was set"  # noqa: S105
    else:
        token = f"the token is in {places.token}"
    scheme = "https" if settings.tls_cert else "http"
    url = f"{scheme}://{host}:{port}"
    log = Log("launcher", settings.log)
    if settings.log == "json":
        log.info("serving", version=_version(), url=url, token=token)
    else:  # for a person, who reads this one first
        print(f"bashd {_version()} on {url}, {token}", file=sys.stderr, flush=True)
    if settings.speaks_plainly:
        log.error("plain HTTP, as plain_http has it: who listens on the network reads tokens and scripts", host=host)
    state.forget_login_code(places)
    if settings.auth != "none" and sys.stderr.isatty():
        # Only for eyes: what goes to a log is read by more people, and for longer than a code is meant to last.
        code = state.login_code(places)
        print(f"bashd: look at {url}/#code={code} (once, within 10 minutes)", file=sys.stderr)
    try:
        state.leave_url(places, f"{scheme}://{_reached_at(settings.host)}:{port}")
    except state.StateError as error:  # a full disk, say: the service does without
        log.error("the command line will not find this service by itself", error=error)


def _reached_at(host: str) -> str:
    """The address by which this machine reaches what listens on ``host``."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (it is asked for, not bound)
    return f"[{reached}]" if _is_ipv6(reached) else reached


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _become_init(config: Config, lock_fd: int, listening: socket.socket) -> NoReturn:
    """Replace this program. The settings, secrets among them, go in a sealed memfd; the environment is almost empty."""
    config_fd = linux.sealed_memfd("bashd settings", config.to_json())
    passed = [config_fd, lock_fd, listening.fileno()]
    for fd in passed:
        os.set_inheritable(fd, True)
    main_file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
    argv = [sys.executable, "-I", "-S", "-E", main_file, *(str(fd) for fd in passed), "-" * TITLE_ROOM]
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, argv, environment)


def _forget_libpq_variables() -> None:
    """PGHOST, PGOPTIONS and so on are meant for other programs: init's children will not have them either."""
    for name in [name for name in os.environ if name.startswith("PG") and name != "PG_BINDIR"]:
        del os.environ[name]


def _unblock_signals() -> None:
    """For a program that takes our place, and ends as it likes."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def _end_on_signals() -> None:
    """For chores: a signal ends them by way of every ``finally``."""

    def end(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    told = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    for number in told:
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, told)


def _migrate(settings: Settings, *, check_only: bool) -> int:
    """``bashd migrate [--check]``: on the database of one's own, or on the embedded one while Bashd is not running."""
    _forget_libpq_variables()
    if settings.database_url is not None:
        conninfo = settings.database_url.get_secret_value()
        silence = database.check(conninfo)
        if silence is not None:
            raise StartError(f"the database does not answer: {silence}")
        return _migrate_at(conninfo, check_only=check_only)
    places = Places(str(settings.state_dir))
    state.prepare(places)
    lock_fd = state.take_lock(places)
    try:
        embedded = cluster.prepare(places, settings.pg_user)
        with cluster.running(embedded):
            return _migrate_at(embedded.conninfo, check_only=check_only)
    finally:
        os.ftruncate(lock_fd, 0)


def _migrate_at(conninfo: str, *, check_only: bool) -> int:
    names = database.migrate(conninfo, check_only=check_only)
    for name in names:
        print(f"{'pending' if check_only else 'applied'}: {name}")
    if not names:
        print("the schema is up to date")
    return EXIT_PENDING if check_only and names else 0


if __name__ == "__main__":
    sys.exit(main())
