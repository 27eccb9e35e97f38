"""The scripts of the monkey, each with what it promises to do when nobody disturbs it.

Every script keeps a private account of itself: that it ran, what it printed, how it meant to end. All of it follows
from a seed and a number, so the same seed gives the same scripts.
"""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass, field
from typing import Any

# $1 is the private file, $2 a number of seconds that only this command's processes have as an argument.
PRELUDE = r"""log=$1; mark=$2
printf 'run %d\n' $$ >> "$log"
trap 'printf "exit %d\n" $? >> "$log"' EXIT
put() { printf -- "$2" >&"$1"; printf -- "$2" >> "$log.$1"; }
"""
MAX_PIECE_BYTES = 4096  # of one put: what a pipe takes whole, so a kill falls between two pieces


@dataclass(frozen=True)
class Plan:
    """One script and what is to be seen of it."""

    number: int
    kind: str
    script: str
    exit_code: int | None = None  # of its natural end; None: it has none, or ends by ``signal``
    signal: int | None = None
    stop_after_s: float | None = None  # when its client asks for its stop
    left_behind: int = 0  # processes that are alive when bash ends by itself
    fields: dict[str, Any] = field(default_factory=dict)  # of the request, beside the script

    @property
    def times_out(self) -> bool:
        return self.kind == "slow"


def plan(seed: int, number: int) -> Plan:
    """The plan with this number."""
    chance = random.Random(f"{seed}/{number}")
    kind = chance.choices(list(_KINDS), weights=[weight for weight, _ in _KINDS.values()])[0]
    body, options = _KINDS[kind][1](chance)
    fields = {"timeout_s": None, "grace_s": 1, **options.pop("fields", {})}
    # Who would never end is always stopped, some of the others too.
    if "stop_after_s" not in options and kind != "slow" and chance.random() < 0.2:
        options["stop_after_s"] = chance.uniform(0, 2)
    return Plan(number, kind, PRELUDE + body, fields=fields, **options)


_Body = tuple[str, dict[str, Any]]


def _quick(chance: random.Random) -> _Body:
    code = chance.choice([0, 0, 0, 1, 7, 255])
    return f"put 1 'out {chance.random()}\\n'; put 2 'err\\n'; exit {code}", {"exit_code": code}


def _counting(chance: random.Random) -> _Body:
    count, pause, code = chance.randint(10, 150), chance.uniform(0.005, 0.04), chance.randrange(256)
    body = f'for ((i = 0; i < {count}; i++)); do put 1 "$i\\n"; put 2 "-$i\\n"; sleep {pause:.3f}; done; exit {code}'
    return body, {"exit_code": code}


def _noisy(chance: random.Random) -> _Body:
    """As fast as it can, with bytes that are not UTF-8, NUL, and lines without end."""
    count, width, code = chance.randint(200, 3000), chance.randint(1, 3000), chance.randrange(256)
    piece = f"$(printf '%0{width}d' 7)"
    body = (
        f"piece={piece}; for ((i = 0; i < {count}; i++)); do "
        r'put 1 "$i $piece\n"; put 2 "\000\377\303$i"; put 1 "\303\244\0"; '
        f"done; exit {code}"
    )
    return body, {"exit_code": code}


def _forking(chance: random.Random) -> _Body:
    count, code = chance.randint(1, 20), chance.randrange(256)
    body = f"for ((i = 0; i < {count}; i++)); do sleep $mark & done; put 1 'forked\\n'; exit {code}"
    return body, {"exit_code": code, "left_behind": count}


def _escaping(chance: random.Random) -> _Body:
    count, code = chance.randint(1, 5), chance.randrange(256)
    body = (
        f"for ((i = 0; i < {count}; i++)); do setsid sleep $mark & (setsid sleep $mark &); done; "
        f"put 1 'escaped\\n'; sleep {chance.uniform(0, 1):.2f}; exit {code}"
    )
    return body, {"exit_code": code, "left_behind": 2 * count}


def _trapping(chance: random.Random) -> _Body:
    # The trap itself prints nothing: it may come between a piece that is printed and the account of it.
    body = (
        "stop=; trap 'stop=1' TERM; put 1 'ready\\n'; setsid sleep $mark & sleep $mark & "
        "[[ $stop ]] || wait; put 1 'bye\\n'; exit 6"
    )
    return body, {"stop_after_s": chance.uniform(0, 4)}


def _deaf(chance: random.Random) -> _Body:
    body = "trap '' TERM; put 1 'deaf\\n'; setsid sleep $mark & while :; do sleep $mark; done"
    return body, {"stop_after_s": chance.uniform(0, 4), "fields": {"grace_s": 0.3}}


def _crowd(chance: random.Random) -> _Body:
    body = f"for ((i = 0; i < {chance.randint(20, 100)}; i++)); do sleep $mark & done; put 2 'crowd\\n'; wait"
    return body, {"stop_after_s": chance.uniform(0, 4)}


def _paused(chance: random.Random) -> _Body:
    return "put 1 'pausing\\n'; kill -STOP $$; sleep $mark", {"stop_after_s": chance.uniform(0, 4)}


def _crashing(chance: random.Random) -> _Body:
    number = chance.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
    return f"put 1 'crashing\\n'; setsid sleep $mark & kill -{int(number)} $$; sleep $mark", {"signal": int(number)}


def _slow(chance: random.Random) -> _Body:
    """Longer than its timeout."""
    fields = {"timeout_s": chance.uniform(0.2, 3), "grace_s": 0.3}
    return "put 1 'slow\\n'; setsid sleep $mark & sleep $mark", {"fields": fields}


# kind → (weight, its script)
_KINDS = {
    "quick": (6, _quick),
    "counting": (4, _counting),
    "noisy": (3, _noisy),
    "forking": (2, _forking),
    "escaping": (3, _escaping),
    "trapping": (3, _trapping),
    "deaf": (2, _deaf),
    "crowd": (1, _crowd),
    "paused": (1, _paused),
    "crashing": (2, _crashing),
    "slow": (2, _slow),
}
