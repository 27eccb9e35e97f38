"""A long output keeps its beginning and its end: in bounded space, in its order, whoever dies, whoever watches."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from protocol import journal, story, tail
from protocol.places import Places
from tests.conftest import StartService
from tests.listening import Event, listen
from tests.processes import Command, Service, eventually, kill
from worker.record import Record

LIMIT = 200_000
COUNTING = 'i=0; until [ -e "$1" ]; do for ((n = 0; n < 500; n++)); do echo $((i += 1)); done; echo "-$i" >&2; done'


def _counted(text: bytes, *, sign: int = 1) -> list[int]:
    """The whole lines of it as numbers; the first may be what is left of one."""
    return [sign * int(line) for line in text.split(b"\n")[1:-1]]


def _journals(service: Service) -> int:
    """Bytes of all journals and tails."""
    sizes = []
    for path in (service.state_dir / "journals").iterdir():
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return sum(sizes)


# The files


class _Told:
    """What one record told, piece by piece, and what its journal has in the end."""

    def __init__(self, directory: Path, limit: int, chance: random.Random) -> None:
        places = Places(str(directory))
        os.makedirs(places.journals, exist_ok=True)
        self.path = places.journal(1)
        journal.create(self.path, time.time_ns(), {"id": 1, "output_limit_bytes": limit})
        self._fd = os.open(self.path, os.O_RDWR)
        spec = journal.only_spec(self._fd)
        assert spec is not None
        self.paths = places.tail(1)
        reports = os.open("/dev/null", os.O_WRONLY)
        writer = journal.Writer(self._fd, spec.end)
        self.record = Record(writer, 1, reports, limit_bytes=limit, fail_at_limit=False, tail_paths=self.paths)
        self.all = {journal.STDOUT: b"", journal.STDERR: b""}
        self._chance = chance
        self._reports = reports

    def print(self, pieces: int, most: int) -> None:
        numbers = itertools.cycle(range(256))
        for _ in range(pieces):
            kind = self._chance.choice(journal_kinds)
            chunk = bytes(itertools.islice(numbers, self._chance.randint(1, most)))
            self.record.output(kind, chunk)
            self.all[kind] += chunk

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._reports)

    def kept(self) -> tuple[dict[int, bytes], list[dict[str, Any]]]:
        """Of each stream what is kept, missing bytes as dots; and what is missing."""
        found = {journal.STDOUT: b"", journal.STDERR: b""}
        told = story.Story()
        with journal.Reader(self.path) as reader:
            for frame in reader.frames():
                told.apply(frame)
                if frame.kind in found:
                    found[frame.kind] += frame.payload
                elif frame.kind == journal.MISSING:
                    facts = frame.facts()
                    kind = journal.STDOUT if facts["stream"] == "stdout" else journal.STDERR
                    assert facts["from"] == len(found[kind]), "a hole without a name"
                    found[kind] += b"." * (facts["to"] - facts["from"])
        return found, told.missing


journal_kinds = (journal.STDOUT, journal.STDERR)


@pytest.mark.parametrize("limit", [1, 2, 999, 50_000, 200_000])
@pytest.mark.parametrize("dies", [False, True], ids=["worker ends", "worker dies"])
def test_of_each_stream_beginning_and_end_are_kept(tmp_path: Path, limit: int, dies: bool) -> None:
    """Whatever is printed in which order: every byte is where it was, or named as missing; the limit is the limit."""
    for seed in range(12):
        chance = random.Random(f"{seed}/{limit}")
        told = _Told(tmp_path / str(seed), limit, chance)
        told.print(chance.randint(1, 120), most=chance.choice([1, 100, 9000]))
        if dies:
            place = (told.record._in_journal[journal.STDOUT], told.record._in_journal[journal.STDERR])
            writer = told.record._writer
            end = tail.end_of(told.paths, place)
            for kind, at_ns, payload in tail.settled(told.paths, place, end, limit):
                writer.append(kind, at_ns or 1, payload)
            tail.remove(told.paths)
        else:
            assert told.record.end(told.record.now_ns(), {"status": "succeeded"})
        told.close()

        kept, missing = told.kept()
        head, rest = tail.head_bytes(limit), limit // 2
        for kind, whole in told.all.items():
            assert len(kept[kind]) == len(whole), seed
            assert all(a in (b, ord(".")) for a, b in zip(kept[kind], whole, strict=True)), seed
            assert kept[kind][:head] == whole[:head], seed
            gaps = [one for one in missing if (one["stream"] == "stdout") == (kind == journal.STDOUT)]
            assert sum(one["to"] - one["from"] for one in gaps) >= len(whole) - limit, seed
            if len(told.all[journal.STDOUT]) + len(told.all[journal.STDERR]) < tail.MIN_FILE_BYTES:
                assert kept[kind][len(whole) - rest :] == whole[len(whole) - rest :], seed
                assert sum(one["to"] - one["from"] for one in gaps) == max(0, len(whole) - limit), seed
        assert sorted(os.listdir(tmp_path / str(seed) / "journals")) == ["1"]


# The whole way


def test_a_noisy_command_fills_neither_disk_nor_memory(own_service: StartService) -> None:
    """For as long as it likes: it is slowed by its pipe, the service is not, and its newest output is there."""
    service = own_service().start()
    command = service.run("yes; :", output_limit_bytes=1024 * 1024, timeout_s=None)
    eventually(lambda: service.get(command).stdout_bytes > 500 * 1024 * 1024, within_s=60)

    assert _journals(service) < 5 * 1024 * 1024
    newest = service.output(command, tail=100)
    assert newest
    assert newest.strip(b"y\n") == b""
    assert service.done("echo other").stdout_bytes == 6
    service.stop(command)
    ended = service.ended(command)

    assert ended.truncated["stdout"] == [[512 * 1024, ended.stdout_bytes - 512 * 1024]]
    assert service.output(ended) == b"y\n" * (512 * 1024)
    eventually(lambda: _journals(service) == 0)


def test_a_rare_stream_is_not_drowned_by_a_noisy_one(service: Service) -> None:
    """What little is on stderr is kept whole, in its place, though stdout went round many times meanwhile."""
    script = 'for i in {1..30}; do seq 100000 120000; echo "error $i" >&2; sleep 0.01; done'
    command = service.done(script, output_limit_bytes=100_000)

    assert service.output(command, stream="stderr") == b"".join(b"error %d\n" % i for i in range(1, 31))
    assert command.truncated["stderr"] == []
    assert command.truncated["stdout"] == [[50_000, command.stdout_bytes - 50_000]]


def test_who_follows_sees_what_is_printed_beyond_the_head(service: Service, tmp_path: Path) -> None:
    """Live, in its order; what was too fast for him is a gap that is named, and an id means the same afterwards."""
    go = tmp_path / "go"
    command = service.run(COUNTING, args=[str(go)], output_limit_bytes=LIMIT)
    eventually(lambda: service.get(command).stdout_bytes > 3 * LIMIT)
    before = service.get(command).stdout_bytes

    seen = listen(
        service, command, until=lambda event: event.name == "output" and event.value["offset"] > before + LIMIT
    )
    cut = next(event for event in seen if event.name == "output" and event.value["offset"] > LIMIT)
    go.touch()
    ended = service.ended(command)
    again = listen(service, command, after=cut.id)

    assert any(event.name == "gap" for event in seen)
    for stream in ("stdout", "stderr"):
        _assert_continuous(seen, stream)
        _assert_continuous([cut, *again], stream)
    assert again[-1].name == "end"
    assert again[-1].value["stdout_bytes"] == ended.stdout_bytes


def _assert_continuous(events: list[Event], stream: str) -> None:
    """Each byte of the stream comes once or is in a gap."""
    here = None
    for event in events:
        if event.name == "gap" and event.value["stream"] == stream:
            assert here is None or event.value["from"] == here
            here = event.value["to"]
        elif event.name == "output" and event.value["stream"] == stream:
            assert here is None or event.value["offset"] == here
            here = event.value["offset"] + len(event.value["text"].encode())


@pytest.mark.parametrize("victims", [["api"], ["supervisor"], ["api", "supervisor"]], ids=str)
def test_the_end_is_exact_whoever_died_meanwhile(own_service: StartService, tmp_path: Path, victims: list[str]) -> None:
    """The worker goes on, and who comes after them follows the tail as it found it."""
    service = own_service().start()
    go = tmp_path / "go"
    command = service.run(COUNTING, args=[str(go)], output_limit_bytes=LIMIT)
    eventually(lambda: service.get(command).stdout_bytes > 3 * LIMIT)

    for name in victims:
        kill(service.pid(f"bashd: {name}"))
    eventually(service.is_ready, within_s=30)
    now = service.get(command).stdout_bytes
    assert now > 3 * LIMIT
    eventually(lambda: service.get(command).stdout_bytes > now + 3 * LIMIT)
    go.touch()

    ended = service.ended(command)
    assert ended.status == "succeeded"
    _assert_head_and_tail(service, ended)


def test_a_worker_that_dies_leaves_beginning_and_end(own_service: StartService, tmp_path: Path) -> None:
    """Its heir brings them together; no file of the tail is left."""
    service = own_service().start()
    command = service.run(COUNTING, args=[str(tmp_path / "never")], output_limit_bytes=LIMIT)
    eventually(lambda: service.get(command).stdout_bytes > 3 * LIMIT)

    kill(service.get(command).worker_pid)

    ended = service.ended(command)
    assert (ended.status, ended.reason) == ("lost", "worker_died")
    _assert_head_and_tail(service, ended)
    eventually(lambda: _journals(service) == 0)


def _assert_head_and_tail(service: Service, ended: Command) -> None:
    output = service.output(ended, stream="stdout")
    ((first, to),) = ended.truncated["stdout"]
    assert (first, len(output)) == (LIMIT // 2, LIMIT)
    assert to == ended.stdout_bytes - LIMIT // 2
    numbers = _counted(b"\n" + output[:first])
    assert numbers == list(range(1, len(numbers) + 1))
    numbers = _counted(output[first:])
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_a_command_may_fail_when_it_prints_too_much(service: Service, mark: str) -> None:
    """It is stopped, whatever it ignores, with what it started; its beginning is kept."""
    command = service.done(
        f"trap '' TERM; setsid sleep {mark} & until [ \"$(cut -d' ' -f6 /proc/$!/stat)\" = $! ]; do :; done; "
        f"seq 1000000; sleep {mark}",
        output_limit_bytes=1000,
        on_output_limit="fail",
        grace_s=0.2,
    )

    assert (command.status, command.reason, command.signal) == ("failed", "output_limit", signal.SIGKILL)
    assert service.output(command) == b"".join(b"%d\n" % i for i in range(1, 500))[:1000]
    ((first, to),) = command.truncated["stdout"]
    assert (first, to) == (1000, command.stdout_bytes)
    assert command.swept["escaped"] == 1


def test_one_that_prints_too_much_and_ends_has_failed_too(service: Service) -> None:
    """Whether its end or the stop was first; what is exactly as long as allowed is not too much."""
    command = service.done("printf 12345; exit 0", output_limit_bytes=4, on_output_limit="fail")
    assert (command.status, command.reason) == ("failed", "output_limit")
    assert service.output(command) == b"1234"

    command = service.done("printf 1234; exit 3", output_limit_bytes=4, on_output_limit="fail")
    assert (command.status, command.reason, command.exit_code) == ("failed", "exit", 3)


def test_a_rerun_fails_in_the_same_way(service: Service) -> None:
    """The choice is part of the command."""
    first = service.done("printf 12345", output_limit_bytes=4, on_output_limit="fail")

    again = service.http.post(f"/v1/commands/{first.id}/rerun", params={"wait": 20}).json()

    assert (again["status"], again["reason"]) == ("failed", "output_limit")


def test_an_unknown_choice_is_refused(service: Service) -> None:
    """400, and what is allowed."""
    answer = service.create("true", on_output_limit="forget")

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "on_output_limit"
    assert re.search("truncate.*fail", answer.json()["errors"][0]["message"])
