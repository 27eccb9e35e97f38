"""Secrets reach the script and nothing else: not the record, not the rows, not the journal, not the answers."""

from __future__ import annotations

import base64
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from protocol.sealed import NotOurs, fingerprint, seal, unseal
from tests.conftest import StartService
from tests.processes import BASHD, TOKEN, Service, eventually, kill
from worker.mask import MASK, Mask, patterns

SECRET = "correct-horse-battery-staple"
OTHER = "tr0ub4dor&3"
KEY = bytes(range(32))


# Masking


def _masked(text: bytes, looked_for: list[bytes]) -> tuple[bytes, int]:
    """The same by looking at the whole at once."""
    found = sorted(
        (start, start + len(one)) for one in looked_for for start in range(len(text)) if text.startswith(one, start)
    )
    given, done, count = b"", 0, 0
    for start, end in found:
        if start >= done:
            given += text[done:start] + MASK
            count += 1
        done = max(done, end)
    return given + text[done:], count


def test_a_secret_is_found_wherever_the_pieces_are_cut() -> None:
    """Also those that overlap, or begin each other."""
    chance = random.Random(1)
    for _ in range(3000):
        looked_for = sorted({bytes(chance.choices(b"ab", k=chance.randint(2, 5))) for _ in range(3)})
        text = bytes(chance.choices(b"abc", k=chance.randint(0, 30)))
        mask, given, at = Mask(looked_for), b"", 0
        while at < len(text):
            size = chance.randint(1, 6)
            given += mask.take(text[at : at + size])
            at += size
        given += mask.rest()
        assert (given, mask.count) == _masked(text, looked_for), (looked_for, text)


def test_no_more_is_held_back_than_a_secret_is_long() -> None:
    """However long a script prints what may go on as a secret, or is one after the other."""
    mask = Mask([b"aaaa", b"aaaab" * 4])

    assert mask.take(b"a" * 1000) == MASK
    assert len(mask.rest()) < 20


def test_lines_of_a_long_secret_are_looked_for_too() -> None:
    """As a script prints a private key, indented."""
    found = patterns(["-----BEGIN-----\nMIIEvQIBADANBg\nab\n-----END-----"])

    mask = Mask(found)
    assert mask.take(b"  MIIEvQIBADANBg\n  ab\n") + mask.rest() == b"  ***\n  ab\n"


# Sealing


def test_what_is_sealed_opens_with_its_key_alone() -> None:
    """Whatever it is, and never looks the same twice."""
    for plain in (b"", b"x", b"y" * 64, os.urandom(1000)):
        sealed = seal(KEY, plain)
        assert unseal(KEY, sealed) == plain
        assert seal(KEY, plain) != sealed
        with pytest.raises(NotOurs):
            unseal(bytes(32), sealed)


def test_a_changed_byte_is_noticed() -> None:
    """Wherever it is."""
    sealed = seal(KEY, b"a secret")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(NotOurs):
            unseal(KEY, bytes(changed))
    with pytest.raises(NotOurs):
        unseal(KEY, b"")


def test_a_fingerprint_needs_the_key() -> None:
    """So nobody can try guesses against it."""
    assert fingerprint(KEY, b"guess") == fingerprint(KEY, b"guess")
    assert fingerprint(KEY, b"guess") != fingerprint(bytes(32), b"guess")


# The whole way


@pytest.fixture
def service(own_service: StartService) -> Service:
    """One with its own database, so that all of it may be searched."""
    return own_service(embedded=True).start()


def _rows(service: Service) -> str:
    """Everything that the database knows of commands."""
    with psycopg.connect(host=str(service.state_dir / "postgres"), user="bashd", dbname="bashd") as connection:
        rows = connection.execute("select c::text from commands c").fetchall()
        return "\n".join(row[0] for row in rows)


def _holds(directory: Path, text: bytes) -> list[Path]:
    """The files below it, PostgreSQL's excepted, that hold the text."""
    files = [path for path in directory.rglob("*") if path.is_file() and "postgres" not in path.parts]
    return [path for path in files if text in path.read_bytes()]


def test_a_secret_reaches_the_script_and_is_masked_in_what_it_prints(service: Service) -> None:
    """On both streams, cut where one likes; the record says how often. The script itself has it as it is."""
    command = service.done(
        'printf "%s" "${#TOKEN}:"; echo "a $TOKEN b"; printf "%s" "${TOKEN:0:9}"; sleep 0.3; '
        'printf "%s\\n" "${TOKEN:9}"; echo "$TOKEN $OTHER" >&2; printf correct-',
        secrets={"TOKEN": SECRET, "OTHER": OTHER},
    )

    assert (command.status, command.masked) == ("succeeded", 4)
    assert service.output(command, stream="stdout") == b"28:a *** b\n***\ncorrect-"
    assert service.output(command, stream="stderr") == b"*** ***\n"
    assert service.done("echo correct-horse-battery-staple").masked == 0


def test_a_secret_is_nowhere_but_in_the_script(service: Service) -> None:
    """Not in its row, not in its journal while it runs, not in an answer, not in the log."""
    command = service.run('echo "$TOKEN"; sleep 60', secrets={"TOKEN": SECRET})
    service.says(command, b"***\n")

    assert _holds(service.state_dir, SECRET.encode()) == []
    answer = service.http.get(f"/v1/commands/{command.id}")
    assert SECRET not in answer.text
    assert answer.json()["masked"] is None
    assert SECRET not in _rows(service)
    service.stop(command)
    assert service.ended(command).masked == 1
    assert SECRET not in _rows(service) + service.log


def test_a_rerun_has_the_secrets_too(service: Service) -> None:
    """Though nobody can read them from the row."""
    first = service.done('[ "$TOKEN" = correct-horse-battery-staple ] && echo "$TOKEN"', secrets={"TOKEN": SECRET})

    again = service.http.post(f"/v1/commands/{first.id}/rerun", params={"wait": 20}).json()

    assert (again["status"], again["masked"]) == ("succeeded", 1)


def test_a_waiting_command_keeps_its_secrets_over_a_restart(own_service: StartService) -> None:
    """The key lies in the state directory, readable for nobody else."""
    service = own_service(embedded=True, max_running=1, on_shutdown="leave").start()
    first = service.started(service.run("sleep 1000"))
    waiting = service.run('echo "${#TOKEN}"', secrets={"TOKEN": SECRET})
    assert service.terminate() == 0
    assert (service.state_dir / "secrets_key").stat().st_mode & 0o777 == 0o600

    service.start()
    service.stop(first)

    assert service.output(service.ended(waiting)) == b"28\n"


def test_another_key_is_said_and_starts_nothing(own_service: StartService) -> None:
    """A command whose secrets cannot be read does not run without them."""
    service = own_service(embedded=True, max_running=1, on_shutdown="leave").start()
    first = service.started(service.run("sleep 1000"))
    waiting = service.run('echo "$TOKEN"', secrets={"TOKEN": SECRET})
    assert service.terminate() == 0
    (service.state_dir / "secrets_key").write_text(base64.b64encode(bytes(32)).decode())

    service.start()
    service.stop(first)

    ended = service.ended(waiting)
    assert (ended.status, ended.reason) == ("failed", "spawn")
    assert "another key" in ended.evidence["error"]


def test_masking_goes_on_when_everybody_else_dies(service: Service, mark: str) -> None:
    """It is the worker's, which nobody replaces."""
    command = service.run(
        f'echo "$TOKEN"; until [ -e /tmp/{mark} ]; do :; done; echo "$TOKEN"', secrets={"TOKEN": SECRET}
    )
    service.says(command, b"***\n")
    for name in ("bashd: api", "bashd: supervisor"):
        kill(service.pid(name))
    eventually(service.is_ready)
    go = Path(f"/tmp/{mark}")
    try:
        go.touch()
        assert service.output(service.ended(command)) == b"***\n***\n"
    finally:
        go.unlink()


def test_the_same_request_is_known_by_its_secrets(service: Service) -> None:
    """Another secret under the same key is another request."""
    body = {"script": "true", "secrets": {"TOKEN": SECRET}}
    headers = {"Idempotency-Key": "with-secrets"}
    first = service.http.post("/v1/commands", json=body, headers=headers)

    assert service.http.post("/v1/commands", json=body, headers=headers).json()["id"] == first.json()["id"]
    body["secrets"] = {"TOKEN": OTHER}
    assert service.http.post("/v1/commands", json=body, headers=headers).status_code == 409


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"secrets": {"TOKEN": "abc"}}, "4 to 8192 characters"),
        ({"secrets": {"TOKEN": "x" * 8193}}, "4 to 8192 characters"),
        ({"secrets": {"TO=KEN": SECRET}}, "must not be empty or contain '='"),
        ({"secrets": {"TOKEN": "four\0"}}, "NUL"),
        ({"secrets": {"TOKEN": SECRET}, "env": {"TOKEN": "x"}}, "name it once"),
    ],
    ids=["short", "long", "name", "NUL", "twice"],
)
def test_a_wrong_secret_is_refused_without_being_told(service: Service, fields: dict[str, Any], message: str) -> None:
    """The answer names the field, and never repeats the value."""
    answer = service.create("true", **fields)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"].startswith("secrets")
    assert message in answer.json()["errors"][0]["message"]
    assert all(one not in answer.text for one in (SECRET, "four"))


@pytest.mark.parametrize("key", ["short", base64.b64encode(b"x" * 31).decode(), "ä" * 44])
def test_a_wrong_key_is_refused_at_the_start(key: str, state_dir: Path) -> None:
    """In one line that says how to make one, and does not repeat it."""
    ended = subprocess.run(
        [BASHD, "serve", "--port=0"],
        env={"PATH": os.environ["PATH"], "BASHD_STATE_DIR": str(state_dir), "BASHD_SECRETS_KEY": key},
        capture_output=True,
        text=True,
        timeout=40,
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("bashd: secrets_key: must be 32 bytes in base64")
    assert key not in ended.stderr
    assert TOKEN not in ended.stderr
