"""``token``: that of this machine's service, and those that its operator makes for others."""

from __future__ import annotations

import argparse
import json

from client import calls, errors, place
from client.answers import Token
from client.cli import show as shown
from client.cli.service import client
from client.client import Client


def token(arguments: argparse.Namespace) -> int:
    if arguments.of_token is None:
        print(place.local_token())
        return 0
    with client() as service:
        match arguments.of_token:
            case "list":
                return _list(service.ask(calls.tokens()), as_json=arguments.json)
            case "create":
                made = service.ask(calls.create_token(arguments.name, arguments.scope, arguments.expires_in))
            case "rotate":
                made = service.ask(calls.rotate_token(_named(service, arguments.name).id))
            case _:
                made = service.ask(calls.revoke_token(_named(service, arguments.name).id))
    if arguments.json:
        print(json.dumps(made.row))
    elif made.secret is not None:
        print(made.secret)
    return 0


def _named(service: Client, name: str) -> Token:
    """The token of this name; raises ``errors.NotFound``."""
    for one in service.ask(calls.tokens()):
        if one.name == name:
            return one
    raise errors.NotFound(404, {"detail": f"There is no token {name!r}."})


def _list(tokens: list[Token], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps([one.row for one in tokens]))
        return 0
    rows = [[one.name, one.scope, _until(one), one.created_by or "", one.created_at[:19] + "Z"] for one in tokens]
    shown.table(["NAME", "SCOPE", "UNTIL", "MADE BY", "MADE AT"], rows)
    return 0


def _until(one: Token) -> str:
    if one.revoked_at is not None:
        return f"revoked {one.revoked_at[:19]}Z"
    return "for ever" if one.expires_at is None else f"{one.expires_at[:19]}Z"
