"""From where a request comes: the connection's other end, or what a proxy that we trust says of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from sanic.compat import Header

MOST_HOPS = 32

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The addresses, or networks, whose ``X-Forwarded-*`` are believed."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = [ipaddress.ip_network(one, strict=False) for one in trusted]

    def client(self, peer: str, headers: Header) -> str:
        """The address of the client: read from the right, the first that no trusted proxy has.

        What stands left of it, and everything that other peers send, may be an invention.
        """
        if not self._trusted:
            return peer.removeprefix("::ffff:")  # as it is, without a look at what it means: that is every request's
        found = _address(peer)
        if found is None or not self._is_trusted(found):
            return peer if found is None else str(found)
        hops = [hop.strip() for line in headers.getall("x-forwarded-for", []) for hop in line.split(",")]
        for hop in reversed(hops[-MOST_HOPS:]):
            before = _address(hop)
            if before is None:
                break  # the proxy before the last does not know it either
            found = before
            if not self._is_trusted(found):
                break
        return str(found)

    def scheme(self, peer: str, headers: Header) -> str | None:
        """The scheme that the client used, as the proxy says; None when nobody that we trust does."""
        found = _address(peer)
        if found is None or not self._is_trusted(found):
            return None
        said = headers.getall("x-forwarded-proto", [""])[-1].rpartition(",")[2].strip().lower()
        return said if said in ("http", "https") else None

    def _is_trusted(self, address: _Address) -> bool:
        return any(address.version == one.version and address in one for one in self._trusted)


def _address(text: str) -> _Address | None:
    """An address, as proxies write it: perhaps with a port, perhaps in brackets."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address
