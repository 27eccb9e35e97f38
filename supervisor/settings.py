"""The settings: flags, ``BASHD_*``, ``.env``, ``bashd.toml``, in that order of strength; one list for all four."""

from __future__ import annotations

import difflib
import ipaddress
import os
import pwd
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from protocol.limits import BOUNDS
from protocol.sealed import key_of
from supervisor import secret_files

ENV_FILE = ".env"
TOML_FILE = "bashd.toml"
PREFIX = "BASHD_"
# Read by others than the service: the tests' crash points, and the command line.
OTHER_VARIABLES = frozenset({"BASHD_FAULT", "BASHD_URL"})


class SettingsError(Exception):
    """A setting that cannot work: one line that says which, and what is allowed."""


def _words(value: Any) -> Any:
    """A list, or words separated by commas."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _none(value: Any) -> Any:
    return None if value in ("none", "") else value


def _pairs(value: Any) -> Any:
    """A table, or words like ``name=number`` separated by commas."""
    if not isinstance(value, str):
        return value
    pairs = [word.partition("=") for word in _words(value)]
    names = [name.strip() for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("names the same one twice")
    return {name.strip(): number.strip() for name, _, number in pairs}


def default_state_dir() -> Path:
    """As root /var/lib/bashd, else below XDG_STATE_HOME (XDG base directory specification)."""
    if os.getuid() == 0:
        return Path("/var/lib/bashd")
    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):  # a relative one is to be ignored, says the specification
        home = os.path.join(os.path.expanduser("~"), ".local", "state")
    if not os.path.isabs(home):  # a container's user without a name has none
        raise SettingsError("state_dir: we have no home directory to keep it in; set it")
    return Path(home) / "bashd"


class Settings(BaseSettings):
    """What an operator can set. Each field's description is its help."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, toml_file=TOML_FILE, extra="ignore", enable_decoding=False
    )

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    state_dir: Path = Field(default_factory=default_state_dir, description="where Bashd keeps what must survive it")
    database_url: SecretStr | None = Field(
        None, description="a PostgreSQL of your own (postgresql://…); without it Bashd runs one itself"
    )
    database_url_file: Path | None = Field(None, description="a file that holds the database_url and nothing else")
    auth: Literal["token", "none"] = Field("token", description="none: no token needed; on loopback only")
    token: SecretStr | None = Field(None, description="the bearer token; without it one is generated and kept")
    secrets_key: SecretStr | None = Field(
        None, description="seals the secrets of commands: 32 bytes in base64; without it one is generated and kept"
    )
    tls_cert: Path | None = Field(
        None, description="file of the certificate, PEM, with its chain; then HTTPS is served"
    )
    tls_key: Path | None = Field(None, description="file of its private key, PEM, without a password")
    behind_proxy: Annotated[list[str], BeforeValidator(_words)] = Field(
        [], description="addresses or networks of your TLS proxies, whose X-Forwarded-For and -Proto are believed"
    )
    plain_http: bool = Field(False, description="speak HTTP, unencrypted, on an address that other machines reach")
    token_file: Path | None = Field(None, description="a file that holds the token and nothing else")
    allowed_hosts: Annotated[list[str], BeforeValidator(_words)] = Field(
        [], description="host names that are answered beside the bound address, with commas between; * for all"
    )
    max_running: int = Field(256, ge=1, le=100_000, description="commands that run at the same time")
    max_queued: int = Field(100_000, ge=0, le=10_000_000, description="commands that may wait for their turn")
    min_free_bytes: int = Field(
        64 * 1024 * 1024, ge=0, le=2**60, description="free on the disk of state_dir, or no new command; 0: no matter"
    )
    keep_days: Annotated[float | None, BeforeValidator(_none)] = Field(
        None, gt=0, le=36_500, description="for so many days after its end a command is kept; none: for ever"
    )
    keep_audit_days: Annotated[float | None, BeforeValidator(_none)] = Field(
        365.0, ge=1, le=36_500, description="for so many days an entry of the audit log is kept; none: for ever"
    )
    keep_commands: Annotated[int | None, BeforeValidator(_none)] = Field(
        None, ge=1, le=10**9, description="so many of the newest commands are kept; none: all"
    )
    max_script_bytes: int = Field(1024 * 1024, ge=1, le=64 * 1024 * 1024, description="the longest script")
    max_body_bytes: int = Field(16 * 1024 * 1024, ge=1024, le=1024 * 1024 * 1024, description="the largest request")
    default_timeout_s: Annotated[float | None, BeforeValidator(_none)] = Field(
        300.0, gt=0, le=3e8, description="for commands that name none; none: no limit"
    )
    default_limits: Annotated[dict[str, int], BeforeValidator(_pairs)] = Field(
        {}, description=f"for commands that name none: words like file_bytes=1000000 ({', '.join(BOUNDS)})"
    )
    max_limits: Annotated[dict[str, int], BeforeValidator(_pairs)] = Field(
        {}, description="that no command may exceed, in the same words; they are limits of those that name none too"
    )
    cgroups: Literal["auto", "always", "never"] = Field(
        "auto", description="which commands get a cgroup of their own: those with a limit that needs one, all, or none"
    )
    commands_per_worker: int = Field(
        1, ge=1, le=10_000, description="commands that one worker process serves, one by one, while it proves clean"
    )
    shutdown_timeout_s: float = Field(9.0, ge=1, le=3600, description="from the signal to the end")
    on_shutdown: Literal["stop", "leave"] = Field("stop", description="what becomes of running commands")
    log: Literal["text", "json"] = Field("text", description="the form of log lines")
    pg_user: str | None = Field(None, description="as root: the user that the embedded PostgreSQL runs as")
    pass_env: Annotated[list[str], BeforeValidator(_words)] = Field(
        [], description="variables of ours that every script gets too, with commas between"
    )
    default_run_as: str | None = Field(
        None, description="as root: the user that scripts run as which name none; without it they run as root"
    )
    allowed_run_as: Annotated[list[str], BeforeValidator(_words)] = Field(
        [], description="as root: users that scripts may run as, with commas between; else all but root and pg_user"
    )
    no_new_privs: bool = Field(True, description="scripts cannot gain privileges (sudo and other setuid programs)")
    bash: Path = Field(Path("/bin/bash"), description="the bash that runs scripts")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (the signature is pydantic's)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls)

    @model_validator(mode="before")
    @classmethod
    def _secrets_from_files(cls, given: dict[str, Any]) -> dict[str, Any]:
        return secret_files.read_into(given)

    @field_validator("state_dir", "bash", "tls_cert", "tls_key", mode="before")
    @classmethod
    def _not_empty(cls, path: Any) -> Any:
        if path == "":  # as a path it would be the current directory
            raise ValueError("is empty")
        return path

    @field_validator("state_dir", "tls_cert", "tls_key")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        if path is None:
            return None
        if "\0" in str(path):
            raise ValueError("no path holds NUL")
        return Path(os.path.abspath(os.path.expanduser(path)))

    @field_validator("bash")
    @classmethod
    def _executable(cls, path: Path) -> Path:
        if not os.access(path, os.X_OK):
            raise ValueError(f"{path} cannot be executed")
        return path

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, url: SecretStr | None) -> SecretStr | None:
        # libpq would take an empty one for whatever its own defaults point at.
        if url is not None and not url.get_secret_value().strip():
            raise ValueError("is empty; leave it out for the embedded PostgreSQL")
        return url

    @field_validator("token")
    @classmethod
    def _token(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and (len(token.get_secret_value()) < 16 or not token.get_secret_value().isprintable()):
            raise ValueError("must have at least 16 printable characters")
        return token

    @field_validator("secrets_key")
    @classmethod
    def _secrets_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            key_of(key.get_secret_value())
        return key

    @field_validator("behind_proxy")
    @classmethod
    def _networks(cls, proxies: list[str]) -> list[str]:
        for one in proxies:
            try:
                network = ipaddress.ip_network(one, strict=False)
            except ValueError as error:
                raise ValueError(f"{one!r} is neither an address nor a network like 10.0.0.0/8") from error
            if network.prefixlen == 0:
                raise ValueError(f"{one} is everybody: name the addresses of the proxy")
        return proxies

    @field_validator("default_limits", "max_limits")
    @classmethod
    def _limits(cls, limits: dict[str, int]) -> dict[str, int]:
        for name, value in limits.items():
            if name not in BOUNDS:
                raise ValueError(f"there is no limit {name!r}; limits are {', '.join(BOUNDS)}")
            least, most = BOUNDS[name]
            if not least <= value <= most:
                raise ValueError(f"{name} must be from {least} to {most}")
        return limits

    @field_validator("default_run_as", "allowed_run_as")
    @classmethod
    def _users(cls, users: str | list[str] | None) -> str | list[str] | None:
        for name in [users] if isinstance(users, str) else users or []:
            if os.getuid() != 0:
                raise ValueError("is only possible when Bashd runs as root: nobody else can run scripts as others")
            try:
                pwd.getpwnam(name)
            except (KeyError, ValueError) as error:  # ValueError: of a NUL
                raise ValueError(f"there is no user {name!r} on this machine") from error
        return users

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if self.auth == "none" and not _is_loopback(self.host):
            raise ValueError("auth=none is only possible on a loopback host, for whoever reaches us may run anything")
        for name, most in self.max_limits.items():
            if self.default_limits.get(name, most) > most:
                raise ValueError(f"default_limits: {name} is above that of max_limits, which is {most}")
        if (self.tls_cert is None) is not (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both or none")
        if not (_is_loopback(self.host) or self.tls_cert or self.behind_proxy or self.plain_http):
            raise ValueError(
                f"host={self.host} is reached by other machines, who could read every token and script on its way: set "
                "tls_cert and tls_key, or behind_proxy with the addresses of your TLS proxy, or plain_http=true"
            )
        return self

    def script_user_with(self, uid: int | None) -> str | None:
        """Who of those that scripts are to run as has this number."""
        named = [*self.allowed_run_as, *([self.default_run_as] if self.default_run_as else [])]
        return next((name for name in named if pwd.getpwnam(name).pw_uid == uid), None)

    @property
    def speaks_plainly(self) -> bool:
        """Whether others may read what is said between us and other machines."""
        return not (_is_loopback(self.host) or self.tls_cert or self.behind_proxy)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load(flags: dict[str, str]) -> Settings:
    """The settings of this start; ``flags`` are those given on the command line. Raises ``SettingsError``."""
    _refuse_unknown_variables(os.environ, "")
    _refuse_unknown_variables(_env_file(), f"{ENV_FILE}: ")
    _refuse_unknown_toml()
    try:
        return Settings(**flags)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{name}: {message}" if name else message) from error


def _refuse_unknown_variables(given: Iterable[str], where: str) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OTHER_VARIABLES
    for name in (name.upper() for name in given):
        if name.startswith(PREFIX) and name not in known:
            raise SettingsError(f"{where}{name}: no such setting{_perhaps(name, known)}")


def _env_file() -> Iterable[str]:
    """The names that ``.env`` sets; the file may hold those of other programs too."""
    try:
        return DotEnvSettingsSource(Settings).env_vars.keys()
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{ENV_FILE}: {error}") from error


def _refuse_unknown_toml() -> None:
    try:
        with open(TOML_FILE, "rb") as file:
            given = tomllib.load(file)
    except FileNotFoundError:
        return
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{TOML_FILE}: {error}") from error
    for name in given:
        if name not in Settings.model_fields:
            raise SettingsError(f"{TOML_FILE}: {name}: no such setting{_perhaps(name, set(Settings.model_fields))}")


def _perhaps(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
