"""``python -m api.describe``: write ``docs/api/`` anew. A test fails when it is not what this would write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from api import openapi, postman
from api.app import OPERATIONS

DIRECTORY = Path(__file__).parent.parent / "docs" / "api"


def files() -> dict[str, str]:
    """What lies in ``docs/api/``: name → text."""
    document = openapi.document(OPERATIONS)
    return {
        "openapi.json": _text(document),
        "bashd.postman_collection.json": _text(postman.collection(document)),
    }


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for name, text in files().items():
        (DIRECTORY / name).write_text(text)
