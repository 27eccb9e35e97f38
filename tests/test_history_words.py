"""``bashd export``, ``import``, ``backup``, ``restore``: the history moves and is saved, byte for byte."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api.store import OWNER_LOCK
from tests.postgres import PostgresServer
from tests.processes import BASHD, Service, children, eventually, is_alive, title

EVERY_BYTE = r"for i in {0..255}; do printf \\x$(printf %02x $i); done; echo wrong >&2; exit 3"
REFUSED, CANNOT = 1, 2
KEY = base64.b64encode(bytes(range(32))).decode()


def _bashd(*arguments: str | Path, stdin: bytes = b"", **settings: str | Path) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": os.environ["PATH"], **{f"BASHD_{name.upper()}": str(one) for name, one in settings.items()}}
    return subprocess.run([BASHD, *arguments], env=environment, cwd="/", input=stdin, capture_output=True, timeout=120)


def _done(*arguments: str | Path, stdin: bytes = b"", status: int = 0, **settings: str | Path) -> tuple[bytes, str]:
    """What a word wrote to stdout and stderr; it ends with this exit status."""
    ended = _bashd(*arguments, stdin=stdin, **settings)
    assert ended.returncode == status, ended
    return ended.stdout, ended.stderr.decode()


def _history(service: Service) -> list[tuple[dict[str, Any], bytes, bytes, bytes]]:
    """Every command as it is shown, with what it printed."""
    return [
        (
            service.get(command).row,
            service.output(command),
            service.output(command, stream="stdout"),
            service.output(command, stream="stderr"),
        )
        for command in service.page(limit=1000)
    ]


def _fill(service: Service) -> None:
    """Commands that came to different ends, all of them recorded: then their journals are gone."""
    service.done(EVERY_BYTE, name="bytes", labels={"team": "infra", "ünï": "\u2028"}, env={"A": 'ä"\\'})
    service.done("head -c 2000000 /dev/urandom", stdin="ünï\n", timeout_s=0.1 + 0.2 + 100)
    service.done("yes | head -c 100000; yes | head -c 100000 >&2", output_limit_bytes=1000)
    service.done('echo "$TOKEN"', secrets={"TOKEN": "hidden"})
    service.done("kill -9 $$")
    assert service.create("echo once", wait_s=10).status_code == 201
    eventually(lambda: not list((service.state_dir / "journals").iterdir()))


def _empty_history(state_dir: Path) -> None:
    """A state directory with an embedded database that holds no command."""
    nothing = _file([{"format": "bashd-history", "version": 1, "schema_version": 1}, {"commands": 0}])
    _done("import", "-", stdin=nothing, state_dir=state_dir)


def _lines(exported: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in exported.splitlines()]


def _file(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.fixture
def filled(state_dir: Path, postgres: PostgresServer, services: list[Service]) -> tuple[str, Service]:
    """A database with a history, and the service that made it and runs."""
    url = postgres.new_database()
    services.append(Service(state_dir, database_url=url, secrets_key=KEY).start())
    _fill(services[0])
    return url, services[0]


@pytest.fixture(scope="module")
def exported(place: Path, postgres: PostgresServer) -> bytes:
    """The history of such a service, for tests that only change a copy of it."""
    url = postgres.new_database()
    with Service(place / "exported", database_url=url).start() as service:
        _fill(service)
    return _done("export", database_url=url)[0]


# Export and import


def test_an_exported_history_is_the_same_in_an_empty_database(
    filled: tuple[str, Service], postgres: PostgresServer, state_dir: Path, services: list[Service]
) -> None:
    """Ids, rows, output, labels and counts, byte for byte; another export is the same file; new ids go on after."""
    url, service = filled
    before, counts = _history(service), service.http.get("/v1/counts").json()
    exported, said = _done("export", database_url=url)
    other = postgres.new_database()

    _, imported = _done("import", "-", stdin=exported, database_url=other)
    restored = Service(state_dir.with_name("other"), database_url=other, secrets_key=KEY)
    services.append(restored.start())

    assert len(before) == 6
    assert said == "bashd: exported: 6 commands; passed over, for they are not final: 0\n"
    assert imported == "bashd: imported: 6 added, 0 skipped, 0 refused\n"
    assert exported.splitlines()[1:] == _done("export", database_url=other)[0].splitlines()[1:]
    assert _history(restored) == before
    assert restored.http.get("/v1/counts").json() == counts
    assert [one.name for one in restored.page(label="team:infra")] == ["bytes"]
    assert restored.done("true").id > before[0][0]["id"]
    # Its secret is still the one that was sealed.
    assert restored.http.post("/v1/commands/4/rerun", params={"wait": 10}).json()["masked"] == 1


def test_an_import_may_be_repeated(exported: bytes, postgres: PostgresServer) -> None:
    """What is there and equal is skipped, and counted once."""
    other = postgres.new_database()
    # As if the first time had been interrupted: its last commands are missing.
    lines = _lines(exported)
    third = next(at for at, line in enumerate(lines) if line.get("command", {}).get("id") == 3)
    _done("import", "-", stdin=_file(lines[:third]), status=REFUSED, database_url=other)

    _, said = _done("import", "-", stdin=exported, database_url=other)
    _, again = _done("import", "-", stdin=exported, database_url=other)

    assert said == "bashd: imported: 4 added, 2 skipped, 0 refused\n"
    assert again == "bashd: imported: 0 added, 6 skipped, 0 refused\n"
    with psycopg.connect(other) as connection:
        counted = connection.execute("select status, sum(count) from ends group by status order by status").fetchall()
        there = connection.execute("select status, count(*) from commands group by status order by status").fetchall()
    assert counted == there


def test_commands_that_differ_are_refused_and_the_rest_goes_on(exported: bytes, postgres: PostgresServer) -> None:
    """By their row or by one byte of their output; what is there stays as it is."""
    other = postgres.new_database()
    lines = _lines(exported)
    first = lines[1]["command"]
    assert first["id"] == 1
    output = next(line for line in lines if line.get("output") == 4)
    there = {**output, "base64": base64.b64encode(b"***!").decode()}
    changed = [{**line, "command": {**first, "name": "another"}} if line is lines[1] else line for line in lines]
    changed = [there if line is output else line for line in changed]
    kept = [lines[0], *(line for line in changed[1:-1] if _belongs(line) in (1, 4)), {"commands": 2}]
    _done("import", "-", stdin=_file(kept), database_url=other)

    _, said = _done("import", "-", stdin=exported, status=REFUSED, database_url=other)

    assert said.splitlines() == [
        "bashd: command 1 is refused: another command with this id is there, or the same with another output",
        "bashd: command 4 is refused: another command with this id is there, or the same with another output",
        "bashd: imported: 4 added, 0 skipped, 2 refused",
    ]
    with psycopg.connect(other) as connection:
        assert connection.execute("select name from commands where id = 1").fetchall() == [("another",)]
        assert connection.execute("select bytes from output where command_id = 4").fetchall() == [(b"***!",)]


def test_an_output_that_holds_a_piece_twice_is_not_the_same(exported: bytes, database_url: str) -> None:
    """Instead of another one, so that their number is right: it is refused."""
    _done("import", "-", stdin=exported, database_url=database_url)
    lines = _lines(exported)
    first, second = [at for at, line in enumerate(lines) if line.get("output") == 2][:2]
    lines[second] = lines[first]

    _, said = _done("import", "-", stdin=_file(lines), status=REFUSED, database_url=database_url)

    assert said.splitlines()[0].startswith("bashd: command 2 is refused: ")
    assert said.endswith("0 added, 5 skipped, 1 refused\n")


def test_what_is_left_of_a_removed_command_is_not_taken_for_the_new_one(exported: bytes, database_url: str) -> None:
    """Its output that is still to be removed goes at once, and nothing of the new one is removed later."""
    _done("import", "-", stdin=_file([_lines(exported)[0], {"commands": 0}]), database_url=database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute("insert into removed values (1)")
        connection.execute("insert into output values (1, 0, 1, 0, now(), 'old'), (1, 9000, 1, 9000, now(), 'old')")

    _done("import", "-", stdin=exported, database_url=database_url)

    assert _done("export", database_url=database_url)[0].splitlines()[1:] == exported.splitlines()[1:]
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select from removed").fetchall() == []


def test_an_import_that_is_killed_is_finished_by_another(exported: bytes, state_dir: Path) -> None:
    """Whatever of it was there; no process is left."""
    environment = {"PATH": os.environ["PATH"], "BASHD_STATE_DIR": str(state_dir)}
    running = subprocess.Popen(
        [BASHD, "import", "-"], env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/"
    )
    assert running.stdin is not None
    half = exported[: len(exported) // 2]
    running.stdin.write(half)
    running.stdin.flush()
    eventually(lambda: (state_dir / "postgres" / "data" / "PG_VERSION").exists())
    server = eventually(lambda: [pid for pid in children(running.pid) if title(pid).endswith("/postgres")])[0]
    eventually(lambda: _recorded(state_dir, 1) == "failed")
    running.kill()
    running.wait()
    running.stdin.close()
    eventually(lambda: not is_alive(server))

    _, said = _done("import", "-", stdin=exported, state_dir=state_dir)

    assert said.endswith(" 0 refused\n")
    assert _done("export", state_dir=state_dir)[0].splitlines()[1:] == exported.splitlines()[1:]


def _belongs(line: dict[str, Any]) -> int:
    return int(line.get("output") or line.get("end") or line["command"]["id"])


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("status", "queued", "status: has to be one of"),
        ("status", [], "status: has to be one of"),
        ("env", {"A": 1}, "env: has to be an object of texts"),
        ("args", "x", "args: has to be a list of texts"),
        ("ended_at", "infinity", "ended_at: has to be an instant"),
        ("duration_s", "NaN", "duration_s: has to be a number or null"),
        ("stdin", "\\xff", "stdin: has to be null"),
        ("truncated", {}, "truncated: has to be null or have"),
        ("reason", "nonsense", "commands_reason"),
        ("script", None, "null value in column"),
        ("script", "\0", "Unicode"),
        ("signal", 2**40, "out of range"),
        ("colour", "red", "it has a field that this Bashd does not know: colour"),
    ],
)
def test_a_command_that_cannot_be_here_is_refused(
    field: str, value: object, why: str, exported: bytes, postgres: PostgresServer
) -> None:
    """With the reason; nothing of it is there, and the others are."""
    lines = _lines(exported)
    lines[1]["command"][field] = value
    other = postgres.new_database()

    _, said = _done("import", "-", stdin=_file(lines), status=REFUSED, database_url=other)

    refused = lines[1]["command"]["id"]
    assert said.startswith(f"bashd: command {refused} is refused: ")
    assert why in said.splitlines()[0]
    assert said.splitlines()[1:] == ["bashd: imported: 5 added, 0 skipped, 1 refused"]
    with psycopg.connect(other) as connection:
        for table, column in (("commands", "id"), ("output", "command_id"), ("labels", "command_id")):
            assert not connection.execute(f"select from {table} where {column} = %s", [refused]).fetchall()


@pytest.mark.parametrize("broken", [b"{\n", b"[]\n", b"\xff\n", b"[" * 100_000 + b"\n", b'{"end": 1, "chunks": 5}\n'])
def test_a_line_that_is_none_costs_its_command_and_no_other(
    broken: bytes, exported: bytes, postgres: PostgresServer
) -> None:
    """It stands in the middle of the first command, none of which is taken."""
    lines = exported.splitlines(keepends=True)
    other = postgres.new_database()

    _, said = _done("import", "-", stdin=b"".join([*lines[:2], broken, *lines[2:]]), status=REFUSED, database_url=other)

    assert said.startswith("bashd: command 1 is refused: ")
    assert said.endswith("bashd: imported: 5 added, 0 skipped, 1 refused\n")
    with psycopg.connect(other) as connection:
        assert connection.execute("select from output where command_id = 1").fetchall() == []


def test_a_file_that_is_cut_off_is_taken_as_far_as_it_is_whole(exported: bytes, postgres: PostgresServer) -> None:
    """Wherever it is cut, that is said, and no command is there in part."""
    for cut in (len(exported) - 1, len(exported) - 60, len(exported) // 2):
        other = postgres.new_database()

        _, said = _done("import", "-", stdin=exported[:cut], status=REFUSED, database_url=other)

        assert "refused" in said.splitlines()[0]
        rows = _lines(_done("export", database_url=other)[0])[1:-1]
        assert _file(rows) == _file([line for line in _lines(exported)[1:] if line in rows])


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (b"", "this is no history"),
        (b"junk\n", "this is no history"),
        (b'{"format": "bashd-history", "version": 2, "schema_version": 5}\n', "use a newer Bashd"),
        (b'{"format": "bashd-history", "version": 1, "schema_version": 5000}\n', "use a newer Bashd"),
    ],
)
def test_a_file_that_is_no_history_or_too_new_is_refused_as_a_whole(first: bytes, why: str, database_url: str) -> None:
    """In one line, with exit status 2."""
    _, said = _done("import", "-", stdin=first, status=CANNOT, database_url=database_url)

    assert len(said.splitlines()) == 1
    assert why in said


def test_nothing_is_changed_under_a_bashd_that_runs(exported: bytes, database_url: str) -> None:
    """Whoever owns the database, an import does not even bring its schema up to date."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", [OWNER_LOCK])

        _, said = _done("import", "-", stdin=exported, status=CANNOT, database_url=database_url)

        assert said == "bashd: a Bashd runs on this database; end it first\n"
        assert connection.execute("select to_regclass('schema_version')").fetchone() == (None,)


def test_only_what_is_final_and_was_asked_for_is_exported(filled: tuple[str, Service], mark: str) -> None:
    """Times and statuses choose; what runs is passed over and counted. Nobody imports while a Bashd runs."""
    url, service = filled
    runs = service.started(service.run(f"exec sleep {mark}"))

    exported, said = _done("export", "--status=failed", database_url=url)
    later, _ = _done("export", f"--since={runs.created_at}", database_url=url)
    earlier, _ = _done("export", f"--until={runs.created_at}", database_url=url)
    _, refused = _done("import", "-", stdin=exported, status=CANNOT, database_url=url)
    service.stop(runs)

    assert [one["command"]["id"] for one in _lines(exported) if "command" in one] == [1, 5]
    assert said.endswith("passed over, for they are not final: 1\n")
    assert _lines(later)[1:] == [{"commands": 0}]
    assert _lines(earlier)[-1] == {"commands": 6}
    assert refused == "bashd: a Bashd runs on this database; end it first\n"


# Backup and restore


def _recorded(state_dir: Path, command_id: int) -> str:
    """What the row says, which is behind what the API shows; empty while there is none."""
    try:
        with psycopg.connect(host=str(state_dir / "postgres"), user="bashd", dbname="bashd") as connection:
            row = connection.execute("select status from commands where id = %s", [command_id]).fetchone()
    except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
        return ""  # it is being made
    return "" if row is None else str(row[0])


def test_a_restored_backup_is_the_same_history(mark: str, state_dir: Path, services: list[Service]) -> None:
    """Saved while Bashd runs: what is final is the same, what ran is lost and does not run again, what waited runs."""
    service = Service(state_dir, max_running=1)
    services.append(service.start())
    _fill(service)
    before = _history(service)
    runs = service.started(service.run(f"echo ran >> {state_dir}.ran; exec sleep {mark}"))
    waits = service.run("echo waited")
    eventually(lambda: _recorded(state_dir, runs.id) == "running")
    file, other = state_dir.with_name("saved.tar"), state_dir.with_name("other")

    _done("backup", file, state_dir=state_dir)
    assert _done("restore", file, state_dir=other)[1].endswith("handed over: 1\n")
    restored = Service(other)
    services.append(restored.start())

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    waited = restored.ended(waits)
    assert (waited.status, restored.output(waited)) == ("succeeded", b"waited\n")
    lost = restored.get(runs)
    assert (lost.status, lost.reason) == ("lost", "host_died")
    assert len(before) == 6
    assert _history(restored)[2:] == before
    assert restored.http.get("/v1/counts").json()["lost"] == 1
    assert (other / "node_id").read_text() == (state_dir / "node_id").read_text()
    assert restored.http.post("/v1/commands/4/rerun", params={"wait": 10}).json()["masked"] == 1
    assert restored.done("true").id > waited.id
    assert Path(f"{state_dir}.ran").read_text() == "ran\n"
    service.stop(runs)


def test_a_backup_is_made_while_nobody_runs_too(state_dir: Path, services: list[Service]) -> None:
    """With a PostgreSQL that is started for it; export and import work there in the same way."""
    service = Service(state_dir)
    services.append(service.start())
    service.done("echo saved")
    before = _history(service)
    assert service.terminate() == 0
    file, other = state_dir.with_name("saved.tar"), state_dir.with_name("other")

    _done("backup", file, state_dir=state_dir)
    exported, _ = _done("export", state_dir=state_dir)
    _done("restore", file, state_dir=other)
    _, said = _done("import", "-", stdin=exported, state_dir=other)

    assert said == "bashd: imported: 0 added, 1 skipped, 0 refused\n"
    restored = Service(other)
    services.append(restored.start())
    assert _history(restored) == before


def test_a_restore_that_fails_leaves_the_directory_as_it_was(state_dir: Path) -> None:
    """Damaged, cut off, none at all, too new: one line, exit status 2, and another try may follow."""
    file, other = state_dir.with_name("saved.tar"), state_dir.with_name("other")
    _empty_history(state_dir)
    _done("backup", file, state_dir=state_dir)
    whole = file.read_bytes()
    with tarfile.open(file) as tar:
        dump = tar.getmember("database.dump")
    middle = dump.offset_data + dump.size // 2
    other.mkdir(mode=0o711)
    damaged = {
        "damaged": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "cut": whole[:middle],
        "none": b"nothing of ours",
        "empty": b"",
        "new": whole.replace(b'"schema_version": ', b'"schema_version": 999', 1),
    }

    for name, content in damaged.items():
        broken = state_dir.with_name(name)
        broken.write_bytes(content)
        _, said = _done("restore", broken, status=CANNOT, state_dir=other)
        # What comes before it is initdb at work.
        assert [line for line in said.splitlines() if " info  launcher: " not in line] == [said.splitlines()[-1]]
        assert list(other.iterdir()) == [], name

    _done("restore", file, state_dir=other)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restore_that_is_ended_leaves_nothing_that_is_served(number: signal.Signals, state_dir: Path) -> None:
    """Told to go it leaves nothing at all; killed, a directory that has no database where Bashd looks for it."""
    file, other = state_dir.with_name("saved.tar"), state_dir.with_name("other")
    _empty_history(state_dir)
    _done("backup", file, state_dir=state_dir)
    environment = {"PATH": os.environ["PATH"], "BASHD_STATE_DIR": str(other)}
    running = subprocess.Popen([BASHD, "restore", file], env=environment, stderr=subprocess.DEVNULL, cwd="/")
    eventually((other / "restoring" / "postgres" / "data" / "PG_VERSION").exists)
    server = eventually(lambda: [pid for pid in children(running.pid) if title(pid).endswith("/postgres")])[0]

    running.send_signal(number)
    running.wait(20)
    eventually(lambda: not is_alive(server))

    if number == signal.SIGTERM:
        assert not other.exists()
        _done("restore", file, state_dir=other)
    else:
        assert not (other / "postgres").exists()
        assert "is not empty" in _done("restore", file, status=CANNOT, state_dir=other)[1]


def test_words_that_cannot_work_say_why(state_dir: Path, database_url: str) -> None:
    """In one line, with exit status 2; nothing is made."""
    there = state_dir.with_name("there")
    there.write_text("mine")
    full = state_dir.with_name("full")
    full.mkdir()
    (full / "file").write_text("")
    cases: list[tuple[tuple[str | Path, ...], dict[str, str | Path], str]] = [
        (("backup", there), {"state_dir": state_dir, "database_url": database_url}, "use pg_dump"),
        (("restore", there), {"state_dir": state_dir, "database_url": database_url}, "use pg_restore"),
        (("backup", there), {"state_dir": state_dir}, "is there already"),
        (("backup", f"{there}.tar"), {"state_dir": state_dir}, "there is no embedded database"),
        (("backup", state_dir / "no" / "such"), {"state_dir": state_dir}, "No such file or directory"),
        (("restore", there), {"state_dir": state_dir}, "is no backup of Bashd"),
        (("restore", f"{there}.tar"), {"state_dir": state_dir}, "No such file or directory"),
        (("restore", full), {"state_dir": state_dir}, "Is a directory"),
        (("restore", there), {"state_dir": full}, "is no backup of Bashd"),
        (("import", full), {"state_dir": state_dir}, "Is a directory"),
        (("import", f"{there}.tar"), {"state_dir": state_dir}, "No such file or directory"),
        (("export",), {"state_dir": state_dir}, "there is no embedded database"),
        (("export",), {"state_dir": state_dir, "database_url": database_url}, "bashd migrate"),
        (("export", "--since=yesterday"), {"state_dir": state_dir}, "has to be an instant"),
        (("export", "--status=queued"), {"state_dir": state_dir}, "succeeded"),
    ]
    for arguments, settings, why in cases:
        _, said = _done(*arguments, stdin=b"", status=CANNOT, **settings)
        assert len(said.splitlines()) == 1, said
        assert why in said
        assert not state_dir.exists()
        assert there.read_text() == "mine"


def test_nothing_is_restored_into_a_directory_that_is_not_empty(state_dir: Path) -> None:
    """What lies there stays."""
    file = state_dir.with_name("saved.tar")
    _empty_history(state_dir)
    _done("backup", file, state_dir=state_dir)
    before = sorted(state_dir.rglob("*"))

    _, said = _done("restore", file, status=CANNOT, state_dir=state_dir)

    assert "is not empty" in said
    assert sorted(state_dir.rglob("*")) == before
