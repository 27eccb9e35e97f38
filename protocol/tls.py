"""The certificate and key that HTTPS is served with: tried by the launcher, used by the API."""

from __future__ import annotations

import ssl


def context(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """What a server needs; None without a certificate. Raises ``OSError`` for a pair that cannot work."""
    if cert is None or key is None:
        return None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # Without a word of ours OpenSSL would ask the terminal for that of a key that is encrypted.
    made.load_cert_chain(cert, key, password=lambda: b"")
    return made
