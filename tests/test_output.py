"""Not one byte of what a script wrote is lost or changed, and everybody can read it while it comes."""

from __future__ import annotations

import base64
import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
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
    """Over ``output_limit_bytes`` beginning and end are kept, and the record says what is not; nothing is hindered."""
    command = service.done("seq 100000 200000; echo done >&2", output_limit_bytes=20_000)

    counted = b"".join(b"%d\n" % number for number in range(100_000, 200_001))
    assert (command.status, command.stdout_bytes) == ("succeeded", len(counted))
    assert service.output(command, stream="stdout") == counted[:10_000] + counted[-10_000:]
    assert command.truncated == {
        "stdout": [[10_000, len(counted) - 10_000]],
        "stderr": [],
        "reason": "output_limit",
    }
    assert service.output(command, stream="stderr") == b"done\n"


def test_what_a_script_prints_cannot_harm_the_record(service: Service) -> None:
    """A command that prints nothing but NUL and broken UTF-8 is listed, read and shown like any other."""
    command = service.done(r"printf '\0\377\0'; printf '\xed\xa0\x80' >&2; exit 1")

    assert service.get(command).status == "failed"
    assert command.id in [one.id for one in service.page()]
    assert service.http.get(f"/command/{command.id}").json()["output"].startswith("\0\ufffd\0")


# The end of it, what is missing of it


def test_the_last_bytes_can_be_asked_for(service: Service) -> None:
    """``tail`` of a stream or of both, while it runs and afterwards, and followed from there; not beside ``offset``."""
    command = service.run("printf 0123456789; sleep 0.3; printf abcdef >&2; sleep 0.5; printf XYZ")
    eventually(lambda: service.get(command).stderr_bytes == 6)

    assert service.output(command, tail=4) == b"cdef"
    assert service.output(command, tail=3, stream="stdout", follow="true") == b"789XYZ"
    service.ended(command)
    assert service.output(command, tail=5) == b"efXYZ"
    assert service.output(command, tail=2, stream="stderr") == b"ef"
    assert service.output(command, tail=5, limit=2) == b"ef"
    assert service.output(command, tail=1000, stream="stdout") == b"0123456789XYZ"
    for wrong in ({"tail": 0}, {"tail": "x"}, {"tail": 1, "offset": 0}):
        answer = _ask(service, command, **wrong)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "tail")


def test_a_place_whose_bytes_were_not_kept_is_refused(service: Service, mark: str) -> None:
    """409 names them, while it runs and afterwards, and where to go on; who names no place gets what there is."""
    script = f"head -c 300000 /dev/zero; sleep 0.3; printf err >&2; [ -z $1 ] || sleep {mark}"
    living = service.run(script, output_limit_bytes=20_000, args=["wait"])
    eventually(lambda: service.get(living).stderr_bytes == 3)
    recorded = service.done(script, output_limit_bytes=20_000, args=[""])
    eventually(lambda: not (service.state_dir / "journals" / str(recorded.id)).exists())

    for command in (living, recorded):
        first, to = service.get(command).truncated["stdout"][0]
        assert first == 10_000
        assert first < to <= 290_000
        for params in ({"stream": "stdout"}, {"stream": "both"}):
            for offset in (first, first + 1, to - 1):
                answer = _ask(service, command, offset=offset, **params)
                assert (answer.status_code, answer.json()["type"]) == (409, "/problems/conflict"), (offset, params)
                error = answer.json()["errors"][0]
                assert error["field"] == "offset"
                assert f"from {first} up to {to} " in error["message"]
            assert service.output(command, offset=first - 1, limit=1, **params) == b"\0"
        assert service.output(command, offset=300_000, stream="stdout") == b""
        assert service.output(command, offset=300_000) == b"err"
        assert service.output(command) == b"\0" * (300_000 - to + first) + b"err"
        assert service.output(command, offset=0, stream="stderr") == b"err"
        assert service.output(command, tail=5) == b"\0\0err"
    service.stop(living)


# As text


def test_text_is_given_to_who_asks_for_it(service: Service) -> None:
    """Valid UTF-8, stripped if wanted; and bytes to everybody else."""
    command = service.done(
        r"printf '\033[31mr\377d\033[0m\n\342'; sleep 0.2; printf x >&2; sleep 0.2; printf '\230\203'"
    )

    text = _ask(service, command, accept="text/plain")
    assert (text.headers["content-type"], text.text) == ("text/plain; charset=utf-8", "\x1b[31mr\ufffdd\x1b[0m\nx☃")
    assert text.headers["X-Content-Type-Options"] == "nosniff"
    assert _ask(service, command, accept="text/plain", ansi="strip").text == "r\ufffdd\nx☃"
    assert _ask(service, command, accept="text/plain", ansi="keep").text == text.text
    lines = _ask(service, command, accept="text/plain", timestamps="true", stream="stdout", ansi="strip").text
    began = command.started_at[:10]
    assert [line.startswith(began) and line.partition(" ")[2] for line in lines.splitlines()] == ["r\ufffdd", "☃"]
    for accept in ("*/*", "application/octet-stream", "text/html, */*;q=0.8", "application/*, text/plain;q=0.1"):
        plain = _ask(service, command, accept=accept)
        assert (plain.headers["content-type"], plain.content) == ("application/octet-stream", service.output(command))
    for accept in ("text/plain, */*", "text/*", "text/plain;q=0.5, image/png", "*/*;q=0.1, text/plain"):
        assert _ask(service, command, accept=accept).text == text.text, accept


@pytest.mark.parametrize("accept", ["image/png", "text/html", "text/plain;q=0", "application/json, text/css"])
def test_a_form_that_there_is_not_is_refused(service: Service, accept: str) -> None:
    """406, and it says which there are."""
    answer = _ask(service, service.done("true"), accept=accept)

    assert (answer.status_code, answer.headers["content-type"]) == (406, "application/problem+json")
    assert "text/plain" in answer.json()["errors"][0]["message"]


def test_what_is_for_text_is_refused_for_bytes(service: Service) -> None:
    """400 that says how to ask for text; and 400 for what no parameter may be."""
    command = service.done("true")

    for params in ({"ansi": "strip"}, {"timestamps": "true"}):
        answer = _ask(service, command, **params)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, next(iter(params)))
        assert "text/plain" in answer.json()["detail"]
    for params in ({"ansi": "maybe"}, {"timestamps": "1"}, {"stream": "stdin"}, {"foo": "bar"}):
        assert _ask(service, command, accept="text/plain", **params).status_code == 400


def test_text_can_be_followed(service: Service) -> None:
    """Characters that come in two halves, and lines of both streams, come whole while it runs."""
    command = service.run(
        r"printf 'a\342'; sleep 0.2; echo err >&2; sleep 0.2; printf '\230\203\n'; sleep 0.2; printf end"
    )

    text = _ask(service, command, accept="text/plain", timestamps="true", follow="true").text

    assert [line.split(" ", 1)[1] for line in text.splitlines()] == ["stderr err", "stdout a☃", "stdout end"]


def _ask(service: Service, command: Command, *, accept: str = "*/*", **params: Any) -> httpx.Response:
    return service.http.get(f"/v1/commands/{command.id}/output", params=params, headers={"Accept": accept})


def test_a_follower_of_bytes_sees_that_the_service_has_gone(own_service: StartService) -> None:
    """The answer is cut off at once, so nobody takes a part for the whole; of one that ended nothing is missing."""
    service = own_service(on_shutdown="leave").start()
    command = service.run("echo before; until [ -e go ]; do sleep 0.05; done; echo after")
    got: list[bytes] = []
    with service.http.stream("GET", f"/v1/commands/{command.id}/output", params={"follow": "true"}) as answer:
        pieces = answer.iter_raw()
        got.append(next(pieces))
        service.tell()
        with pytest.raises(httpx.RemoteProtocolError):
            got.extend(pieces)
    service.wait()

    service.start()
    (service.state_dir / "work" / str(command.id) / "go").touch()
    assert b"".join(got) + service.output(command, offset=len(b"".join(got)), follow="true") == b"before\nafter\n"
