"""Feeding a script while it runs: every byte arrives in order, whoever dies; who does not read is waited for."""

from __future__ import annotations

import hashlib
import os
import random
import select
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from protocol import journal
from protocol.places import Places
from tests.conftest import StartService
from tests.processes import Command, Service, eventually, kill, process

PIPE_BYTES = 65536  # what a pipe takes though nobody reads (pipe(7))


def feed(service: Service, command: Command, content: Any = b"", *, close: bool = False) -> httpx.Response:
    """One request; it lasts until the pipe has taken all of it."""
    return service.http.post(
        f"/v1/commands/{command.id}/stdin", content=content, params={"close": "true"} if close else {}, timeout=60.0
    )


def taken(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    return int(answer.json()["taken_bytes"])


def refused(answer: httpx.Response, *words: str) -> None:
    assert answer.status_code == 409, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    for word in words:
        assert word in answer.json()["detail"]


@contextmanager
def hanging(service: Service, command: Command, size: int = 10_000_000) -> Iterator[Future[httpx.Response]]:
    """A request whose bytes fill the pipe of a script that does not read."""
    with ThreadPoolExecutor(1) as client:
        request = client.submit(feed, service, command, bytes(size))
        eventually(lambda: is_full(service, command))
        yield request


def is_full(service: Service, command: Command) -> bool:
    """Nobody can write into the pipe of this command now."""
    fd = os.open(Places(str(service.state_dir)).stdin(command.id), os.O_WRONLY | os.O_NONBLOCK)
    try:
        room = select.poll()
        room.register(fd, select.POLLOUT)
        return not room.poll(0)
    finally:
        os.close(fd)


def test_a_script_reads_what_comes_while_it_runs(service: Service) -> None:
    """First the input that it was started with, then each request's bytes, as they come; then its end."""
    command = service.run('while read -r line; do echo "got $line"; done; echo over', stdin="one\n", stdin_open=True)
    service.says(command, b"got one\n")

    assert taken(feed(service, command, b"two\nthr")) == 7
    service.says(command, b"got two\n")
    assert taken(feed(service, command, b"ee\n")) == 3
    service.says(command, b"got three\n")
    assert service.get(command).status == "running"
    answer = feed(service, command, b"four\n", close=True)

    assert answer.json() == {"taken_bytes": 5, "closed": True}
    ended = service.ended(command)
    assert (ended.status, ended.stdin_open) == ("succeeded", True)
    assert service.output(ended) == b"got one\ngot two\ngot three\ngot four\nover\n"


def test_ten_megabytes_arrive_as_they_were_sent(service: Service) -> None:
    """Through one pipe of 64 KiB, in one request with a known length and in one without."""
    content = random.Random(3).randbytes(10_000_000)
    command = service.run("sha256sum", stdin_open=True)

    assert taken(feed(service, command, content)) == len(content)
    pieces = (content[start : start + 70_001] for start in range(0, len(content), 70_001))
    assert taken(feed(service, command, pieces, close=True)) == len(content)

    digest = hashlib.sha256(content + content).hexdigest()
    assert service.output(service.ended(command)).split()[0].decode() == digest


def test_a_body_may_be_larger_than_any_other_request(own_service: StartService) -> None:
    """What is passed on piece by piece needs no limit."""
    service = own_service(max_body_bytes=4096).start()
    command = service.run("wc -c", stdin_open=True)

    assert taken(feed(service, command, bytes(1_000_000), close=True)) == 1_000_000

    assert service.output(service.ended(command)).split() == [b"1000000"]


def test_the_first_input_comes_first_however_long_it_is(service: Service) -> None:
    """Who feeds a script that has not read its own input yet waits for that."""
    first = "x" * (PIPE_BYTES * 3)
    command = service.run("sleep 0.3; sha256sum", stdin=first, stdin_open=True)

    assert taken(feed(service, command, b"y" * 10, close=True)) == 10

    digest = hashlib.sha256(first.encode() + b"y" * 10).hexdigest()
    assert service.output(service.ended(command)).split()[0].decode() == digest


def test_without_the_field_nothing_can_be_fed_and_nothing_hangs(service: Service) -> None:
    """stdin is /dev/null or the input, as ever; and there is no pipe."""
    ended = service.done("cat; echo over")
    running = service.started(service.run("cat; sleep 1000", stdin="in\n"))

    answer = feed(service, running, b"more")

    refused(answer, "stdin_open")
    assert service.output(ended) == b"over\n"
    assert not os.path.exists(Places(str(service.state_dir)).stdin(running.id))
    service.stop(running)
    service.ended(running)


def test_what_is_closed_stays_closed(service: Service) -> None:
    """The second close, and bytes after the first, are told why not; the script runs on."""
    command = service.run("cat; echo eof; sleep 1000", stdin_open=True)
    assert feed(service, command, close=True).json() == {"taken_bytes": 0, "closed": True}
    service.says(command, b"eof")

    refused(feed(service, command, close=True), "is closed")
    refused(feed(service, command, b"late"), "is closed")

    assert service.get(command).status == "running"
    service.stop(command)
    service.ended(command)


def test_a_script_that_closed_its_stdin_is_told_apart(service: Service) -> None:
    """Nobody reads any more, though the command runs: the request is answered, and the API lives."""
    command = service.run("exec </dev/null; echo closed; sleep 1000", stdin_open=True)
    service.says(command, b"closed")

    refused(feed(service, command, b"x"), "Nobody reads")

    service.stop(command)
    service.ended(command)


def test_who_waits_for_a_reader_is_answered_when_the_script_closes_its_stdin(service: Service, tmp_path: Path) -> None:
    """The pipe breaks under the request: what was taken before is said."""
    command = service.run(
        'until [ -e "$1" ]; do sleep 0.05; done; exec </dev/null; sleep 1000',
        args=[str(tmp_path / "go")],
        stdin_open=True,
    )
    service.started(command)
    with hanging(service, command) as request:
        (tmp_path / "go").touch()
        refused(request.result(30), "Nobody reads", "bytes of this request were taken before")

    service.stop(command)
    service.ended(command)


def test_a_script_that_never_reads_holds_up_nobody_else(service: Service) -> None:
    """One request waits, in bounded memory; others are served, other commands fed; the end answers it."""
    deaf = service.started(service.run("sleep 1000", stdin_open=True))
    listener = service.run("cat", stdin_open=True)
    api = service.pid("bashd: api")
    with hanging(service, deaf, 200_000_000) as request:
        before = rss_bytes(api)
        assert taken(feed(service, listener, b"hello\n", close=True)) == 6
        assert service.output(service.ended(listener)) == b"hello\n"
        assert not request.done()

        service.stop(deaf)

        refused(request.result(30), "has ended", "stopped", "bytes of this request were taken before")
        assert rss_bytes(api) - before < 20_000_000
    assert service.ended(deaf).status == "stopped"


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_request_whose_client_is_silent_is_answered_at_the_end(service: Service) -> None:
    """The client has more to say, and says nothing; the command ends meanwhile."""
    command = service.run("read -r; exit 3", stdin_open=True)
    service.started(command)
    head = (
        f"POST /v1/commands/{command.id}/stdin HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {service.token}\r\nContent-Length: 1000\r\n\r\nline\n"
    )
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        client.sendall(head.encode())

        answer = client.recv(65536).decode()

    assert answer.startswith("HTTP/1.1 409 ")
    assert f"Command {command.id} has ended: it is failed. 5 bytes of this request were taken before." in answer


def test_bodies_of_one_command_come_one_after_the_other(service: Service) -> None:
    """Sent at the same time, they do not mix."""
    command = service.run("sleep 0.3; cat", stdin_open=True)
    bodies = [bytes([65 + number]) * 200_000 for number in range(6)]
    service.started(command)

    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda body: feed(service, command, body), bodies))
    assert [taken(answer) for answer in answers] == [200_000] * 6
    feed(service, command, close=True)

    printed = service.output(service.ended(command))
    assert sorted(printed[start : start + 200_000] for start in range(0, len(printed), 200_000)) == bodies


def test_a_client_that_goes_away_leaves_the_turn_to_the_next(service: Service) -> None:
    """What it had sent may have arrived; who comes after it is not held up."""
    command = service.run('read -r first; echo "$first"; cat', stdin_open=True)
    service.started(command)

    def broken() -> Iterator[bytes]:
        yield b"first\n"
        service.says(command, b"first\n")
        raise ConnectionError("the client died")

    with pytest.raises(ConnectionError):
        feed(service, command, broken())

    assert taken(feed(service, command, b"second\n", close=True)) == 7
    assert service.output(service.ended(command)) == b"first\nsecond\n"


def test_the_rest_arrives_after_the_api_died_between_two_requests(own_service: StartService) -> None:
    """The pipe is the worker's and bash's: a new API finds it as it was, open or closed."""
    service = own_service().start()
    command = service.run("cat; echo over; sleep 1000", stdin_open=True)
    assert taken(feed(service, command, b"before\n")) == 7

    dies(service, "bashd: api")

    assert taken(feed(service, command, b"after\n", close=True)) == 6
    service.says(command, b"before\nafter\nover\n")
    dies(service, "bashd: api")
    refused(feed(service, command, b"late"), "is closed")


def test_the_rest_arrives_after_the_supervisor_died(own_service: StartService) -> None:
    """Nothing of it goes through the supervisor."""
    service = own_service().start()
    command = service.run("cat; exit 4", stdin_open=True)
    assert taken(feed(service, command, b"before\n")) == 7

    dies(service, "bashd: supervisor")

    assert taken(feed(service, command, b"after\n", close=True)) == 6
    ended = service.ended(command)
    assert (ended.status, ended.exit_code) == ("failed", 4)
    assert service.output(ended) == b"before\nafter\n"


def test_a_shutdown_answers_who_waits(own_service: StartService) -> None:
    """With ``leave`` the script runs on, and the next Bashd feeds it on."""
    service = own_service(on_shutdown="leave").start()
    command = service.started(service.run("cat | wc -c", stdin_open=True))
    os.killpg(command.pid, signal.SIGSTOP)  # so nobody reads
    with hanging(service, command) as request:
        assert service.terminate() == 0
        answer = request.result(30)
    assert answer.status_code == 503
    assert "bytes of this request were taken before" in answer.json()["detail"]

    service.start()
    os.killpg(command.pid, signal.SIGCONT)
    assert taken(feed(service, command, b"", close=True)) == 0
    assert service.ended(command).status == "succeeded"


def dies(service: Service, title: str) -> None:
    """This process is killed, and the service answers again."""
    first = service.pid(title)
    kill(first)
    eventually(lambda: process(first) is None and service.pids(title) != [])
    eventually(service.is_ready)


def test_nothing_is_left_of_the_pipe(own_service: StartService) -> None:
    """Not after an end, a stop, or a close; not when the worker was killed, and not when everything was."""
    service = own_service().start()
    pipes = Path(Places(str(service.state_dir)).stdins)
    service.done("true", stdin_open=True)
    service.done("true", stdin_open=True, cwd="/nowhere")
    stopped = service.started(service.run("cat", stdin_open=True))
    service.stop(stopped)
    service.ended(stopped)
    assert list(pipes.iterdir()) == []

    fallen = service.started(service.run("cat", stdin_open=True))
    kill(fallen.worker_pid)
    assert service.ended(fallen).status == "lost"
    eventually(lambda: list(pipes.iterdir()) == [])

    everything = service.started(service.run("cat", stdin_open=True))
    assert list(pipes.iterdir()) != []
    service.kill_init()
    service.kill_everything()
    service.start()
    assert service.ended(everything).status == "lost"
    eventually(lambda: list(pipes.iterdir()) == [])


def test_the_journal_says_when_stdin_is_open(service: Service) -> None:
    """Two frames, of a command that is fed alone."""
    fed = service.run("cat; sleep 1000", stdin_open=True)
    plain = service.started(service.run("sleep 1000"))
    feed(service, fed, close=True)
    path = Places(str(service.state_dir)).journal

    def stdins(command: Command) -> list[bool]:
        with journal.Reader(path(command.id)) as reader:
            return [frame.facts()["open"] for frame in reader.frames() if frame.kind == journal.STDIN]

    eventually(lambda: stdins(fed) == [True, False])
    assert stdins(plain) == []
    for command in (fed, plain):
        service.stop(command)
        service.ended(command)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_reads_it_too(service: Service) -> None:
    """Through the inherited descriptor, and through the name that it has for programs."""
    command = service.run("id -un; head -n 1; head -n 1 /dev/stdin", stdin_open=True, run_as="nobody")

    feed(service, command, b"one\n")
    service.says(command, b"one\n")
    feed(service, command, b"two\n", close=True)

    assert service.output(service.ended(command)) == b"nobody\none\ntwo\n"


def test_who_cannot_be_fed(own_service: StartService) -> None:
    """Unknown, waiting, ended: each is told which; what is wrong in the request is named."""
    service = own_service(max_running=1).start()
    running = service.started(service.run("sleep 1000", stdin_open=True))
    waiting = service.run("cat", stdin_open=True)
    url = f"/v1/commands/{running.id}/stdin"

    unknown = service.http.post("/v1/commands/999999/stdin", content=b"x")
    malformed = service.http.post("/v1/commands/x/stdin", content=b"x")
    parameter = service.http.post(url, content=b"x", params={"close": "perhaps"})

    assert unknown.status_code == 404
    assert malformed.status_code == 400
    assert (parameter.status_code, parameter.json()["errors"][0]["field"]) == (400, "close")
    refused(feed(service, waiting, b"x"), "queued")
    service.stop(waiting)
    refused(feed(service, waiting, b"x"), "has ended", "stopped")
    service.stop(running)
    assert service.ended(running).status == "stopped"
    refused(feed(service, running, b"x"), "has ended", "stopped")


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_the_field_is_a_boolean(service: Service, value: Any) -> None:
    """Anything else is refused by name."""
    answer = service.create("true", stdin_open=value)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "stdin_open")
