"""docker-compose.yml in a real engine: Bashd comes up beside its PostgreSQL, with secrets that only files hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import engine
from tests.processes import REPOSITORY, eventually


def _has_compose() -> bool:
    plugin = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True)
    return shutil.which("docker-compose") is not None or bool(plugin and plugin.returncode == 0)


pytestmark = [
    pytest.mark.container,
    pytest.mark.skipif(not _has_compose(), reason="neither docker compose nor docker-compose is installed"),
    pytest.mark.usefixtures("image"),
]

PROJECT = f"bashd-tests-{os.getpid()}"


def _make(*arguments: str, secrets: Path) -> None:
    """As an operator calls it, with names and a port of the test's own."""
    ours = {
        "COMPOSE_PROJECT_NAME": PROJECT,
        "IMAGE": engine.IMAGE,
        "PUBLISHED_PORT": "0",
        "SECRETS_DIR": str(secrets),
    }
    done = subprocess.run(
        ["make", "--silent", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **ours},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr


def _container(service: str) -> str:
    """The id of the one container of this service, also when it does not run."""
    labels = [f"label=com.docker.compose.project={PROJECT}", f"label=com.docker.compose.service={service}"]
    return engine.docker("ps", "--all", "--quiet", *(f"--filter={label}" for label in labels)).strip()


@pytest.fixture
def secrets(place: Path) -> Iterator[Path]:
    """A directory for secrets; whatever was started with it is gone afterwards."""
    directory = place / "compose-secrets"
    yield directory
    for volume in ("postgres", "state"):
        engine.docker("volume", "rm", "--force", f"{PROJECT}_{volume}")
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def up(secrets: Path) -> Iterator[None]:
    """Everything is started, and removed afterwards."""
    try:
        _make("docker.run", secrets=secrets)
        yield
    finally:
        _make("docker.down", secrets=secrets)


def _client(secrets: Path) -> httpx.Client:
    return httpx.Client(
        base_url=f"http://{engine.docker('port', _container('bashd'), '8080').strip()}",
        headers={"Authorization": f"Bearer {(secrets / 'token').read_text()}"},
        timeout=30.0,
        trust_env=False,
    )


def _state(service: str) -> str:
    return engine.docker("inspect", "--format={{.State.Health.Status}}", _container(service)).strip()


@pytest.mark.usefixtures("up")
def test_compose_brings_up_bashd_beside_its_database(secrets: Path) -> None:
    """Both are healthy, a command runs, stop and start keep it, and no secret is in what the engine shows."""
    eventually(lambda: {_state("postgres"), _state("bashd")} == {"healthy"}, within_s=120)
    with _client(secrets) as client:
        assert client.get("/readyz", headers={"Host": "somewhere.example"}).status_code == 421
        answer = client.post("/v1/commands", params={"wait": 20}, json={"script": "echo from compose"})
        assert answer.status_code == 201, answer.text
        assert answer.json()["status"] == "succeeded"
        assert client.get("/v1/commands/1/output").content == b"from compose\n"
        running = client.post("/v1/commands", json={"script": "sleep 3600"}).json()["id"]
        eventually(lambda: client.get(f"/v1/commands/{running}").json()["status"] == "running")

    engine.docker("stop", "--time=15", _container("bashd"))
    code = engine.docker("inspect", "--format={{.State.ExitCode}}", _container("bashd")).strip()
    engine.docker("start", _container("bashd"))

    assert code == "0"
    with _client(secrets) as client:
        eventually(lambda: _state("bashd") == "healthy", within_s=60)
        stopped = client.get(f"/v1/commands/{running}").json()
        assert (stopped["status"], stopped["reason"]) == ("stopped", "shutdown")
    shown = engine.docker("inspect", _container("bashd"), _container("postgres"))
    assert "TOKEN_FILE" in shown
    assert [path.name for path in secrets.iterdir() if path.read_text().strip() in shown] == []


@pytest.mark.usefixtures("up")
def test_in_compose_bashd_may_do_no_more_than_it_needs() -> None:
    """Read-only, without capabilities, bounded in memory and processes, published on this machine alone."""
    host = json.loads(engine.docker("inspect", "--format={{json .HostConfig}}", _container("bashd")))

    assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert (host["Memory"], host["PidsLimit"]) == (2 * 2**30, 2000)
    assert [at["HostIp"] for at in host["PortBindings"]["8080/tcp"]] == ["127.0.0.1"]
