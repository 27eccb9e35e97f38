"""What the README shows is true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.conftest import StartService
from tests.processes import marked

README = Path(__file__).parent.parent / "README.md"


def test_the_session_of_the_readme_runs_as_it_stands(own_service: StartService) -> None:
    """Its bash block, given a service and a token, works line by line and shows what the text says."""
    service = own_service().start()
    session = re.findall(r"```bash\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(session) == 1

    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", session[0]],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "URL": service.url, "TOKEN": service.token or ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert '"exit_code":7' in run.stdout
    assert "out\nerr\n" in run.stdout
    assert "hello 1\nhello 2\nhello 3\n" in run.stdout
    assert '"swept":{"group":1,"escaped":1,"left":0}' in run.stdout
    assert '{"items":[],"next":null}' in run.stdout
    assert marked("1000") == []
