"""For schemathesis, which names this in ``SCHEMATHESIS_HOOKS``: scripts that it invents are run, so they do nothing."""

from __future__ import annotations

import json
from typing import Any

import schemathesis
from schemathesis import Case, HookContext

from api.models import MAX_ID

COMMANDS = 20  # about as many as there will be


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """The last word before a request goes out."""
    body = harmless(case.body)
    # Only what is another is put back: a body that is set anew is judged anew, and none at all is then called wrong.
    if body is not case.body:
        case.body = body
    command_id = case.path_parameters.get("id") if case.path_parameters else None
    if isinstance(command_id, int) and 1 <= command_id < MAX_ID:
        case.path_parameters["id"] = 1 + command_id % COMMANDS  # one that there is, more often than not


def harmless(body: Any) -> Any:
    """A body whose script does nothing. What makes it wrong, as NUL or emptiness, stays."""
    if isinstance(body, bytes):  # goes out as it is, so it has to be looked into
        if not body.strip():
            return b"{"  # nothing is meant to be wrong here, but where a body may be left out it is right
        try:
            found = json.loads(body)
        except ValueError:
            return body
        return harmless(found) if isinstance(found, dict) else body
    if not isinstance(body, dict):
        return body
    body = dict(body)
    if isinstance(body.get("script"), str) and body["script"]:
        body["script"] = "true # " + body["script"].replace("\r", " ").replace("\n", " ")
    if isinstance(body.get("env"), dict):
        # Bash runs what BASH_ENV names, the loader loads what LD_* names.
        body["env"] = {name: one for name, one in body["env"].items() if not name.startswith(("BASH", "ENV", "LD_"))}
    return body
