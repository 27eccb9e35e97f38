"""What clients may send, checked: the pydantic models and the parsing of bodies and parameters."""

from __future__ import annotations

import json
import os
import pwd
import signal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError, field_validator

from api.problems import Malformed, TooLarge
from protocol.config import Config

MAX_ARGUMENTS_BYTES = 128 * 1024  # args and env together; execve(2) has room for far more
MAX_SECONDS = 10 * 365 * 24 * 3600.0
MAX_ID = 2**63 - 1
DEFAULT_OUTPUT_LIMIT_BYTES = 16 * 1024 * 1024
MAX_WAIT_S = 300.0

M = TypeVar("M", bound=BaseModel)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be an integer")
    return value


def _text(value: Any) -> Any:
    """A string that is text: UTF-8 can express it, and neither bash nor execve nor PostgreSQL chokes on it."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    if "\0" in value:
        raise ValueError("must not contain NUL (\\u0000): bash would drop it silently")
    return _utf8(value)


def _utf8(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must not contain a lone surrogate: it is not text") from error
    return value


Text = Annotated[str, BeforeValidator(_text)]
Seconds = Annotated[float, BeforeValidator(_number), Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, BeforeValidator(_number), Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]


class CommandRequest(BaseModel):
    """The body of ``POST /v1/commands``."""

    model_config = ConfigDict(extra="forbid")

    script: Text
    args: list[Text] = Field(default_factory=list, max_length=10_000)
    env: dict[str, Text] = Field(default_factory=dict)
    cwd: Text | None = None
    stdin: Annotated[str, BeforeValidator(_utf8)] | None = None
    stdin_open: StrictBool = False
    name: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    labels: dict[str, Annotated[Text, Field(max_length=200)]] = Field(default_factory=dict, max_length=50)
    timeout_s: PositiveSeconds | None = None
    grace_s: Seconds = 5.0
    leftovers: Literal["kill", "wait", "leave"] = "kill"
    merge_stderr: StrictBool = False
    run_as: Text | None = None
    output_limit_bytes: Annotated[int, BeforeValidator(_integer), Field(ge=1, le=2**40)] = DEFAULT_OUTPUT_LIMIT_BYTES

    @field_validator("script")
    @classmethod
    def _script(cls, script: str) -> str:
        if not script:
            raise ValueError("must not be empty")
        if script.startswith("\ufeff"):
            raise ValueError("must not begin with a byte order mark: bash would look for a command of that name")
        if "\r\n" in script:
            raise ValueError("must not have CRLF line ends: bash takes the CR for a part of each line; send LF")
        return script

    @field_validator("env")
    @classmethod
    def _env(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            _text(name)
            if not name or "=" in name:
                raise ValueError(f"{name!r} cannot name a variable: it must not be empty or contain '='")
            if name == "BASHD_COMMAND_ID":
                raise ValueError("BASHD_COMMAND_ID is set by Bashd")
        return env

    @field_validator("labels")
    @classmethod
    def _labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for name in labels:
            _text(name)
            if not 1 <= len(name) <= 100 or ":" in name:
                raise ValueError(f"{name!r} cannot name a label: 1 to 100 characters, without ':'")
        return labels

    @field_validator("cwd")
    @classmethod
    def _cwd(cls, cwd: str | None) -> str | None:
        if cwd is not None and not cwd.startswith("/"):
            raise ValueError("must be an absolute path")
        return cwd


class StopRequest(BaseModel):
    """The body of ``POST /v1/commands/{id}/stop``."""

    model_config = ConfigDict(extra="forbid")

    signal: int = signal.SIGTERM
    grace_s: Seconds | None = None

    @field_validator("signal", mode="before")
    @classmethod
    def _signal(cls, value: Any) -> int:
        return signal_number(value)


class SignalRequest(BaseModel):
    """The body of ``POST /v1/commands/{id}/signal``."""

    model_config = ConfigDict(extra="forbid")

    signal: int

    @field_validator("signal", mode="before")
    @classmethod
    def _signal(cls, value: Any) -> int:
        return signal_number(value)


class RerunRequest(BaseModel):
    """The body of ``POST /v1/commands/{id}/rerun``, if there is one: nothing can be changed."""

    model_config = ConfigDict(extra="forbid")


def signal_number(value: Any) -> int:
    """15, "TERM", "SIGTERM" or "term" as a number; raises ``ValueError``."""
    if isinstance(value, str):
        name = value.upper().removeprefix("SIG")
        try:
            return int(signal.Signals[f"SIG{name}"])
        except KeyError as error:
            raise ValueError(f"{value!r} is not a signal; names are like TERM, INT, HUP, KILL") from error
    if isinstance(value, bool) or not isinstance(value, int) or value not in signal.valid_signals():
        raise ValueError("must be the name or number of a signal")
    return value


def parse_json(body: bytes) -> Any:
    """The body's value; raises ``Malformed`` for what is not JSON as RFC 8259 has it."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_twins)
    except UnicodeDecodeError as error:
        raise Malformed("The body is not UTF-8.") from error
    except RecursionError as error:
        raise Malformed("The body is nested too deeply.") from error
    except ValueError as error:
        raise Malformed(f"The body is not JSON: {error}") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("an object names the same member twice")
    return members


def parse_command(body: bytes, config: Config) -> CommandRequest:
    """A checked request to run a command; raises ``Malformed`` or ``TooLarge``."""
    value = parse_json(body)
    if isinstance(value, dict):
        value.setdefault("timeout_s", config.default_timeout_s)
    request = _validate(CommandRequest, value)
    if len(request.script.encode()) > config.max_script_bytes:
        detail = f"The script has {len(request.script.encode())} bytes, allowed are {config.max_script_bytes}."
        raise TooLarge(detail, errors=[("script", "is too large")])
    arguments = sum(len(one.encode()) + 1 for one in request.args)
    arguments += sum(len(name.encode()) + len(one.encode()) + 2 for name, one in request.env.items())
    if arguments > MAX_ARGUMENTS_BYTES:
        raise TooLarge(f"args and env together take {arguments} bytes, allowed are {MAX_ARGUMENTS_BYTES}.")
    check_run_as(request.run_as, config)
    return request


def check_run_as(run_as: str | None, config: Config) -> None:
    """Raises ``Malformed`` for a user that scripts cannot be run as now."""
    if run_as is None:
        return
    if os.getuid() != 0:
        message = "is only possible when Bashd runs as root"
    else:
        try:
            uid = pwd.getpwnam(run_as).pw_uid
        except KeyError:
            message = f"there is no user {run_as!r} on this machine"
        else:
            if uid != config.postgres_uid:
                return
            message = "must not be the user of the database"
    raise Malformed(f"run_as {message}.", errors=[("run_as", message)])


def parse_stop(body: bytes) -> StopRequest:
    """A checked request to stop; an absent body means TERM and the command's own grace."""
    return _validate(StopRequest, parse_json(body) if body.strip() else {})


def parse_signal(body: bytes) -> SignalRequest:
    """A checked request to send a signal."""
    return _validate(SignalRequest, parse_json(body))


def parse_rerun(body: bytes) -> RerunRequest:
    """A checked request to run a command again; an absent body is what it takes."""
    return _validate(RerunRequest, parse_json(body) if body.strip() else {})


def _validate(model: type[M], value: Any) -> M:
    if not isinstance(value, dict):
        raise Malformed("The body must be a JSON object.")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = [(_field(one["loc"]), _message(one, model)) for one in error.errors(include_url=False)]
        detail = "; ".join(f"{field} {message}" for field, message in errors[:3])
        raise Malformed(f"{detail}.", errors=errors) from error


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "body"


def _message(error: Any, model: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden":
        return f"is not a field of this request; fields are {', '.join(model.model_fields) or 'none'}"
    if error["type"] == "missing":
        return "is required"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


class Parameters:
    """The query parameters of a request; each is taken once, and ``done`` refuses what nobody took."""

    def __init__(self, args: dict[str, list[str]]) -> None:
        self._args = dict(args)
        self._known: list[str] = []

    def texts(self, name: str, choices: tuple[str, ...] | None = None) -> list[str]:
        """The values of one that may be given more than once."""
        self._known.append(name)
        values = self._args.pop(name, [])
        if choices is not None and any(value not in choices for value in values):
            raise bad(name, f"must be one of {', '.join(choices)}")
        return values

    def text(self, name: str, choices: tuple[str, ...] | None = None) -> str | None:
        values = self.texts(name, choices)
        if len(values) > 1:
            raise bad(name, "is given more than once")
        return values[0] if values else None

    def integer(self, name: str, *, least: int, most: int, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not (text.isascii() and text.lstrip("-").isdigit() and len(text) < 25) or not least <= int(text) <= most:
            raise bad(name, f"must be an integer from {least} to {most}")
        return int(text)

    def seconds(self, name: str, *, most: float) -> float | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= most or not text[:1].isdigit():
            raise bad(name, f"must be a number of seconds from 0 to {most:g}")
        return value

    def flag(self, name: str) -> bool:
        return self.text(name, ("true", "false")) == "true"

    def done(self) -> None:
        """Refuse parameters that this route does not know."""
        if self._args:
            known = ", ".join(self._known) or "none"
            errors = [(name, f"is not a parameter of this route; parameters are: {known}") for name in self._args]
            raise Malformed(f"{errors[0][0]} {errors[0][1]}.", errors=errors)


def bad(name: str, message: str) -> Malformed:
    """The problem of one field or parameter."""
    return Malformed(f"{name} {message}.", errors=[(name, message)])


def parse_id(text: str) -> int:
    """A command's id: a positive 64-bit integer."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and 1 <= int(text) <= MAX_ID):
        raise bad("id", f"must be an integer from 1 to {MAX_ID}")
    return int(text)
