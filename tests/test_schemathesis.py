"""Requests that schemathesis invents from the description, right ones and wrong ones: the answers are as described."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartService
from tests.harmless import harmless
from tests.processes import REPOSITORY, TOKEN

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
# What it would learn from answers differs from run to run, and with it what it asks for.
CONFIGURATION = """
[phases.fuzzing]
extra-data-sources.responses = false
error-feedback.enabled = false
[phases.examples]
extra-data-sources.responses = false
[phases.coverage]
extra-data-sources.responses = false
"""
LEAST_REQUESTS = 500  # fewer would mean that it did not try


def test_no_invented_request_is_answered_otherwise_than_described(own_service: StartService, tmp_path: Path) -> None:
    """Neither a status nor a type nor a member that is not described; what is wrong, or has no token, is refused."""
    service = own_service().start()
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)

    run = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("run", f"{service.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {TOKEN}"),
            *("--phases", "examples,coverage,fuzzing"),
            *("--checks", ",".join(CHECKS)),
            *("--max-examples", "30"),
            *("--seed", "7"),
            *("--exclude-path-regex", "/events$"),  # answers that do not end are not for it
            *("--generation-database", "none"),
            *("--request-timeout", "60"),
            *("--suppress-health-check", "all"),  # a busy machine is no fault of a request
            "--continue-on-failure",
            "--no-color",
        ],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "SCHEMATHESIS_HOOKS": "tests.harmless",
            "NO_PROXY": "*",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert _requests(run.stdout) > LEAST_REQUESTS, run.stdout
    ran = [one.script for one in service.page(limit=1000)]
    assert len(ran) > 10
    assert all(script.startswith("true # ") for script in ran)


def _requests(report: str) -> int:
    """The number in the line ``850 generated, 850 passed, 18 skipped``."""
    return next(int(line.split()[0]) for line in report.splitlines() if " generated, " in line)


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"script": "rm -r x\nls"}, {"script": "true # rm -r x ls"}),
        ({"script": "a\r\nb\0"}, {"script": "true # a  b\0"}),
        ({"script": ""}, {"script": ""}),
        ({"script": 5}, {"script": 5}),
        ({"script": "a", "env": {"BASH_ENV": "$(a)", "A": "1"}}, {"script": "true # a", "env": {"A": "1"}}),
        (b'{"\\u0073cript": "ls"}', {"script": "true # ls"}),
        (b"\xff", b"\xff"),
        (b" ", b"{"),
        (["ls"], ["ls"]),
    ],
    ids=repr,
)
def test_no_invented_script_does_anything(body: Any, sent: Any) -> None:
    """Whatever is in it stands behind a comment sign; what is no script is sent as it is."""
    assert harmless(body) == sent
