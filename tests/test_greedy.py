"""Twenty scripts that are greedy, broken or malicious, beside twenty honest ones that must not notice."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import StartService
from tests.processes import Command, Service, eventually, processes

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="users of their own are only root's to give")

HOSTILE, HONEST = "games", "daemon"  # two ordinary users that every Debian has
LIMITS = {
    "memory_bytes": 400 * 1024 * 1024,
    "cpu_s": 10,
    "file_bytes": 8 * 1024 * 1024,
    "open_files": 200,
    "processes": 150,
}

# What each does it does for as long as it is let. All of them begin by leaving somebody outside of their group.
ESCAPE = "setsid sleep MARK & "
SCRIPTS = {
    "memory": "x=x; while :; do x=$x$x; done",
    "memory of children": "for i in 1 2 3 4; do (x=x; while :; do x=$x$x; done) & done; wait",
    "processor": "while :; do :; done",
    "processor of many": "for i in 1 2 3 4 5 6; do (while :; do :; done) & done; wait",
    "many files": "i=0; while :; do : > f$((i += 1)); done",
    "a large file": "trap '' XFSZ; while :; do cat /dev/zero >> large; done",
    "many large files": "i=0; while :; do head -c 1M /dev/zero > f$((i += 1)); [ $i -lt 50 ] || sleep 1; done",
    "deep directories": "while mkdir d && cd d; do :; done; sleep MARK",
    "output": "yes",
    "output on both streams": "yes >&2 & yes",
    "binary output": "cat /dev/urandom",
    "a line without an end": "while :; do printf x; done",
    "processes": "f() { f | f & }; f; sleep MARK",
    "processes in sessions": 'f() { setsid bash -c "$B" & setsid bash -c "$B" & }; B=\'setsid bash -c "$B" & '
    'setsid bash -c "$B" & wait\'; export B; f; sleep MARK',
    "descriptors": "while exec {fd}< /dev/null; do :; done; sleep MARK",
    "signals to everybody": "trap '' TERM HUP INT; while :; do for p in /proc/[0-9]*; do "
    "p=${p#/proc/}; [ $p = $$ ] || kill -KILL $p $((-p)); done; sleep 0.1; done 2> /dev/null",
    "stops for everybody": "while :; do for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = $$ ] || kill -STOP $p; done; "
    "sleep 0.1; done 2> /dev/null",
    "a look at everything": "while :; do for p in /proc/[0-9]*; do cat $p/environ $p/cmdline $p/maps; "
    "head -c 1000 $p/mem; ls -l $p/fd; done; find / -xdev -name 'bashd*' -maxdepth 3; sleep 0.2; done 2> /dev/null",
    "no way to end it": "trap '' TERM HUP INT QUIT USR1 USR2 XCPU; nohup setsid sleep MARK & disown -a; while :; do "
    "read -t 1 < <(sleep 1); done",
    "its own directory": 'chmod 000 .; ln -s / up; rm -rf -- "$PWD"; renice -n -20 $$; echo -1000 > '
    "/proc/self/oom_score_adj; while :; do mkdir -p a; mv a b; rm -rf b; done 2> /dev/null",
}
TIMEOUT_S = 12.0

# Takes as long as they do, and says at last what nobody else could: $1 is its number.
HONEST_SCRIPT = """
echo "$1" > mine
end=$((SECONDS + 8)); rounds=0
while ((SECONDS < end)); do
    seq "$1" 2000 | sha256sum > "sum.$((rounds % 3))"; ((rounds += 1)); sleep 0.1
done
cat mine; cat sum.0; echo "err $1" >&2; cat
exit $(($1 % 7))
"""


def _honest(service: Service, number: int) -> Command:
    stdin, name = f"in {number}\n", f"honest {number}"
    return service.run(HONEST_SCRIPT, args=[str(number)], stdin=stdin, run_as=HONEST, name=name)


def _of_user(name: str) -> list[int]:
    import pwd

    uid = pwd.getpwnam(name).pw_uid
    found = []
    for one in processes():
        try:
            if os.stat(f"/proc/{one.pid}").st_uid == uid and one.state != "Z":
                found.append(one.pid)
        except FileNotFoundError:
            continue
    return found


def test_twenty_hostile_scripts_do_not_reach_twenty_honest_ones(own_service: StartService, mark: str) -> None:
    """Every honest result is exact, every hostile one is ended whole, and Bashd is the same as before."""
    service = own_service(max_running=64, min_free_bytes=0).start()
    family = {name: service.pid(f"bashd: {name}") for name in ("supervisor", "forker", "api")}
    hostile = [
        service.run(
            (ESCAPE + script).replace("MARK", mark),
            run_as=HOSTILE,
            limits=LIMITS,
            timeout_s=TIMEOUT_S,
            grace_s=0.5,
            output_limit_bytes=1024 * 1024,
            name=name,
        )
        for name, script in SCRIPTS.items()
    ]
    assert len(hostile) == 20
    honest = [_honest(service, number) for number in range(1, 21)]

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda one: service.ended(one, within_s=120), honest))
    for number, one in enumerate(ended, 1):
        counted = b"".join(b"%d\n" % i for i in range(number, 2001))
        code = number % 7
        assert (one.status, one.exit_code) == ("failed" if code else "succeeded", code), one.name
        told = b"%d\n%s  -\nin %d\n" % (number, hashlib.sha256(counted).hexdigest().encode(), number)
        assert service.output(one, stream="stdout") == told, one.name
        assert service.output(one, stream="stderr") == b"err %d\n" % number, one.name
        assert one.swept == {"group": 0, "escaped": 0, "left": 0}, one.name

    for command in hostile:
        one = service.ended(command, within_s=120)
        assert one.status == "failed", (one.name, one.status, one.reason)
        assert max(one.stdout_bytes, one.stderr_bytes) <= 1024 * 1024 or one.truncated is not None, one.name
    assert _of_user(HOSTILE) == []
    assert {name: service.pid(f"bashd: {name}") for name in family} == family
    eventually(lambda: not any((service.state_dir / "work").iterdir()))
    assert service.done("echo well").exit_code == 0
