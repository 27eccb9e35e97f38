"""What is built and run comes from where it says, in the version that was reviewed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from supervisor.settings import Settings
from tests.processes import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


def _read(name: str) -> str:
    return (REPOSITORY / name).read_text()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_each_action_is_one_commit_of_its_maker(workflow: Path) -> None:
    """By the full hash, with the version it is for people and for dependabot; and none but GitHub's own."""
    used = re.findall(r"uses: *(.*)", workflow.read_text())

    assert used != []
    assert [one for one in used if not re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", one)] == []


def test_whoever_lacks_uv_gets_the_same_one() -> None:
    """Makefile and Dockerfile install one version, by its number."""
    installed = re.findall(r"pip install .*\buv(\S*)", _read("Makefile") + _read("Dockerfile"))

    assert len(installed) == 2
    assert re.fullmatch(r"==[\d.]+;?", installed[0])
    assert len({one.rstrip(";") for one in installed}) == 1


def test_everything_in_the_image_comes_from_the_lock_file() -> None:
    """``--frozen``: versions and hashes of uv.lock, never what the index has today."""
    synced = re.findall(r"uv sync (.*)", _read("Dockerfile"))

    assert len(synced) == 2
    assert all("--frozen" in options and "--no-dev" in options for options in synced)


def test_compose_gives_bashd_the_time_to_record_what_it_stops() -> None:
    """An engine that kills before ``shutdown_timeout_s`` leaves commands lost instead of stopped."""
    bashd = _read("docker-compose.yml").partition("\n  bashd:\n")[2]
    grace = re.search(r"stop_grace_period: (\d+)s", bashd)

    assert grace is not None
    assert int(grace[1]) > Settings.model_fields["shutdown_timeout_s"].default
