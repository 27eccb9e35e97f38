"""What the documentation says about the project is true of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protocol.status import REASONS
from tests.processes import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])


def test_every_test_that_is_named_exists() -> None:
    """A claim that names its test stands and falls with it."""
    named = re.findall(r"`(tests/test_\w+\.py)::(\w+)`", (REPOSITORY / "docs" / "faults.md").read_text())

    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"^(def |){name}\b", (REPOSITORY / path).read_text(), re.MULTILINE)
    ]

    assert len(named) > 50
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_no_link_leads_nowhere(page: Path) -> None:
    """Links between the pages, and to files of the project."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_manual_explains_every_reason() -> None:
    """Each that a command may end with, once, in the order of the list; and none that does not exist."""
    manual = (REPOSITORY / "docs" / "operations.md").read_text()
    section = manual.split("\n## Reasons\n")[1].split("\n## ")[0]

    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", section, re.MULTILINE)

    assert [reason for reason, _, _ in rows] == list(REASONS)
