"""The crash monkey for half a minute; ``python -m bench.monkey`` goes on for as long as one likes."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from bench.monkey import trial


def test_nothing_accepted_is_forgotten_whatever_is_killed(place: Path) -> None:
    """Random scripts, random kills: what each script wrote of itself is what Bashd recorded of it."""
    own_place = Path(tempfile.mkdtemp(prefix="monkey-", dir=place))
    own_place.chmod(0o711)
    seed = random.SystemRandom().randrange(10**6)

    report = trial.run(own_place, seed=seed, seconds=30)

    assert report.violations == [], f"python -m bench.monkey --minutes 0.5 --seed {seed}\n{report.table()}"
    assert sum(report.blows.values()) >= 15, report.table()
    assert sum(report.outcomes.values()) >= 30, report.table()
