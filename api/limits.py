"""What a command is limited in: by its request, by the defaults of the service, and at most by its maxima."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.problems import Malformed
from protocol.config import Config
from protocol.limits import BOUNDS, RUN_AS_PROCESSES


def _integer(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be an integer")
    return value


def _between(name: str) -> Any:
    least, most = BOUNDS[name]
    return Field(ge=least, le=most)


class LimitsRequest(BaseModel):
    """The field ``limits``. What is left out is as the service is set up; ``null`` asks for no limit."""

    model_config = ConfigDict(extra="forbid")

    memory_bytes: Annotated[int, _between("memory_bytes"), BeforeValidator(_integer)] | None = Field(
        default=None, description="Memory. Without a cgroup: the address space of each of its processes."
    )
    cpu_s: Annotated[int, _between("cpu_s"), BeforeValidator(_integer)] | None = Field(
        default=None,
        description="Processor time of each of its processes; bash is then `failed` with the reason `cpu`.",
    )
    file_bytes: Annotated[int, _between("file_bytes"), BeforeValidator(_integer)] | None = Field(
        default=None, description="Length of each file it writes; bash is then `failed` with the reason `file_size`."
    )
    open_files: Annotated[int, _between("open_files"), BeforeValidator(_integer)] | None = Field(
        default=None, description="Descriptors that each of its processes has open at once."
    )
    processes: Annotated[int, _between("processes"), BeforeValidator(_integer)] | None = Field(
        default=None,
        description="Processes and threads at once. Without a cgroup: all of the same user, and root is not bound.",
    )

    def held(self) -> dict[str, int]:
        """Those that there are."""
        return {name: value for name, value in self.__dict__.items() if value is not None}


def defaults(config: Config, run_as: Any) -> dict[str, int]:
    """The limits of a command that names none. ``run_as`` is as the client sent it."""
    held = {**config.max_limits, **config.default_limits}
    if run_as is not None and "processes" not in config.default_limits:
        # A fork bomb of thousands takes the machine's processors, and minutes to be ended.
        held["processes"] = min(RUN_AS_PROCESSES, config.max_limits.get("processes", RUN_AS_PROCESSES))
    return held


def check(limits: dict[str, int], config: Config) -> None:
    """Raises ``Malformed`` for limits that are wider than those of the service, be it that one is missing."""
    errors = [
        (f"limits.{name}", f"must be at most {most}, the maximum of this service")
        for name, most in config.max_limits.items()
        if limits.get(name, most + 1) > most
    ]
    if errors:
        raise Malformed("; ".join(f"{field} {message}" for field, message in errors) + ".", errors=errors)
