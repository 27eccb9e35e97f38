"""Secrets that stand in files, so that neither the environment nor the arguments of any process hold them."""

from __future__ import annotations

from typing import Any

# Setting that names a file → setting that is its content.
CONTENTS = {"token_file": "token", "database_url_file": "database_url"}
LONGEST_SECRET = 64 * 1024


def read_into(given: dict[str, Any]) -> dict[str, Any]:
    """What was given, with the content of each named file as if it had been given itself.

    One newline at the end is not part of a secret, for editors and ``echo`` add it. Raises ``ValueError``, which names
    the setting, when a file cannot be read, holds no text, or the secret was given as well.
    """
    read = dict(given)
    for name, secret in CONTENTS.items():
        path = given.get(name)
        if path is None:
            continue
        if given.get(secret) is not None:
            raise ValueError(f"{name}: {secret} is set as well; only one of them can be meant")
        read[secret] = _content(name, str(path))
    return read


def _content(name: str, path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(LONGEST_SECRET + 1)
        text = content.decode()
    except (OSError, UnicodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "holds no text"
        raise ValueError(f"{name}: {path or 'an empty name'}: {reason}") from error
    if len(content) > LONGEST_SECRET:
        raise ValueError(f"{name}: {path}: is longer than any secret; at most {LONGEST_SECRET} bytes")
    return text.removesuffix("\n").removesuffix("\r")
