"""The client that a person at a terminal waits for: it asks again, and says soon that nobody answers."""

from __future__ import annotations

from client.client import Client

RETRY_FOR_S = 5.0  # nobody answers from the beginning
RUNNING_RETRY_FOR_S = 120.0  # a command runs there, and the service may come back


def client(*, retry_for_s: float = RETRY_FOR_S) -> Client:
    """For the service of this machine, or the one that the environment names."""
    return Client(retry_for_s=retry_for_s)
