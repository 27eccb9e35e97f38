"""The list finds what is asked for, in pages that hold while more comes, and counts what there is."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from api import command as stored
from api import migrations
from api.selection import Place, Selection
from api.store import Store
from protocol.status import STATUSES
from tests.conftest import StartService
from tests.processes import Command, Service, unique_seconds


def _ids(service: Service, **params: Any) -> list[int]:
    return [one.id for one in service.page(**params)]


def _all_pages(service: Service, **params: Any) -> list[int]:
    """The ids of the whole list, page by page of two, while a command is added before each page."""
    found: list[int] = []
    cursor: str | None = None
    while True:
        service.run("true")
        more = {} if cursor is None else {"cursor": cursor}
        answer = service.http.get("/v1/commands", params={"limit": 2, **params, **more})
        assert answer.status_code == 200, answer.text
        found += [one["id"] for one in answer.json()["items"]]
        cursor = answer.json()["next"]
        if cursor is None:
            return found


def _new(word: str) -> str:
    return f"{word}-{unique_seconds()}"


def test_labels_must_all_match(service: Service) -> None:
    """Name and value, exactly; a colon belongs to the value; the order and twins do not matter."""
    team = _new("team")
    both = service.run("true", labels={"team": team, "url": "a:b"})
    one = service.run("true", labels={"team": team})
    service.run("true", labels={"other": team})

    assert _ids(service, label=f"team:{team}") == [one.id, both.id]
    assert _ids(service, label=["url:a:b", f"team:{team}", f"team:{team}"]) == [both.id]
    assert _ids(service, label=[f"team:{team}", "url:a"]) == []
    assert _ids(service, label="team:") == []


def test_a_name_must_match_exactly(service: Service) -> None:
    """Not a part of it, and not in other letters."""
    name = _new("Näme")
    made = [service.run("true", name=name).id for _ in range(2)]
    service.run("true", name=name + "x")

    assert _ids(service, name=name) == made[::-1]
    assert _ids(service, name=name.upper()) == _ids(service, name=name[:-1]) == []


def test_since_is_inclusive_and_until_is_not(service: Service) -> None:
    """Instants of any zone, to the microsecond."""
    name = _new("time")
    first, second, third = (service.run("true", name=name) for _ in range(3))

    def ids(**params: str) -> list[int]:
        return _ids(service, name=name, **params)

    assert ids(since=second.created_at) == [third.id, second.id]
    assert ids(until=second.created_at) == [first.id]
    assert ids(since=first.created_at, until=third.created_at) == [second.id, first.id]
    assert ids(since=second.created_at.replace("Z", "000+00:00"), until="2999-01-01t00:00:00+14:00") == [
        third.id,
        second.id,
    ]
    assert ids(since=second.created_at.replace("Z", "001Z")) == [third.id]


def test_text_is_found_in_scripts_in_any_letters(service: Service) -> None:
    """As it stands, no pattern; and the answer says in how many of the newest commands it looked."""
    word = _new("Word%_\\")
    found = service.run(f"# before\n# {word} after")
    service.run("# Word")

    answer = service.http.get("/v1/commands", params={"q": f"E\n# {word.upper()}"})

    assert [one["id"] for one in answer.json()["items"]] == [found.id]
    assert answer.json()["searched"] == 10_000
    assert "searched" not in service.http.get("/v1/commands").json()


def test_statuses_may_be_several(service: Service) -> None:
    """Each of them is shown, in one order; and filters come together."""
    label = _new("l")
    made = [service.done(script, labels={"l": label}) for script in ("exit 3", "true", "kill -9 $$", "true")]
    failed = [made[2].id, made[0].id]

    def ids(*statuses: str) -> list[int]:
        return _ids(service, label=f"l:{label}", status=list(statuses))

    assert ids("failed") == failed
    assert ids("failed", "succeeded") == [one.id for one in reversed(made)]
    assert ids("lost", "queued", "running") == []
    since = made[1].created_at
    assert _ids(service, label=f"l:{label}", status="failed", since=since, q="KILL") == [made[2].id]


def test_a_live_status_is_the_true_one_in_every_filter(service: Service, mark: str) -> None:
    """Its row may be a second behind: what has just ended is not shown as running, nor the other way round."""
    label = _new("l")
    command = service.started(service.run(f"sleep {mark}", labels={"l": label}))
    filters = {"label": f"l:{label}", "since": command.created_at, "q": mark}

    assert _ids(service, status="running", **filters) == [command.id]
    assert _ids(service, status=["queued", "stopped"], **filters) == []
    service.stop(command)
    ended = service.ended(command)
    assert _ids(service, status="running", **filters) == []
    assert [one.row for one in service.page(status=["queued", "stopped"], **filters)] == [ended.row]


@pytest.mark.parametrize("by_time", [False, True])
def test_pages_hold_while_more_comes(service: Service, by_time: bool) -> None:
    """Each command once and none left out, with a filter and without."""
    label = _new("l")
    made = [service.run("true", labels={"l": label}) for _ in range(7)]
    params: dict[str, Any] = {"since": made[1].created_at} if by_time else {}

    filtered = _all_pages(service, label=f"l:{label}", **params)
    whole = _all_pages(service, until=made[-1].created_at) if by_time else _all_pages(service)

    assert filtered == [one.id for one in made[by_time:][::-1]]
    assert all(later > earlier for later, earlier in pairwise(whole))
    assert {one.id for one in made[:-1]} <= set(whole)


def test_time_counts_although_ids_say_otherwise(own_service: StartService, database_url: str) -> None:
    """After a clock was set back a greater id may be older: the pages of a time hold it where its time is."""
    service = own_service(database_url=database_url).start()
    made = [service.done("true") for _ in range(5)]
    with psycopg.connect(database_url) as connection:
        connection.execute("update commands set created_at = created_at - interval '1 day' where id = %s", [made[4].id])

    assert _all_pages(service, until=made[3].created_at) == [made[2].id, made[1].id, made[0].id, made[4].id]
    assert _all_pages(service, since=made[0].created_at)[-4:] == [one.id for one in made[3::-1]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("cursor=0", "cursor"),
        ("cursor=01", "cursor"),
        ("cursor=-1", "cursor"),
        ("cursor=99999999999999999999", "cursor"),
        ("cursor=7@1", "cursor"),
        ("cursor=7&since=2026-01-01T00:00:00Z", "cursor"),
        ("cursor=7@&since=2026-01-01T00:00:00Z", "cursor"),
        ("cursor=", "cursor"),
        ("label=team", "label"),
        ("label=:x", "label"),
        ("label=a:%00", "label"),
        ("&".join(f"label=a:{number}" for number in range(11)), "label"),
        ("name=", "name"),
        ("name=a&name=b", "name"),
        ("q=", "q"),
        ("q=%00", "q"),
        ("q=" + "x" * 201, "q"),
        ("status=done", "status"),
        ("status=failed&status=done", "status"),
        ("since=yesterday", "since"),
        ("since=2026-01-01", "since"),
        ("since=2026-01-01T00:00:00", "since"),
        ("since=2026-02-30T00:00:00Z", "since"),
        ("since=0000-01-01T00:00:00Z", "since"),
        ("until=9999-12-31T23:59:59.9999999Z", "until"),
        ("until=2026-01-01T00:00:00+01:00", "until"),  # a + that was not encoded
        ("since=2026-01-01T00:00:00Z&until=2026-01-01T00:00:00Z", "until"),
        ("labels=a:b", "labels"),
    ],
)
def test_what_cannot_be_asked_is_refused(service: Service, query: str, field: str) -> None:
    """400 that names the parameter and says what is allowed."""
    answer = service.http.get(f"/v1/commands?{query}")

    assert answer.status_code == 400, answer.text
    assert field in [one["field"] for one in answer.json()["errors"]]


def test_counts_are_those_of_the_commands(own_service: StartService, mark: str) -> None:
    """At every moment what is live is what it is; after all has ended, after a restart, the sums are right."""
    service = own_service(max_running=3).start()

    def counts() -> dict[str, int]:
        answer = service.http.get("/v1/counts")
        assert answer.status_code == 200, answer.text
        found: dict[str, int] = answer.json()
        return found

    nothing = dict.fromkeys(STATUSES, 0)
    assert counts() == nothing
    running = service.started(service.run(f"sleep {mark}"))
    for script in ("true", "exit 1", "true", "kill -9 $$"):
        service.done(script)
    assert counts() == nothing | {"running": 1, "succeeded": 2, "failed": 2}
    more = [service.started(service.run(f"sleep {mark}")) for _ in range(2)]
    waiting = [service.run("true") for _ in range(2)]
    service.stop(waiting[0])
    assert counts() == nothing | {"running": 3, "succeeded": 2, "failed": 2, "queued": 1, "stopped": 1}
    for one in (running, *more):
        service.stop(one)
    for one in (running, *more, waiting[1]):
        service.ended(one)

    after = nothing | {"succeeded": 3, "failed": 2, "stopped": 4}
    assert counts() == after
    assert service.terminate() == 0
    service.start()
    assert counts() == after


def test_counts_never_lose_or_double_what_ends_while_they_are_made(own_service: StartService) -> None:
    """Two commands of three phases each are in exactly one of them, whenever one looks."""
    service = own_service().start()
    made: list[Command] = []

    def add() -> None:
        made.extend(service.run("sleep 0.02") for _ in range(120))

    with ThreadPoolExecutor(2) as pool:
        adding = pool.submit(add)
        while not adding.done():
            least = len(made)
            found = sum(service.http.get("/v1/counts").json().values())
            assert least <= found <= len(made) + 1
        adding.result()
    for one in made:
        service.ended(one)
    assert service.http.get("/v1/counts").json()["succeeded"] == 120


class ExplainingStore(Store):
    """The real store, which lets PostgreSQL carry out a page's statement and tell how many blocks it touched."""

    blocks = 0

    async def _select(self, sql: str, values: list[Any]) -> list[stored.Command]:
        async with self._connection() as connection:
            cursor = await connection.execute(f"explain (analyze, buffers, format json) {sql}", values, prepare=False)
            [[[told]]] = await cursor.fetchall()
        self.blocks = told["Plan"]["Shared Hit Blocks"] + told["Plan"]["Shared Read Blocks"]
        return []

    _search = _select


def _blocks(database_url: str, asked: list[Selection]) -> list[int]:
    async def explain() -> list[int]:
        store = ExplainingStore(database_url, str(uuid.uuid4()))
        await store.open()
        found = []
        for selection in asked:
            await store.page(limit=51, selection=selection, live={7: "running", 8: "lost"})
            found.append(store.blocks)
        await store.close()
        return found

    return asyncio.run(explain())


def test_a_page_of_many_rows_touches_few_of_them(database_url: str) -> None:
    """Two hundred thousand rows take thousands of blocks: whatever is asked for, an index leads to the page."""
    migrations.apply(database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            """
            insert into commands (id, node_id, status, reason, exit_code, script, grace_s, leftovers, merge_stderr,
                output_limit_bytes, created_at, ended_at, name, labels)
            select 1000 + n, gen_random_uuid(), case when n <= 300 then 'lost' else 'succeeded' end, 'exit', 0,
                'echo ' || n, 5, 'kill', false, 1000, '2025-01-01Z'::timestamptz + n * interval '10 s', '2025-01-02Z',
                case when n <= 300 then 'early' end,
                case when n <= 300 then '{"early": "yes"}'::jsonb else '{"all": "yes"}'::jsonb end
            from generate_series(1, 200000) n
            """
        )
        connection.execute("insert into labels select key, value, id from commands, jsonb_each_text(labels)")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("vacuum analyze commands, labels")
    asked = [
        Selection(),
        Selection(after=Place(100_000)),
        Selection(statuses=("lost",)),
        Selection(statuses=("lost", "failed", "stopped")),
        Selection(name="early"),
        Selection(labels=(("early", "yes"),)),
        Selection(labels=(("all", "yes"),)),
        Selection(labels=(("early", "yes"),), statuses=("lost",)),
        Selection(since=_day(5), until=_day(5) + timedelta(hours=1)),
        Selection(until=_day(1) + timedelta(hours=1)),
        Selection(until=_day(20), after=Place(100_000, _day(10))),
        Selection(since=_day(1)),
        Selection(text="ECHO 1999"),
        Selection(text="ECHO 1999", until=_day(1)),
    ]

    touched = dict(zip(map(repr, asked), _blocks(database_url, asked), strict=True))

    assert {what: blocks for what, blocks in touched.items() if blocks > 1500} == {}


def _day(number: int) -> datetime:
    return datetime(2025, 1, number, tzinfo=UTC)
