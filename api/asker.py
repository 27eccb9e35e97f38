"""Who asks: the token and the address behind the request that is being served, known wherever the request leads.

A context variable and no argument: every way by which something is changed has to say for whom, also one that is added
later, and one that forgot to pass it on would write a record without a name (docs/decisions/0061).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

SCOPES = ("read", "run", "admin")  # each includes those before it
OPERATOR = "operator"  # the name of the token of the settings, or of the state directory
ANYBODY = "anybody"  # who asks when no token is needed
RESERVED = frozenset({OPERATOR, ANYBODY})


@dataclass(slots=True)
class Asker:
    """Who sent one request, as far as we know."""

    address: str
    token: str | None = None  # its name; None: none that we know was sent
    scope: str | None = None  # None: may ask for nothing but what is open
    action: str = ""  # the operation that is asked for, once the route is known
    changes: bool = False  # whether that is there to change something
    command_id: int | None = None  # the command that it is about
    recorded: bool = False  # the audit log has it, from the transaction of what was changed
    # Told when the client went away before its answer. It is given this, and holds no request: a circle of references
    # for each of them would be left to the collector.
    on_gone: Callable[[Asker], None] = lambda _asker: None

    def may(self, scope: str) -> bool:
        """Whether its scope is this one or includes it."""
        return self.scope is not None and SCOPES.index(self.scope) >= SCOPES.index(scope)


_current: ContextVar[Asker | None] = ContextVar("asker", default=None)


def current() -> Asker | None:
    """Who sent the request that is being served here; None outside of any."""
    return _current.get()


def enter(asker: Asker) -> None:
    """From here on, in this task and those that it starts, this is who asks."""
    _current.set(asker)


def name() -> str | None:
    """The name of the token of ``current``."""
    asker = _current.get()
    return None if asker is None else asker.token
