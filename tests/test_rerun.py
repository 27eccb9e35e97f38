"""The same command again: as a new one, with everything that was asked for the first time."""

from __future__ import annotations

import os

import psycopg
import pytest

from tests.conftest import StartService
from tests.processes import FINAL, Command, Service, eventually

ASKED = (
    "script", "args", "cwd", "stdin_open", "run_as", "name", "labels", "timeout_s", "grace_s", "leftovers",
    "merge_stderr",
)  # fmt: skip


def rerun(service: Service, command: Command, **params: float) -> Command:
    """Ask for it again; it is accepted."""
    answer = service.http.post(f"/v1/commands/{command.id}/rerun", params=params)
    assert answer.status_code == 201, answer.text
    again = Command(answer.json())
    assert answer.headers["location"] == f"/v1/commands/{again.id}"
    assert again.id > command.id
    assert again.rerun_of == command.id
    return again


def _recorded(service: Service) -> None:
    """Returns when all that is known to the API stands in its rows."""
    eventually(lambda: not os.listdir(service.state_dir / "journals"))


def test_a_command_runs_again_with_all_that_was_asked_for(service: Service) -> None:
    """Also what is not shown: variables, input and the limit of its output."""
    first = service.done(
        'echo "$1 $GREETING"; cat; pwd; head -c 100 /dev/zero >&2; exit 3',
        args=["for you"], env={"GREETING": "hello"}, stdin="input\n", cwd="/tmp", name="greeter",
        labels={"team": "infra"}, timeout_s=77.5, grace_s=1.5, leftovers="wait", merge_stderr=False,
        output_limit_bytes=50,
    )  # fmt: skip

    again = service.ended(rerun(service, first))

    assert {name: again.row[name] for name in ASKED} == {name: first.row[name] for name in ASKED}
    assert (again.status, again.reason, again.exit_code) == ("failed", "exit", 3)
    assert service.output(again, stream="stdout") == b"for you hello\ninput\n/tmp\n"
    assert again.truncated == first.truncated
    assert again.truncated["stderr"] == [[25, 75]]
    assert service.get(first).row == first.row


def test_an_answer_may_wait_for_the_end(service: Service) -> None:
    """As when it was run the first time."""
    first = service.done("echo hi")

    assert rerun(service, first, wait=20).status == "succeeded"


def test_what_was_run_again_can_be_run_again(service: Service) -> None:
    """Each names the one that it is a copy of."""
    first = service.done("echo hi")
    second = service.ended(rerun(service, first))

    third = service.ended(rerun(service, second))

    assert (first.rerun_of, second.rerun_of, third.rerun_of) == (None, first.id, second.id)
    assert service.output(third) == b"hi\n"


def test_it_does_not_matter_what_became_of_it(own_service: StartService) -> None:
    """Waiting, running, stopped; also after a restart, when all that is known stands in its row or its journal."""
    service = own_service(max_running=1, on_shutdown="leave").start()
    running = service.started(service.run("sleep 1000", stdin="x", env={"A": "b"}))
    waiting = service.run('echo "$A"; cat', stdin="in", env={"A": "b"})

    copies = [rerun(service, running), rerun(service, waiting)]
    assert service.terminate() == 0
    service.start()
    copies += [rerun(service, running), rerun(service, waiting)]

    assert [service.get(one).status for one in copies] == ["queued"] * 4
    for one in (running, copies[0], copies[2]):
        service.started(one)
        service.stop(one)
        assert service.ended(one).status == "stopped"
        if one is copies[0]:
            assert service.ended(copies[1]).status == "succeeded"
    last = service.ended(copies[3])
    assert (last.status, last.rerun_of, service.output(last)) == ("succeeded", waiting.id, b"b\nin")
    assert rerun(service, running).rerun_of == running.id


def test_a_copy_is_fed_by_itself(service: Service) -> None:
    """``stdin_open`` is asked for again; what was fed the first time is not repeated."""
    first = service.run("cat", stdin="a\n", stdin_open=True)
    service.http.post(f"/v1/commands/{first.id}/stdin", content=b"b\n", params={"close": "true"})
    assert service.output(service.ended(first)) == b"a\nb\n"

    again = rerun(service, first)
    service.http.post(f"/v1/commands/{again.id}/stdin", content=b"c\n", params={"close": "true"})

    assert service.output(service.ended(again)) == b"a\nc\n"


def test_asked_twice_with_one_key_it_runs_again_once(service: Service) -> None:
    """The second answer is the first one's command; for another command the key is taken."""
    first, other = service.done("true"), service.done("true")
    headers = {"Idempotency-Key": f"again {first.id}".replace(" ", "-")}

    new, found = (service.http.post(f"/v1/commands/{first.id}/rerun", headers=headers) for _ in range(2))
    taken = service.http.post(f"/v1/commands/{other.id}/rerun", headers=headers)

    assert (new.status_code, found.status_code, taken.status_code) == (201, 200, 409)
    assert new.json()["id"] == found.json()["id"]
    assert service.ended(Command(new.json())).rerun_of == first.id


def test_what_cannot_be_run_again_is_refused(service: Service) -> None:
    """Nothing is created, and each is told why."""
    first = service.done("true")
    newest = service.newest_id()
    url = f"/v1/commands/{first.id}/rerun"

    unknown = service.http.post("/v1/commands/999999999/rerun")
    malformed = service.http.post("/v1/commands/0/rerun")
    field = service.http.post(url, json={"timeout_s": 3})
    parameter = service.http.post(url, params={"wait": "long"})
    key = service.http.post(url, headers={"Idempotency-Key": "x y"})
    text = service.http.post(url, content=b"x", headers={"Content-Type": "text/plain"})

    assert (unknown.status_code, malformed.status_code, text.status_code) == (404, 400, 415)
    assert (field.status_code, field.json()["errors"][0]["field"]) == (400, "timeout_s")
    assert (parameter.status_code, parameter.json()["errors"][0]["field"]) == (400, "wait")
    assert (key.status_code, key.json()["errors"][0]["field"]) == (400, "Idempotency-Key")
    assert service.newest_id() == newest
    assert first.status in FINAL


def test_what_was_never_accepted_has_no_script_to_run(own_service: StartService, database_url: str) -> None:
    """Its row may be all that there is of it."""
    service = own_service(database_url=database_url).start()
    first = service.done("true")
    _recorded(service)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update commands set status = 'stopped', reason = 'not_accepted' where id = %s", [first.id])

    answer = service.http.post(f"/v1/commands/{first.id}/rerun")

    assert answer.status_code == 409
    assert "never accepted" in answer.json()["detail"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_a_user_that_is_gone_is_said_before_anything_is_created(own_service: StartService, database_url: str) -> None:
    """What was right when it was asked for may not be now."""
    service = own_service(database_url=database_url).start()
    first = service.done("id -un", run_as="nobody")
    assert service.output(service.ended(rerun(service, first))) == b"nobody\n"
    _recorded(service)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update commands set run_as = 'whoever' where id = %s", [first.id])

    answer = service.http.post(f"/v1/commands/{first.id}/rerun")

    assert answer.status_code == 409
    assert "whoever" in answer.json()["detail"]
