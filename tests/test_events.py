"""Who watches a command is told all that happens, once, however often the connection is cut and whoever dies."""

from __future__ import annotations

import base64
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import StartService
from tests.listening import Event, Listener, bytes_of, listen, path_of
from tests.processes import FINAL, Command, Service, eventually, kill, reap_orphans

SEED = 1
ROUNDS = 100  # connections that are cut, all in all
TRICKY = b"a\r\nb\rc\0\xff\xc3\xa9\n\ndata: x\nid: 7\n" + "☃\u2028\x85".encode() + b"\xe2\x98"

# Prints on both streams for some seconds, in pieces of very different lengths; $1 makes each command another.
PRINTS = r"""
for i in {1..40}; do
    printf '%*d\n' $((i * i * $1 % 700)) $i
    printf 'é%d\377\n' $i >&2
    ((i % 8)) || head -c $((i * 1000)) /dev/urandom
    sleep 0.05
done
exit 4
"""


def _names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def _place(event: Event) -> tuple[int, ...]:
    return tuple(int(part) for part in event.id.split("-"))


def _statuses(events: list[Event]) -> list[str]:
    return [event.value["status"] for event in events if event.name in ("status", "end")]


def _recorded(service: Service, command: Command) -> None:
    """Wait until PostgreSQL, not the journal, answers for a command."""
    eventually(lambda: not (service.state_dir / "journals" / str(command.id)).exists())


def test_a_command_is_told_from_its_beginning_to_its_end(service: Service) -> None:
    """Queued, running, what it prints as it comes, the end; each with its place, and the answer is closed."""
    command = service.run("echo out; sleep 0.3; echo err >&2; exit 3")

    events = listen(service, command)

    assert [name for name in _names(events) if name != "status"] == ["output", "output", "end"]
    statuses = _statuses(events)
    assert (statuses[0], statuses[-2:]) == ("queued", ["running", "failed"])
    out, err, end = events[-3:]
    assert (out.value["stream"], out.value["offset"], out.value["text"]) == ("stdout", 0, "out\n")
    assert (err.value["stream"], err.value["offset"], err.value["text"]) == ("stderr", 0, "err\n")
    assert [one.id for one in (events[0], out, err, end)] == ["0-0-0", "1-4-0", "1-4-4", "2-4-4"]
    assert command.created_at < out.value["time"] < err.value["time"] < end.value["ended_at"]
    assert end.value == service.get(command).row


def test_what_is_told_later_is_the_same(service: Service) -> None:
    """From the database as from the journal: statuses that can be derived, every byte, the same ids."""
    command = service.run("echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three")
    live = listen(service, command)
    _recorded(service, command)

    later = listen(service, command)

    assert _names(later) == ["status", "status", "output", "output", "output", "end"]
    assert [event.id for event in later] == ["0-0-0", "1-0-0", "1-4-0", "1-4-4", "1-10-4", "2-10-4"]
    assert {event.id for event in live} == {event.id for event in later}
    assert [event for event in live if event.name in ("output", "end")] == later[2:]
    assert (later[0].value["pid"], later[1].value["pid"]) == (None, later[-1].value["pid"])
    assert (later[1].value["started_at"], later[1].value["stdout_bytes"]) == (later[-1].value["started_at"], 0)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_any_bytes_survive_the_framing(service: Service, stream: str) -> None:
    """Line ends of all kinds, NUL, what is no UTF-8, and lines of a megabyte: one ``data`` line each, and exact."""
    written = TRICKY + b"x" * 1_000_000 + b"\r\n" + "ä☃𝄞".encode() * 30_000 + b"\0" * 50_000 + bytes(range(256)) * 100
    redirect = ">&2" if stream == "stderr" else ""
    command = service.run(f"base64 -d {redirect}", stdin=base64.b64encode(written).decode())

    live = listen(service, command)
    later = listen(service, command)

    for events in (live, later):
        assert bytes_of(events, stream) == written
        # A character that was cut in two leaves what is around it text: what is no UTF-8 has 26,000 bytes.
        assert sum(len(event.content) for event in events if "base64" in event.value) < 100_000
        assert max(len(event.content) for event in events if event.name == "output") <= 16 * 1024


def test_what_happens_to_a_living_command_is_told(service: Service, mark: str) -> None:
    """It was paused, went on, and a stop was asked for: each with the id of its place."""
    command = service.started(service.run(f"trap '' TERM; echo here; sleep {mark} & wait; wait", grace_s=0.3))
    service.says(command, b"here\n")
    seen: list[dict[str, Any]] = []

    def react(event: Event) -> bool:
        if event.name != "status" or event.value["status"] != "running" or event.value["pid"] is None:
            return event.name == "end"
        seen.append(event.value)
        paused = [one["paused"] for one in seen]
        if paused == [False]:
            kill(command.pid, 19)
        elif paused == [False, True]:
            kill(command.pid, 18)
        elif paused == [False, True, False]:
            service.stop(command)
        return False

    events = listen(service, command, until=react)

    assert [one["paused"] for one in seen[:3]] == [False, True, False]
    assert seen[-1]["stop_requested_at"] is not None
    assert [one.id for one in events if one.value.get("paused")] == ["1-5-0"]
    assert (events[-1].name, events[-1].value["status"]) == ("end", "stopped")


def test_who_comes_back_to_a_living_command_learns_how_it_is_now(service: Service, mark: str) -> None:
    """It was paused while nobody listened: that is told with the id one came with, and no byte again."""
    command = service.started(service.run(f"echo here; sleep {mark} & wait"))
    first = listen(service, command, until=lambda event: event.name == "output")
    kill(command.pid, 19)
    eventually(lambda: service.get(command).paused)

    again = listen(service, command, after=first[-1].id, until=lambda _event: True)

    assert [(event.name, event.id, event.value["paused"]) for event in again] == [("status", "1-5-0", True)]
    service.stop(command)


def test_a_waiting_command_is_told_as_waiting(own_service: StartService, mark: str) -> None:
    """``queued`` at once, the rest when its turn comes; one that is stopped while it waits just ends."""
    service = own_service(max_running=1).start()
    first = service.run(f"sleep {mark}")
    waits, never = service.run("echo mine"), service.run("echo never")
    with ThreadPoolExecutor(2) as pool:
        told = [pool.submit(listen, service, one) for one in (waits, never)]
        until_queued = listen(service, waits, until=lambda _event: True)
        resumed = pool.submit(listen, service, waits, after="0-0-0")
        service.stop(never)
        service.stop(first)

        of_waits, of_never = (one.result(30) for one in told)
        assert _statuses(until_queued) == ["queued"]
        assert bytes_of(resumed.result(30), "stdout") == bytes_of(of_waits, "stdout") == b"mine\n"
        assert (_statuses(of_waits)[0], _statuses(of_waits)[-1]) == ("queued", "succeeded")
        assert [(event.name, event.id) for event in of_never] == [("status", "0-0-0"), ("end", "2-0-0")]


def test_bytes_that_were_not_kept_are_named(service: Service) -> None:
    """A gap says which; ids go on behind it, and one within it is none."""
    command = service.done("head -c 50000 /dev/zero; sleep 0.2; echo err >&2", output_limit_bytes=10_000)
    _recorded(service, command)

    events = listen(service, command)

    gaps = [event for event in events if event.name == "gap"]
    assert [(gap.value, gap.id) for gap in gaps] == [({"stream": "stdout", "from": 5_000, "to": 45_000}, "1-45000-0")]
    assert bytes_of(events, "stdout") == b"\0" * 10_000
    assert _names(listen(service, command, after="1-50000-0")) == ["output", "end"]
    assert _names(listen(service, command, after="1-5000-0")) == ["gap", "output", "output", "end"]
    assert _names(listen(service, command, after="1-20000-0")) == ["gap", "output", "output", "end"]


@pytest.mark.parametrize(
    "last", ["x", "3-0-0", "0-1-0", "1-0-1", "1-7-0", "2-0-0", "1--1-0", "1-4-0-0", "1-99999999999999999999-0", "²-0-0"]
)
def test_an_id_that_is_none_is_refused(service: Service, last: str) -> None:
    """400, naming the field and what is allowed; in the header and as a parameter."""
    command = service.done("echo out; sleep 0.1; echo err >&2")

    by_header = service.http.get(path_of(command), headers=[(b"Last-Event-ID", last.encode())])
    by_parameter = service.http.get(path_of(command), params={"last_event_id": last})

    for answer in (by_header, by_parameter):
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
        assert answer.json()["errors"][0]["field"] == "Last-Event-ID"


def test_there_is_nothing_after_the_end(service: Service) -> None:
    """204 to who comes with the last id: an EventSource comes back no more. Without such a command: 404."""
    command = service.done("echo out")

    after_end = service.http.get(path_of(command), headers={"Last-Event-ID": "2-4-0"})

    assert (after_end.status_code, after_end.content) == (204, b"")
    assert service.http.get("/v1/commands/999999999/events").status_code == 404
    assert service.http.get(path_of(command), params={"foo": "1"}).status_code == 400


def test_nothing_is_told_twice_or_not_at_all_whoever_dies(own_service: StartService) -> None:
    """A hundred connections cut at random while API and supervisor are killed; then a restart of all."""
    chance = random.Random(SEED)
    service = own_service().start()
    commands = [service.run(PRINTS, args=[str(number)]) for number in (3, 5, 7, 11)]
    listeners = [Listener(service, command) for command in commands]

    def follow(listener: Listener, seed: str) -> None:
        own = random.Random(seed)
        eventually(lambda: listener.connect(own.randrange(1, 4)), within_s=90)

    with ThreadPoolExecutor(4) as pool:
        follows = [pool.submit(follow, one, f"{SEED}/{number}") for number, one in enumerate(listeners)]
        for victim in ("api", "supervisor", "api", "supervisor"):
            time.sleep(chance.uniform(0, 0.6))  # the moment to be tried, not a wait
            pid = service.pid(f"bashd: {victim}")
            kill(pid)
            eventually(lambda victim=victim, pid=pid: service.pids(f"bashd: {victim}") not in ([], [pid]))  # type: ignore[misc]
        for one in follows:
            one.result(100)

    assert sum(one.connections for one in listeners) >= ROUNDS, f"seed {SEED}"
    for command, listener in zip(commands, listeners, strict=True):
        ended = service.ended(command)
        _recorded(service, command)
        _assert_all_was_told(service, ended, listener.events)

    service.terminate()
    service.start()
    for command, listener in zip(commands, listeners, strict=True):
        assert {one.id for one in listen(service, command)} >= {"0-0-0", "1-0-0", listener.events[-1].id}
        for number in chance.sample(range(len(listener.events) - 1), 12):
            event = listener.events[number]
            rest = listen(service, command, after=event.id)
            for stream in ("stdout", "stderr"):
                assert bytes_of(rest, stream) == bytes_of(listener.events[number + 1 :], stream), (SEED, event)
            assert rest[-1] == listener.events[-1], (SEED, event)


def _assert_all_was_told(service: Service, ended: Command, events: list[Event]) -> None:
    which = f"seed {SEED}, command {ended.id}"
    for stream in ("stdout", "stderr"):
        assert bytes_of(events, stream) == service.output(ended, stream=stream), which
    assert (events[-1].name, events[-1].value) == ("end", ended.row), which
    places = [_place(event) for event in events]
    assert places == sorted(places), which
    told = [event.id for event in events if event.name != "status"]
    assert len(told) == len(set(told)), which


def test_the_death_of_everything_is_survived_too(own_service: StartService, mark: str) -> None:
    """All of Bashd but the worker dies; who comes back to the next start goes on where he was."""
    service = own_service(embedded=True).start()
    command = service.run(f"echo before; until [ -e go ]; do sleep 0.05; done; echo after; : {mark}")
    listener = Listener(service, command)
    eventually(lambda: listener.connect(1) or (listener.events and listener.events[-1].name == "output"))

    for pid in (service.postmaster(), service.pid("bashd: api"), service.pid("bashd: supervisor")):
        kill(pid)
    service.kill_init()
    reap_orphans()
    service.start(within_s=60)
    (service.state_dir / "work" / str(command.id) / "go").touch()
    eventually(lambda: listener.connect(100))

    assert bytes_of(listener.events, "stdout") == b"before\nafter\n"
    assert listener.events[-1].value == service.get(command).row


def test_a_stream_ends_with_the_service_and_goes_on_with_the_next(own_service: StartService) -> None:
    """Told to go, Bashd closes the answers properly, without an ``end``; the next start goes on."""
    service = own_service(on_shutdown="leave").start()
    command = service.started(service.run("echo before; until [ -e go ]; do sleep 0.05; done; echo after"))
    service.says(command, b"before\n")
    with ThreadPoolExecutor(2) as pool:
        of_one, of_all = (pool.submit(listen, service, one) for one in (command, None))
        late = eventually(lambda: service.run("true"))
        service.ended(late)
        service.terminate()
        told, all_told = of_one.result(20), of_all.result(20)  # would raise for an answer that was cut off

    service.start()
    (service.state_dir / "work" / str(command.id) / "go").touch()
    rest = listen(service, command, after=told[-1].id)

    assert bytes_of(told, "stdout") == b"before\n"
    assert "end" not in _names(told)
    assert bytes_of(rest, "stdout") == b"after\n"
    assert rest[-1].name == "end"
    again = listen(service, None, after=all_told[-1].id, until=lambda _event: True)
    assert _names(again) == ["reset"]


# All commands


def test_the_changes_of_all_commands_are_told(service: Service) -> None:
    """``reset`` first, then what each becomes, with the script as in lists; resumed without gap or repeat."""
    begun = listen(service, None, until=lambda _event: True)
    assert (_names(begun), begun[0].value) == (["reset"], {})
    commands = [service.done(f"# {'x' * 300}\nexit {code}") for code in (0, 1)]
    ids = [one.id for one in commands]

    def last(event: Event) -> bool:
        return event.name == "status" and event.value["id"] == ids[-1] and event.value["status"] in FINAL

    first = listen(service, None, after=begun[0].id, until=lambda event: event.value.get("id") == ids[0])
    rest = listen(service, None, after=first[-1].id, until=last)

    told = [event.value for event in (*first, *rest) if event.value.get("id") in ids]
    assert [(one["id"], one["status"]) for one in told if one["status"] in FINAL] == [
        (ids[0], "succeeded"),
        (ids[1], "failed"),
    ]
    assert {len(one["script"]) for one in told} == {200}
    assert told[-1] == {**service.get(commands[-1]).row, "script": told[-1]["script"]}


def test_changes_are_told_as_they_come(service: Service, mark: str) -> None:
    """Queued, running, and stopped, to who listens all the while."""
    seen: list[str] = []
    command: list[Command] = []

    def react(event: Event) -> bool:
        if event.name == "reset":
            command.append(service.run(f"sleep {mark}"))
        elif event.value["id"] == command[0].id:
            seen.append(event.value["status"])
            if event.value["pid"] is not None and event.value["stop_requested_at"] is None:
                service.stop(command[0])
            return event.value["status"] in FINAL
        return False

    listen(service, None, until=react)

    assert (seen[0], seen[-1]) == ("queued", "stopped")
    assert "running" in seen


@pytest.mark.parametrize("last", ["x", "0-0", "abcdefabcdef-1", "-"])
def test_an_id_of_another_life_asks_for_a_new_beginning(service: Service, last: str) -> None:
    """``reset``: nobody knows what came after it, so the list has to be loaded again."""
    answer = listen(service, None, after=last, until=lambda _event: True)
    service.done("true")
    then = listen(service, None, after=answer[0].id, until=lambda _event: True)

    assert (_names(answer), _names(then)) == (["reset"], ["status"])
