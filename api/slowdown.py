"""Wrong tokens take longer and longer to be refused, address by address; a right one is never held up."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

FREE = 100  # attempts of an address that cost it nothing: programs with an old token come by the dozen
FORGIVEN_PER_S = 1.0
STEP_S = 0.02  # each attempt beyond takes so much longer than the one before
LONGEST_S = 2.0
MOST_ADDRESSES = 10_000  # remembered; the one that was quiet for longest is forgotten first


class Slowdown:
    """How often each address was wrong of late."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address → how often, and when counted

    def __len__(self) -> int:
        return len(self._wrong)

    def wrong(self, address: str) -> float:
        """Note an attempt; for how many seconds its answer is to be held back."""
        network = _network(address)
        now = self._clock()
        before, counted_at = self._wrong.pop(network, (0.0, now))
        often = max(0.0, before - (now - counted_at) * FORGIVEN_PER_S) + 1
        self._wrong[network] = (often, now)
        if len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)
        return min(LONGEST_S, max(0.0, often - FREE) * STEP_S)


def _network(address: str) -> str:
    """An IPv6 address stands for its /64: who has one has them all."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
