"""Not one byte of what a script wrote is lost or changed, and everybody can read it while it comes."""

from __future__ import annotations

import base64
import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.processes import Command, Service, eventually

ALL_BYTES = bytes(range(256))


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"no newline at the end", id="no newline"),
        pytest.param(b"\xff", id="0xff"),
        pytest.param(b"a\0b\0\0", id="NUL"),
        pytest.param(ALL_BYTES * 700, id="every byte"),
        pytest.param(b"\x1b[1;31mred\x1b[0m\r\x1b[2K\a", id="ANSI"),
        pytest.param("ünï☃\ud83d".encode("utf-8", "surrogatepass") + "☃".encode()[:2], id="broken UTF-8"),
        pytest.param(b"line\r\n" * 20_000, id="CRLF"),
    ],
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_bytes_come_back_as_they_were_written(service: Service, written: bytes, stream: str) -> None:
    """What ``output`` gives is byte for byte what was written, whatever the bytes mean."""
    redirect = ">&2" if stream == "stderr" else ""
    command = service.done(f"base64 -d {redirect}", stdin=base64.b64encode(written).decode())

    assert service.output(command, stream=stream) == written
    assert service.output(command) == written
    assert (command.row[f"{stream}_bytes"], command.truncated) == (len(written), None)


def test_a_line_of_seven_megabytes_is_kept(service: Service) -> None:
    """No line is too long, for nobody here reads lines."""
    command = service.done("head -c 7000000 /dev/zero | tr '\\0' x")

    assert service.output(command) == b"x" * 7_000_000
    assert command.stdout_bytes == 7_000_000


def test_random_bytes_are_kept_while_both_streams_are_busy(service: Service) -> None:
    """Several megabytes on both streams at once arrive whole, each in its own order."""
    command = service.done(
        "head -c 3000000 /dev/urandom > a; head -c 3000000 /dev/urandom > b; "
        "cat a & cat b >&2 & wait; sha256sum < a; sha256sum < b >&2"
    )

    for stream in ("stdout", "stderr"):
        content = service.output(command, stream=stream)
        body, said = content[:3_000_000], content[3_000_000:].split()[0].decode()
        assert hashlib.sha256(body).hexdigest() == said


def test_the_shortest_commands_keep_every_byte(service: Service) -> None:
    """A command that is over at once loses nothing, 500 of 500 times."""

    def once(number: int) -> tuple[int, str, bytes, bytes]:
        made = service.create(f'printf "%s" "out {number}"; printf "%s" "err {number}" >&2', wait_s=60)
        command = Command(made.json())
        return (
            number,
            command.status,
            service.output(command, stream="stdout"),
            service.output(command, stream="stderr"),
        )

    with ThreadPoolExecutor(12) as clients:
        results = list(clients.map(once, range(500)))

    assert results == [(n, "succeeded", b"out %d" % n, b"err %d" % n) for n in range(500)]


def test_the_last_words_of_the_last_child_are_kept(service: Service) -> None:
    """What a background process wrote before bash ended is there, though nobody waited for it."""
    command = service.done("(printf first; printf second >&2) & wait; printf third")

    assert service.output(command, stream="stdout") == b"firstthird"
    assert service.output(command, stream="stderr") == b"second"


def test_output_can_be_read_while_the_command_runs(service: Service, mark: str) -> None:
    """What was written shows within a moment, though the command does not end."""
    command = service.run(f"printf 'so far'; sleep {mark}")

    eventually(lambda: service.output(command) == b"so far", within_s=2)

    assert service.get(command).stdout_bytes == 6
    service.stop(command)


def test_a_part_of_the_output_can_be_asked_for(service: Service) -> None:
    """``offset`` and ``limit`` cut bytes out of a stream or of both in recorded order; beyond the end is nothing."""
    command = service.done("printf 0123456789; sleep 0.1; printf abcdef >&2; sleep 0.1; printf XYZ")

    assert service.output(command) == b"0123456789abcdefXYZ"
    assert service.output(command, offset=8, limit=4) == b"89ab"
    assert service.output(command, stream="both", offset=15) == b"fXYZ"
    assert service.output(command, stream="stdout", offset=9) == b"9XYZ"
    assert service.output(command, stream="stderr", offset=1, limit=2) == b"bc"
    assert service.output(command, offset=19) == b""
    assert service.output(command, offset=10**12) == b""
    assert service.output(command, limit=1) == b"0"


def test_parts_put_together_are_the_whole(service: Service) -> None:
    """However a reader cuts, in the middle of chunks and rows too, nothing is doubled and nothing missing."""
    command = service.done("head -c 300000 /dev/urandom; head -c 200000 /dev/urandom >&2")
    whole = service.output(command)
    chance = random.Random(1)

    parts, position = [], 0
    while position < len(whole):
        part = service.output(command, offset=position, limit=chance.randrange(1, 150_000))
        parts.append(part)
        position += len(part)

    assert b"".join(parts) == whole
    assert len(whole) == 500_000


def test_a_follower_gets_all_as_it_comes_until_the_end(service: Service) -> None:
    """``follow`` gives what is there, then what comes, and ends with the command."""
    command = service.run("for i in 1 2 3 4 5; do echo $i; sleep 0.2; done; printf bye")

    with service.http.stream("GET", f"/v1/commands/{command.id}/output", params={"follow": "true"}) as answer:
        chunks = answer.iter_raw()
        first = next(chunks)
        while_it_ran = service.get(command).status
        content = first + b"".join(chunks)

    assert answer.status_code == 200
    assert first.startswith(b"1\n")
    assert while_it_ran == "running"
    assert content == b"1\n2\n3\n4\n5\nbye"
    assert service.get(command).status == "succeeded"


def test_a_follower_can_begin_anywhere(service: Service) -> None:
    """``offset`` and ``stream`` hold for a follower too, and of a final command he gets the rest at once."""
    command = service.run("printf 012345; sleep 0.3; printf xyz >&2; printf 6789")

    live = service.output(command, follow="true", stream="stdout", offset=4)
    final = service.output(command, follow="true", stream="stdout", offset=4)

    assert live == final == b"456789"


def test_followers_of_a_fast_writer_get_the_same_bytes(service: Service) -> None:
    """Several readers of one big output all get all of it, once."""
    command = service.run("for i in {1..40}; do head -c 100000 /dev/urandom; sleep 0.02; done")

    with ThreadPoolExecutor(4) as readers:
        got = list(readers.map(lambda _: service.output(command, follow="true"), range(4)))

    assert {len(one) for one in got} == {4_000_000}
    assert {hashlib.sha256(one).digest() for one in [*got, service.output(command)]} == {
        hashlib.sha256(got[0]).digest()
    }


def test_more_than_allowed_is_counted_and_named(service: Service) -> None:
    """Over ``output_limit_bytes`` the record says which bytes were not kept; the command is not hindered."""
    command = service.done("head -c 100000 /dev/zero | tr '\\0' x; echo done >&2", output_limit_bytes=20_000)

    kept = service.output(command, stream="stdout")
    missing = command.truncated["stdout"]
    assert (command.status, command.stdout_bytes) == ("succeeded", 100_000)
    assert len(kept) + sum(to - first for first, to in missing) == 100_000
    assert len(kept) <= 20_000
    assert command.truncated["stderr"] == []
    assert service.output(command, stream="stderr") == b"done\n"


def test_what_a_script_prints_cannot_harm_the_record(service: Service) -> None:
    """A command that prints nothing but NUL and broken UTF-8 is listed, read and shown like any other."""
    command = service.done(r"printf '\0\377\0'; printf '\xed\xa0\x80' >&2; exit 1")

    assert service.get(command).status == "failed"
    assert command.id in [one.id for one in service.page()]
    assert service.http.get(f"/command/{command.id}").json()["output"].startswith("\0\ufffd\0")
