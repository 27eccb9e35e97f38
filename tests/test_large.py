"""Output that is larger than anything that should be held in memory, and lines that are longer."""

from __future__ import annotations

import hashlib
from pathlib import Path

import psycopg

from tests.conftest import StartService
from tests.processes import Service, eventually

MIB = 1024 * 1024


def _peak_bytes(pid: int) -> int:
    """The most memory that ``pid`` ever had resident (proc_pid_status(5), VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{pid} is gone")


def test_a_gibibyte_is_counted_and_fills_neither_memory_nor_disk(own_service: StartService, database_url: str) -> None:
    """What the limit does not keep is named to the byte; no process grows by 50 MiB on the way."""
    service = own_service(database_url=database_url).start()
    service.done("echo warm")
    assert service.init is not None
    family = [service.init.pid, service.pid("bashd: supervisor"), service.pid("bashd: api")]
    before = {pid: _peak_bytes(pid) for pid in family}

    command = service.run("head -c 1G /dev/zero; echo counted >&2; read -r _ < <(sleep 4000)", timeout_s=None)
    eventually(lambda: service.get(command).stderr_bytes > 0, within_s=120)
    family.append(service.get(command).worker_pid)
    journal_bytes = sum(path.stat().st_size for path in (service.state_dir / "journals").iterdir())
    grown = {pid: _peak_bytes(pid) - before.get(pid, 0) for pid in family}
    service.stop(command)
    ended = service.ended(command)
    eventually(lambda: not (service.state_dir / "journals" / str(command.id)).exists(), within_s=60)

    assert ended.stdout_bytes == 1024 * MIB
    assert ended.truncated["stdout"] == [[8 * MIB, (1024 - 8) * MIB]]
    assert max(grown.values()) < 50 * MIB, grown
    assert journal_bytes < 48 * MIB
    assert list((service.state_dir / "journals").iterdir()) == []
    with psycopg.connect(database_url) as connection:
        recorded = "select sum(length(bytes)) from output where command_id = %s and stream = 1"
        assert connection.execute(recorded, [ended.id]).fetchone() == (16 * MIB,)


def test_a_line_of_three_hundred_megabytes_is_kept_to_the_byte(service: Service) -> None:
    """With NUL, bytes that are no UTF-8, and characters that fall on every border; live, and from the database."""
    piece = b"\0\xff\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80" + b"x" * 1011
    count = 300 * 1000 * 1000 // len(piece)
    expected = hashlib.sha256(piece * count).hexdigest()
    script = (
        "piece=$(printf 'x%.0s' {1..1011}); "
        "block() { for ((i = 0; i < 1000; i++)); do "
        r"printf '\0\xff\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80%s' "
        '"$piece"; done; }; '
        f'file=$(mktemp); block > "$file"; for ((n = 0; n < {count // 1000}; n++)); do cat "$file"; done; '
        f'head -c {count % 1000 * len(piece)} "$file"; rm "$file"'
    )

    command = service.run(script, output_limit_bytes=400 * MIB, timeout_s=None)
    live = _digest(service, command.id, follow=True)
    ended = service.ended(command, within_s=120)
    eventually(lambda: not (service.state_dir / "journals" / str(command.id)).exists(), within_s=120)

    assert ended.stdout_bytes == count * len(piece)
    assert ended.truncated is None
    assert live == expected
    assert _digest(service, command.id) == expected


def _digest(service: Service, command_id: int, **params: bool) -> str:
    digest = hashlib.sha256()
    with service.http.stream("GET", f"/v1/commands/{command_id}/output", params=params) as answer:
        for chunk in answer.iter_raw():
            digest.update(chunk)
    return digest.hexdigest()
