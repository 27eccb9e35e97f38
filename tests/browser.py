"""A real Chromium for the tests of the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def needed() -> None:
    """Skip where there is no browser, except in continuous integration, where it must be."""
    if shutil.which(CHROMIUM) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"there is no {CHROMIUM}")
        pytest.skip(f"there is no {CHROMIUM}", allow_module_level=True)


@contextmanager
def profile(playwright: Playwright, directory: Path) -> Iterator[BrowserContext]:
    """A browser with an empty profile of its own."""
    context = playwright.chromium.launch_persistent_context(
        str(directory), executable_path=CHROMIUM, headless=True, args=FLAGS, viewport={"width": 1180, "height": 820}
    )
    try:
        yield context
    finally:
        context.close()


class Watch:
    """What a page asks for and complains of while it is watched."""

    def __init__(self, page: Page) -> None:
        self.requested: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("console", lambda line: self._note(line.type, line.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, kind: str, text: str) -> None:
        # The browser itself notes each answer that is a refusal, and each connection that was not made.
        if kind in ("error", "warning") and "Failed to load resource" not in text:
            self.complaints.append(text)
