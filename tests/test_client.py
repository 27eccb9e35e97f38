"""The Python client: what it promises to programs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from client import (
    AsyncClient,
    Client,
    Conflict,
    End,
    Gap,
    Malformed,
    NotEnded,
    NotFound,
    Output,
    Status,
    Unauthorized,
    Unavailable,
    Unreachable,
    calls,
)
from tests.conftest import StartService
from tests.cutting import CuttingProxy
from tests.processes import Service, eventually, kill, marked
from tests.terminal import environment

EXAMPLES = Path(__file__).parent.parent / "examples"


def client(service: Service, **options: float) -> Client:
    return Client(service.url, service.token, **options)


def test_a_script_is_run_waited_for_and_read(service: Service) -> None:
    """The command has types; what it printed is bytes."""
    with client(service) as bashd:
        handle = bashd.run("echo $A; echo err >&2; exit 7", env={"A": "b"}, labels={"l": "m"})
        command = handle.wait()

        assert (command.status, command.exit_code, command.labels) == ("failed", 7, {"l": "m"})
        assert command.final
        assert handle.output("stdout") == b"b\n"
        assert handle.output("stderr") == b"err\n"


def test_a_command_is_stopped_signalled_fed_and_looked_at(service: Service, mark: str) -> None:
    """Each by a method of its handle."""
    with client(service) as bashd:
        script = f"(trap '' USR1; exec sleep {mark}) & trap 'echo usr1' USR1; read a; echo $a; while :; do wait; done"
        handle = bashd.run(script, stdin_open=True)
        eventually(lambda: handle.refresh().pid)
        assert handle.feed(b"fed\n", close=True) == 4
        eventually(lambda: marked(mark))
        assert f"sleep {mark}" in [one.command_line for one in handle.processes().processes]
        assert handle.id in [tree.command for tree in bashd.processes()]
        handle.signal("USR1")
        eventually(lambda: handle.output() == b"fed\nusr1\n")

        handle.stop(grace_s=1)

        assert handle.wait().status == "stopped"
        assert marked(mark) == []


def test_wait_raises_when_its_time_is_over(service: Service, mark: str) -> None:
    """The command runs on."""
    with client(service) as bashd:
        handle = bashd.run(f"sleep {mark}")
        with pytest.raises(NotEnded):
            handle.wait(timeout_s=0.1)
        handle.stop()


def test_events_tell_the_whole_story(service: Service) -> None:
    """From its beginning to its end, also afterwards."""
    with client(service) as bashd:
        handle = bashd.run(r"printf '\xff'")
        handle.wait()
        events = list(handle.follow())

    assert isinstance(events[0], Status)
    assert b"".join(one.bytes for one in events if isinstance(one, Output)) == b"\xff"
    assert isinstance(events[-1], End)
    assert events[-1].command.status == "succeeded"


def test_what_was_not_kept_is_a_gap(service: Service) -> None:
    """With its range."""
    with client(service) as bashd:
        handle = bashd.run("head -c 3000000 /dev/zero", output_limit_bytes=1000)
        handle.wait()
        gaps = [one for one in handle.follow() if isinstance(one, Gap)]

    assert sum(one.stop - one.start for one in gaps) >= 3_000_000 - 1000


def test_a_list_goes_over_pages(service: Service) -> None:
    """With its filters."""
    with client(service) as bashd:
        ids = [bashd.run("true", labels={"pages": str(os.getpid())}).id for _ in range(5)]
        listed = [one.id for one in bashd.list(label=f"pages:{os.getpid()}", limit=2)]

    assert listed == ids[::-1]


def test_a_rerun_is_another_command(service: Service) -> None:
    """That names the first."""
    with client(service) as bashd:
        first = bashd.run("echo x")
        again = first.rerun()

        assert again.wait().rerun_of == first.id
        assert again.output() == b"x\n"


def test_each_refusal_has_its_class(service: Service) -> None:
    """And names the fields at fault."""
    with client(service) as bashd:
        with pytest.raises(Malformed) as malformed:
            bashd.run("")
        assert malformed.value.errors == {"script": "must not be empty"}
        with pytest.raises(NotFound):
            bashd.get(999_999_999)
        ended = bashd.run("true")
        ended.wait()
        with pytest.raises(Conflict):
            ended.signal("TERM")
    with Client(service.url, "wrong") as stranger, pytest.raises(Unauthorized):
        stranger.run("true")
    with Client("http://127.0.0.1:1", retry_for_s=0.2) as nobody, pytest.raises(Unreachable):
        nobody.run("true")


def test_a_cut_request_makes_one_command(service: Service) -> None:
    """The answers are cut off twice; the key makes it the same command."""
    before = service.newest_id()
    with CuttingProxy(service.url, cuts=2, after_bytes=10) as proxy, Client(proxy.url, service.token) as bashd:
        handle = bashd.run("echo once")
        assert proxy.cut == 2
        assert handle.wait().status == "succeeded"

    assert [one.id for one in service.page(limit=10) if one.id > before] == [handle.id]


def test_a_signal_is_not_sent_twice(service: Service) -> None:
    """Its answer is cut off: whether it was sent nobody knows, so it is raised and not repeated."""
    command = service.run(
        "n=0; trap 'n=$((n+1)); echo $n' USR1; trap exit USR2; echo ready; while :; do read -t 0.05 <> <(:); done"
    )
    service.says(command, b"ready")
    with Client(service.url, service.token) as direct:
        handle = direct.get(command.id)
        with (
            CuttingProxy(service.url, cuts=1, after_bytes=10) as proxy,
            Client(proxy.url, service.token) as bashd,
            pytest.raises(Unreachable),
        ):
            bashd.ask(calls.signal(command.id, "USR1"))
        service.says(command, b"1\n")
        handle.signal("USR2")
        handle.wait()
        assert handle.output("stdout") == b"ready\n1\n"


def test_a_service_that_cannot_take_it_now_is_asked_again(own_service: StartService) -> None:
    """It is away while it is replaced; who waits for a command does not notice."""
    service = own_service(on_shutdown="leave", port=0).start()
    with client(service, retry_for_s=30) as bashd:
        handle = bashd.run("sleep 0.5; echo done")
        kill(service.pid("bashd: api"))
        assert handle.wait().status == "succeeded"
        assert handle.output() == b"done\n"


def test_unavailable_has_its_class_when_patience_ends(own_service: StartService) -> None:
    """A service without its database says so."""
    service = own_service(database_url="postgresql://bashd@127.0.0.1:1/none").start(ready=False)
    with client(service, retry_for_s=0.1) as bashd, pytest.raises((Unavailable, Unreachable)):
        bashd.run("true")


def test_asyncio_has_the_same(service: Service, mark: str) -> None:
    """Every method, over a cut as well."""

    async def story(url: str) -> None:
        async with AsyncClient(url, service.token) as bashd:
            handle = await bashd.run("seq 1000; exit 2", labels={"async": mark})
            printed = b"".join([one.bytes async for one in handle.follow() if isinstance(one, Output)])
            assert printed == b"".join(b"%d\n" % number for number in range(1, 1001))
            assert (await handle.wait()).exit_code == 2
            assert await handle.output("stdout", limit=4) == b"1\n2\n"
            again = await handle.rerun()
            assert (await again.wait()).rerun_of == handle.id
            assert [one.id async for one in bashd.list(label=f"async:{mark}")] == [again.id, handle.id]
            sleeper = await bashd.run(f"sleep {mark}")
            with pytest.raises(NotEnded):
                await sleeper.wait(timeout_s=0.05)
            await sleeper.stop()
            assert (await sleeper.wait()).status == "stopped"
            assert (await sleeper.processes()).processes == []
            assert isinstance(await bashd.processes(), list)

    with CuttingProxy(service.url, cuts=2, after_bytes=3000) as proxy:
        asyncio.run(story(proxy.url))
        assert proxy.cut == 2


def test_both_clients_have_the_same_methods() -> None:
    """Nothing can be done with one that the other cannot do."""
    from client import AsyncHandle, Handle

    for one, other in ((Client, AsyncClient), (Handle, AsyncHandle)):
        names = [{name for name in vars(kind) if not name.startswith("__")} for kind in (one, other)]
        assert names[0] == names[1]


SHOWN = {
    "run_and_wait.py": "failed 3\nhello world\n",
    "follow.py": "stdout b'1\\n'\nstdout b'2\\n'\nstdout b'3\\n'\nstderr b'oh\\n'\nsucceeded\n",
    "many_at_once.py": "['succeeded', 'succeeded', 'succeeded', 'succeeded', 'succeeded']\n"
    "[b'0\\n', b'1\\n', b'2\\n', b'3\\n', b'4\\n']\n",
}


@pytest.mark.parametrize("name", sorted(one.name for one in EXAMPLES.glob("[a-z]*.py")))
def test_an_example_runs_as_it_stands(service: Service, name: str) -> None:
    """And shows what it says."""
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env={**environment(service), "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    if name in SHOWN:
        assert ran.stdout == SHOWN[name]
    else:
        assert "is running after 1 s\nstopped {'group': 1, 'escaped': 1, 'left': 0}\n" in ran.stdout
