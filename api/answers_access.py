"""What clients are given of tokens and of the audit log, as models that describe it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.answers import Answer, Id, Time

Scope = Annotated[
    Literal["read", "run", "admin"],
    Field(description="`read`: look; `run`: also run, steer and remove; `admin`: also tokens and the audit log."),
]


class TokenAnswer(Answer):
    """A token, without its secret."""

    id: Id
    name: str
    scope: Scope
    created_at: Time
    created_by: str | None = Field(description="The name of the token with which it was made.")
    rotated_at: Time | None = Field(description="When it got its present secret, if not at the beginning.")
    expires_at: Time | None = Field(description="`null`: never.")
    revoked_at: Time | None


class NewTokenAnswer(TokenAnswer):
    """A token with the secret that is shown this once."""

    secret: str = Field(description="What `Authorization: Bearer` takes.")


class TokensAnswer(Answer):
    """All tokens."""

    items: list[TokenAnswer]


class EntryAnswer(Answer):
    """A line of the audit log."""

    id: Id
    at: Time
    token: str | None = Field(description="Its name; `null` when none that we know was sent.")
    action: str = Field(description="The `operationId` of what was asked for; `refused`; `dropped`: no lines for some.")
    command_id: Id | None
    subject: str | None = Field(description="The name of the token that was made or changed.")
    address: str | None = Field(description="Of the client; `others` where there were too many to tell apart.")
    status: int = Field(description="Of the answer; 499: the client went away before it had one.")
    attempts: Annotated[int, Field(ge=1)] = Field(description="How many refused requests it stands for.")


class AuditAnswer(Answer):
    """One page of the audit log."""

    items: list[EntryAnswer]
    next: Id | None = Field(description="The `cursor` of the next page; `null` on the last.")
