"""What clients may send in bodies, checked: the pydantic models, which also describe it, and the parsing."""

from __future__ import annotations

import json
import signal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from api import limits as limiting
from api.limits import LimitsRequest
from api.parameters import bad
from api.problems import Malformed, TooLarge
from api.run_as import check_run_as
from protocol.config import Config

MIN_SECRET = 4  # characters: what is shorter would be found, and masked, everywhere
MAX_SECRET = 8192
MAX_ARGUMENTS_BYTES = 128 * 1024  # args, env and secrets together; execve(2) has room for far more
MAX_SECONDS = 10 * 365 * 24 * 3600.0
MAX_ID = 2**63 - 1
MAX_OFFSET = 2**62  # with any limit added it is a bigint still
DEFAULT_OUTPUT_LIMIT_BYTES = 16 * 1024 * 1024
MAX_WAIT_S = 300.0
NO_NUL = "^[^\\u0000]*$"

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


Text = Annotated[str, BeforeValidator(_text), Field(json_schema_extra={"pattern": NO_NUL})]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False), BeforeValidator(_number)]
PositiveSeconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False), BeforeValidator(_number)]


def _script(script: str) -> str:
    if not script:
        raise ValueError("must not be empty")
    if script.startswith("\ufeff"):
        raise ValueError("must not begin with a byte order mark: bash would look for a command of that name")
    if "\r\n" in script:
        raise ValueError("must not have CRLF line ends: bash takes the CR for a part of each line; send LF")
    return script


def _without_default(schema: dict[str, Any]) -> None:
    """Keep a default out of the description that is not the one a client meets."""
    del schema["default"]


SIGNAL_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": int(signal.SIGRTMAX)},
        {"type": "string", "enum": sorted(one.name.removeprefix("SIG") for one in signal.Signals)},
    ]
}

Script = Annotated[
    Text,
    AfterValidator(_script),
    Field(
        description="Bash: at most 1 MiB (unless set otherwise) of UTF-8; no NUL, CRLF line ends or byte order mark.",
        json_schema_extra={"minLength": 1},
    ),
]


def _secret(secret: str) -> str:
    if not MIN_SECRET <= len(secret) <= MAX_SECRET:
        raise ValueError(f"must have {MIN_SECRET} to {MAX_SECRET} characters: a shorter one would be found everywhere")
    return secret


Secret = Annotated[
    Text,
    AfterValidator(_secret),
    Field(json_schema_extra={"minLength": MIN_SECRET, "maxLength": MAX_SECRET}),
]


class CommandRequest(BaseModel):
    """The body of ``POST /v1/commands``."""

    model_config = ConfigDict(extra="forbid")

    script: Script
    args: list[Text] = Field(default_factory=list, max_length=10_000, description="Positional parameters, `$1` first.")
    env: dict[str, Text] = Field(
        default_factory=dict,
        description="Variables, beside `PATH`, `HOME`, `LANG`, `SHELL`, `USER`, `LOGNAME`, `BASHD_COMMAND_ID` and the "
        "operator's own.",
        json_schema_extra={"propertyNames": {"pattern": "^[^=\\u0000]+$"}},
    )
    secrets: dict[str, Secret] = Field(
        default_factory=dict,
        max_length=100,
        description="Variables that are not recorded: they are kept encrypted, and what the script prints of them is "
        "replaced by `***`.",
        json_schema_extra={"propertyNames": {"pattern": "^[^=\\u0000]+$"}},
    )
    cwd: Annotated[Text, Field(json_schema_extra={"pattern": "^/[^\\u0000]*$"})] | None = Field(
        default=None, description="The directory, an absolute path. `null`: one of its own, gone after the end."
    )
    stdin: Annotated[str, BeforeValidator(_utf8)] | None = Field(
        default=None, description="What it reads from its standard input. `null`: `/dev/null`."
    )
    stdin_open: StrictBool = Field(
        default=False, description="Its standard input may be fed while it runs; `stdin` is then what it reads first."
    )
    name: Annotated[Text, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="To find it again."
    )
    labels: dict[str, Annotated[Text, Field(max_length=200)]] = Field(
        default_factory=dict,
        max_length=50,
        description="To find it again. Names have 1 to 100 characters, without `:`.",
        json_schema_extra={"propertyNames": {"minLength": 1, "maxLength": 100, "pattern": "^[^:\\u0000]+$"}},
    )
    timeout_s: PositiveSeconds | None = Field(
        default=None,
        description="Then it is stopped, and `failed` with the reason `timeout`. `null`: never. Left out: 300, unless "
        "the service is set up otherwise.",
        json_schema_extra=_without_default,
    )
    grace_s: Seconds = Field(default=5.0, description="Between TERM and KILL.")
    leftovers: Literal["kill", "wait", "leave"] = Field(
        default="kill",
        description="What becomes of processes that are alive when bash has ended: `kill` them, `wait` for them, or "
        "`leave` them alone.",
    )
    merge_stderr: StrictBool = Field(
        default=False, description="One pipe for both streams, so that the order between them is exact."
    )
    run_as: Text | None = Field(
        default=None,
        description="The user of the machine that it runs as; only when Bashd runs as root. Who may be named is set by "
        "`allowed_run_as`, who it is when nobody is named by `default_run_as`.",
    )
    output_limit_bytes: Annotated[int, Field(ge=1, le=2**40), BeforeValidator(_integer)] = Field(
        default=DEFAULT_OUTPUT_LIMIT_BYTES,
        description="How much of each stream is kept: of what is longer the beginning and the end. What is missing is "
        "counted, and named in `truncated`.",
    )
    on_output_limit: Literal["truncate", "fail"] = Field(
        default="truncate",
        description="What becomes of a command that prints more: it goes on, or it is stopped and `failed` with "
        "the reason `output_limit`; then the beginning is kept.",
    )
    limits: LimitsRequest = Field(
        default_factory=LimitsRequest,
        description="What the kernel holds it to. A limit that is left out is as the service is set up, and 1,000 "
        "`processes` with `run_as`; `null`: none.",
    )

    @field_validator("env", "secrets")
    @classmethod
    def _env(cls, env: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        for name in env:
            _text(name)
            if not name or "=" in name:
                raise ValueError(f"{name!r} cannot name a variable: it must not be empty or contain '='")
            if name == "BASHD_COMMAND_ID":
                raise ValueError("BASHD_COMMAND_ID is set by Bashd")
            if info.field_name == "secrets" and name in info.data.get("env", {}):
                raise ValueError(f"{name!r} is among env too: name it once")
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


class SeedRequest(BaseModel):
    """The body of the seed's ``POST /command``."""

    model_config = ConfigDict(extra="forbid")

    script: Script


class StopRequest(BaseModel):
    """The body of ``POST /v1/commands/{id}/stop``."""

    model_config = ConfigDict(extra="forbid")

    signal: Annotated[int, WithJsonSchema(SIGNAL_SCHEMA)] = Field(
        default=int(signal.SIGTERM),
        description="A name or a number. `SIG` before a name and small letters are understood too.",
    )
    grace_s: Seconds | None = Field(
        default=None, description="Between this signal and KILL. `null`: as the command itself has it."
    )

    @field_validator("signal", mode="before")
    @classmethod
    def _signal(cls, value: Any) -> int:
        return signal_number(value)


class SignalRequest(BaseModel):
    """The body of ``POST /v1/commands/{id}/signal``."""

    model_config = ConfigDict(extra="forbid")

    signal: Annotated[int, WithJsonSchema(SIGNAL_SCHEMA)] = Field(
        description="A name or a number. `SIG` before a name and small letters are understood too."
    )

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
        asked = value.get("limits", {})
        if isinstance(asked, dict):
            value["limits"] = {**limiting.defaults(config, value.get("run_as")), **asked}
    request = _validate(CommandRequest, value)
    limiting.check(request.limits.held(), config)
    _check_sizes(request, config)
    check_run_as(config.default_run_as if request.run_as is None else request.run_as, config)
    return request


def parse_seed_command(body: bytes, config: Config) -> CommandRequest:
    """The same for the seed's request, which is a script and nothing else."""
    script = _validate(SeedRequest, parse_json(body)).script
    limits = LimitsRequest(**limiting.defaults(config, None))
    request = CommandRequest(script=script, timeout_s=config.default_timeout_s, limits=limits)
    _check_sizes(request, config)
    check_run_as(config.default_run_as, config)
    return request


def _check_sizes(request: CommandRequest, config: Config) -> None:
    if len(request.script.encode()) > config.max_script_bytes:
        detail = f"The script has {len(request.script.encode())} bytes, allowed are {config.max_script_bytes}."
        raise TooLarge(detail, errors=[("script", "is too large")])
    arguments = sum(len(one.encode()) + 1 for one in request.args)
    variables = request.env | request.secrets
    arguments += sum(len(name.encode()) + len(one.encode()) + 2 for name, one in variables.items())
    if arguments > MAX_ARGUMENTS_BYTES:
        raise TooLarge(f"args, env and secrets together take {arguments} bytes, allowed are {MAX_ARGUMENTS_BYTES}.")


def parse_stop(body: bytes) -> StopRequest:
    """A checked request to stop; an absent body means TERM and the command's own grace."""
    return _validate(StopRequest, parse_json(body) if body.strip() else {})


def parse_signal(body: bytes) -> SignalRequest:
    """A checked request to send a signal."""
    return _validate(SignalRequest, parse_json(body))


def parse_rerun(body: bytes) -> RerunRequest:
    """A checked request to run a command again; an absent body is what it takes."""
    return _validate(RerunRequest, parse_json(body) if body.strip() else {})


def validate(model: type[M], value: Any) -> M:
    """A checked model of what was sent; raises ``Malformed``."""
    return _validate(model, value)


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
        fields = model.model_fields if len(error["loc"]) == 1 else LimitsRequest.model_fields
        return f"is not a field of this request; fields are {', '.join(fields) or 'none'}"
    if error["type"] == "missing":
        return "is required"
    if error["type"] == "model_type":
        return "must be an object"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def parse_id(text: str) -> int:
    """A command's id: a positive 64-bit integer."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and 1 <= int(text) <= MAX_ID):
        raise bad("id", f"must be an integer from 1 to {MAX_ID}")
    return int(text)
