"""What the README shows is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import StartService
from tests.processes import marked
from tests.terminal import environment

README = Path(__file__).parent.parent / "README.md"
CLI = README.parent / "docs" / "cli.md"


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


def test_the_command_line_of_the_readme_runs_as_it_stands(own_service: StartService) -> None:
    """Its session, line by line, and what the text beside it says."""
    service = own_service().start()
    session = re.search(r"## The command line\n.*?```sh\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert session is not None

    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", session[1]],
        env=environment(service),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (run.returncode, run.stderr) == (0, "err\n")
    assert run.stdout.startswith("out\n→ 7\n3\n2\n1\nID ")
    assert "\n→ 143\n" in run.stdout
    assert "Z stdout out\n" in run.stdout
    assert run.stdout.rstrip().endswith("]")
    assert marked("1000") == []


def test_the_program_of_the_readme_runs_as_it_stands(own_service: StartService) -> None:
    """And prints what it must."""
    service = own_service().start()
    program = re.search(r"## From Python\n.*?```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert program is not None

    run = subprocess.run(
        [sys.executable, "-c", program[1]],
        env={**environment(service), "PYTHONPATH": str(README.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (run.stdout, run.stderr) == ("stdout b'hello world\\n'\nfailed 3\n", "")


def test_every_example_of_docs_cli_runs_as_it_stands(own_service: StartService, tmp_path: Path) -> None:
    """All its blocks, one after the other, in a home of their own."""
    service = own_service().start()
    blocks = re.findall(r"```sh\n(.*?)```", CLI.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2

    # No pipefail: the last example is about a writer that is ended because nobody reads.
    run = subprocess.run(
        ["bash", "-euc", "".join(blocks)],
        env=environment(service, HOME=str(tmp_path)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "hello world\nhello\na\nb\n***\nfrom a file, really\nlater\ny\n"
    assert "compdef" in (tmp_path / "_bashd").read_text()
    assert (tmp_path / "bashd.fish").exists()
