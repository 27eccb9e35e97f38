"""What a client is given: which service and how patiently, and the fields of its requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import httpx

from client import place
from client.calls import SILENCE_S
from client.errors import NoService


class Fields(TypedDict, total=False):
    """The fields of ``POST /v1/commands`` beside ``script``; the README says what they mean."""

    args: list[str]
    env: dict[str, str]
    secrets: dict[str, str]
    cwd: str | None
    stdin: str | None
    stdin_open: bool
    name: str | None
    labels: dict[str, str]
    timeout_s: float | None
    grace_s: float
    leftovers: Literal["kill", "wait", "leave"]
    merge_stderr: bool
    run_as: str | None
    output_limit_bytes: int
    on_output_limit: Literal["truncate", "fail"]


class Filters(TypedDict, total=False):
    """The filters of ``GET /v1/commands``; ``limit`` is the length of a page."""

    limit: int
    status: str | list[str]
    name: str
    label: str | list[str]  # NAME:VALUE
    since: str
    until: str
    q: str


@dataclass(frozen=True)
class Service:
    """Whom to ask, and how patiently."""

    url: str
    token: str | None
    timeout_s: float
    retry_for_s: float

    @classmethod
    def at(cls, url: str | None, token: str | None, *, timeout_s: float, retry_for_s: float) -> Service:
        """The service at ``url``; without one, what the environment names or this machine has. Raises ``NoService``."""
        found = place.find() if url is None else place.Place(url, None)
        secret = token if token is not None else found.token
        if secret is not None and not (secret.isascii() and secret.isprintable()):
            raise NoService("the token has characters that no token has")
        try:
            parsed = httpx.URL(found.url)
        except httpx.InvalidURL as error:
            raise NoService(f"{found.url!r} is no address: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host or not 0 < (parsed.port or 1) < 65536:
            raise NoService(f"{found.url!r} is no address: it must be like http://127.0.0.1:8080")
        return cls(found.url.rstrip("/"), secret, timeout_s, retry_for_s)

    @property
    def streaming(self) -> httpx.Timeout:
        """For answers that come piece by piece: a silent one is a dead one."""
        return httpx.Timeout(self.timeout_s, read=SILENCE_S)


class Transport:
    """How httpx is set up, the same for both clients."""

    @staticmethod
    def of(service: Service) -> dict[str, Any]:
        return {
            "base_url": service.url,
            "headers": {"Authorization": f"Bearer {service.token}"} if service.token else {},
            # A proxy or a netrc of the environment is not meant for a service on this machine.
            "trust_env": False,
            # To read the certificates takes longer than all else, and without TLS nobody asks for them.
            "verify": service.url.startswith("https:"),
        }
