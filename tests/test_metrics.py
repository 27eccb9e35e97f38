"""What Prometheus is told is true, needs the token, and is told also while PostgreSQL is away."""

from __future__ import annotations

import os

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api import migrations
from tests.conftest import StartService
from tests.postgres import PostgresServer
from tests.processes import Service, eventually, kill

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _scrape(service: Service) -> Samples:
    answer = service.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def _value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def test_ends_are_counted_with_what_they_left_and_printed(own_service: StartService, mark: str) -> None:
    """By status and reason; processes swept and bytes printed; each command once in both histograms."""
    service = own_service(max_running=2).start()
    service.done("printf 12345; printf 123 >&2")
    service.done("exit 4")
    service.done(f"sleep {mark} & setsid sleep {mark} & sleep 0.3")
    running = [service.started(service.run(f"printf 12; sleep {mark}")) for _ in range(2)]
    queued = service.run("true")
    during = _scrape(service)
    service.stop(queued)
    for one in running:
        service.stop(one)
        service.ended(one)

    def ended() -> Samples | None:
        now = _scrape(service)
        return now if _value(now, "bashd_journals") == 0 else None

    after = eventually(ended)

    def total(status: str, reason: str) -> float:
        return _value(after, "bashd_commands_ended_total", status=status, reason=reason)

    assert [_value(during, f"bashd_commands_{name}") for name in ("running", "queued")] == [2, 1]
    assert [_value(during, "bashd_commands", status=name) for name in ("running", "queued", "succeeded")] == [2, 1, 2]
    assert (total("succeeded", "exit"), total("failed", "exit"), total("stopped", "client")) == (2, 1, 3)
    assert _value(after, "bashd_commands", status="stopped") == 3
    assert _value(after, "bashd_command_start_seconds_count") == 5
    assert _value(after, "bashd_command_duration_seconds_count") == 5
    assert _value(after, "bashd_command_duration_seconds_sum") >= 0.3
    printed = [_value(after, "bashd_output_bytes_total", stream=stream) for stream in ("stdout", "stderr")]
    assert printed == [5 + 2 + 2, 3]
    assert _value(after, "bashd_swept_processes_total", where="escaped") == 1
    assert _value(after, "bashd_swept_processes_total", where="group") >= 1
    assert _value(after, "bashd_database_up") == 1
    assert _value(after, "bashd_unrecorded_bytes") == _value(after, "bashd_unrecorded_seconds") == 0
    assert _value(during, "bashd_journals") >= 2
    assert _value(during, "bashd_journals_bytes") >= 2 * 32 * 1024


def test_requests_are_counted_by_route(own_service: StartService) -> None:
    """By template and not by path, so that there are few; what led nowhere is counted as that."""
    service = own_service().start()
    for _ in range(3):
        service.http.get("/v1/commands/999999")
    service.http.get("/nowhere/1")
    service.http.get("/v1/commands", headers={"Authorization": "Bearer wrong"})
    service.done("true")

    found = _scrape(service)

    def count(method: str, route: str, status: str) -> float:
        return _value(found, "bashd_http_requests_total", method=method, route=route, status=status)

    assert count("GET", "/v1/commands/{command_id}", "4xx") == 3
    assert count("POST", "/v1/commands", "2xx") == 1
    assert count("other", "none", "4xx") == 2


def test_it_needs_the_token(service: Service) -> None:
    """As everything that tells of commands."""
    answer = service.http.get("/metrics", headers={"Authorization": ""})

    assert answer.status_code == 401


def test_while_postgresql_is_away_it_answers_and_says_so(own_service: StartService, server: PostgresServer) -> None:
    """Frozen or gone: what only PostgreSQL knows is left out, what is not recorded grows; then it is recorded."""
    service = own_service(database_url=server.new_database()).start()
    command = service.started(service.run("while :; do echo more; sleep 0.05; done"))
    server.freeze()

    def is_behind() -> bool:
        now = _scrape(service)
        left_out = ("bashd_commands", (("status", "running"),)) not in now
        behind = _value(now, "bashd_unrecorded_bytes") > 0 and _value(now, "bashd_unrecorded_seconds") > 1.5
        return left_out and behind and now["bashd_database_up", ()] == 0 and now["bashd_commands_running", ()] == 1

    eventually(is_behind)
    server.thaw()
    server.end()
    eventually(is_behind)
    server.begin()
    service.stop(command)
    service.ended(command)
    eventually(lambda: _value(_scrape(service), "bashd_database_up") == 1)
    eventually(lambda: _value(_scrape(service), "bashd_unrecorded_seconds") == 0)
    ended = _scrape(service)
    assert _value(ended, "bashd_commands_ended_total", status="stopped", reason="client") == 1
    assert _value(ended, "bashd_output_bytes_total", stream="stdout") == service.get(command).stdout_bytes


def test_what_keeps_commands_from_being_accepted_is_told_by_part(
    own_service: StartService, server: PostgresServer
) -> None:
    """As /readyz has it; beside what the settings allow, and what is free on the disk."""
    service = own_service(database_url=server.new_database(), max_running=7, max_queued=8, min_free_bytes=9).start()

    def unready() -> set[str]:
        found = _scrape(service)
        assert _value(found, "bashd_ready") == (not any(_parts(found).values()))
        return {part for part, count in _parts(found).items() if count}

    before = _scrape(service)
    free = os.statvfs(service.state_dir)
    assert set(_parts(before)) == {"disk", "draining", "supervisor", "postgres"}
    assert unready() == set()
    server.end()
    eventually(lambda: unready() == {"postgres"})
    server.begin()
    eventually(lambda: unready() == set())

    names = ("bashd_max_running", "bashd_max_queued", "bashd_min_free_bytes")
    assert [_value(before, name) for name in names] == [7, 8, 9]
    assert _value(before, "bashd_disk_free_bytes") == pytest.approx(free.f_bavail * free.f_frsize, rel=0.2)


def _parts(found: Samples) -> dict[str, float]:
    return {dict(labels)["part"]: count for (name, labels), count in found.items() if name == "bashd_unready"}


def test_a_full_disk_is_told(own_service: StartService) -> None:
    """While commands are refused because of it."""
    service = own_service(min_free_bytes=2**60).start(ready=False)

    eventually(lambda: {part for part, count in _parts(_scrape(service)).items() if count} == {"disk"})
    assert _value(_scrape(service), "bashd_ready") == 0


def test_losses_are_there_before_the_first(service: Service) -> None:
    """Of a series that begins with 1 nobody could say that it has grown."""
    lost = {labels for name, labels in _scrape(service) if name == "bashd_commands_ended_total"}

    for reason in ("worker_died", "host_died", "journal_gone"):
        assert (("reason", reason), ("status", "lost")) in lost


def test_before_the_schema_is_there_nobody_is_told_that_we_failed(own_service: StartService, database_url: str) -> None:
    """At the first start and after an upgrade: Prometheus is answered, everybody else is told to come again."""
    service = own_service(database_url=database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", [migrations.LOCK])
        service.start(ready=False)
        eventually(lambda: service.http.get("/healthz").status_code == 200)

        found = _scrape(service)
        answers = [
            service.http.get("/v1/counts"),
            service.http.get("/v1/commands"),
            service.http.get("/v1/commands?label=a:b"),
            service.http.post("/v1/commands", json={"script": "true"}, headers={"Idempotency-Key": "k"}),
        ]

    assert found["bashd_database_up", ()] == 0
    assert [one.status_code for one in answers] == [503] * 4
    eventually(service.is_ready)
    assert _value(_scrape(service), "bashd_database_up") == 1


def test_restarts_are_counted_and_starts_of_bashd_are_not(own_service: StartService) -> None:
    """Of each process, over restarts of Bashd too."""
    service = own_service(embedded=True).start()

    def restarts() -> dict[str, float]:
        found = _scrape(service)
        names = ("supervisor", "forker", "api", "postmaster")
        return {name: _value(found, "bashd_process_restarts_total", process=name) for name in names}

    assert set(restarts().values()) == {0}
    kill(service.pid("bashd: api"))
    eventually(service.is_ready)
    assert restarts() == {"supervisor": 0, "forker": 0, "api": 1, "postmaster": 0}
    kill(service.postmaster())
    eventually(lambda: restarts()["postmaster"] == 1)
    eventually(service.is_ready)
    old = service.pid("bashd: supervisor")
    kill(old)
    eventually(lambda: service.pids("bashd: supervisor") not in ([], [old]))
    eventually(service.is_ready)
    assert restarts() == {"supervisor": 1, "forker": 1, "api": 2, "postmaster": 1}
    assert service.terminate() == 0
    service.start()
    assert restarts() == {"supervisor": 1, "forker": 1, "api": 2, "postmaster": 1}


def test_a_command_is_counted_once_although_the_api_died(own_service: StartService, mark: str) -> None:
    """Counters begin anew with the API; what ends under the new one is counted by it, with what was left to record."""
    service = own_service().start()
    done = service.done("true")
    running = service.started(service.run(f"printf 123; sleep {mark}"))
    kill(service.pid("bashd: api"))
    eventually(service.is_ready)
    service.stop(running)
    service.ended(running)

    def ended() -> float:
        return _value(_scrape(service), "bashd_commands_ended_total", status="stopped", reason="client")

    eventually(lambda: ended() == 1)
    found = _scrape(service)
    assert done.status == "succeeded"
    assert _value(found, "bashd_commands_ended_total", status="succeeded", reason="exit") == 0
    assert _value(found, "bashd_commands", status="succeeded") == 1
    assert found["bashd_build_info", tuple(sorted(_build(found).items()))] == 1


def _build(found: Samples) -> dict[str, str]:
    return next(dict(labels) for name, labels in found if name == "bashd_build_info")
