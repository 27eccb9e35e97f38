"""Secrets as they lie in rows and journals: encrypted, and proven to be as they were.

A worker has the standard library alone, which has no cipher, but has a keyed hash that is proven to be a pseudo-random
function: BLAKE2b (RFC 7693, section 2.9). So the text is added to the stream that such a hash gives of a counter, under
a key that a new nonce gives (counter mode), and a second key proves nonce and text (encrypt, then authenticate).
``hashlib`` is dear to import; it is when there is a secret.
"""

import os

KEY_BYTES = 32
_NONCE_BYTES = 24
_TAG_BYTES = 32
_BLOCK_BYTES = 64


class NotOurs(Exception):
    """It was sealed with another key, or changed since."""


def key_of(text: str) -> bytes:
    """A key as it is written down; raises ``ValueError``."""
    import base64

    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:  # of base64, or of what is no ASCII
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"must be {KEY_BYTES} bytes in base64, as openssl rand -base64 {KEY_BYTES} gives them")
    return key


def seal(key: bytes, plain: bytes) -> bytes:
    """``plain``, to be read with this key alone: nonce, text, proof. The same text never looks the same twice."""
    nonce = os.urandom(_NONCE_BYTES)
    text = _combine(plain, _stream(key, nonce, len(plain)))
    return nonce + text + _tag(key, nonce + text)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """What was sealed; raises ``NotOurs``."""
    import hmac

    body, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
    if len(body) < _NONCE_BYTES or not hmac.compare_digest(tag, _tag(key, body)):
        raise NotOurs("the secrets were sealed with another key")
    nonce, text = body[:_NONCE_BYTES], body[_NONCE_BYTES:]
    return _combine(text, _stream(key, nonce, len(text)))


def fingerprint(key: bytes, plain: bytes) -> bytes:
    """Tells one text from another to who has the key, and nothing to anybody else."""
    return _keyed(key, b"fingerprint", plain, 32)


def _stream(key: bytes, nonce: bytes, length: int) -> bytes:
    once = _keyed(key, b"encrypt", nonce, KEY_BYTES)
    blocks = range(-(-length // _BLOCK_BYTES))
    return b"".join(_keyed(once, b"stream", number.to_bytes(8, "big"), _BLOCK_BYTES) for number in blocks)[:length]


def _tag(key: bytes, body: bytes) -> bytes:
    return _keyed(key, b"authenticate", body, _TAG_BYTES)


def _keyed(key: bytes, purpose: bytes, content: bytes, length: int) -> bytes:
    from hashlib import blake2b

    return blake2b(content, key=key, person=purpose, digest_size=length).digest()


def _combine(one: bytes, other: bytes) -> bytes:
    length = len(one)
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(length, "big")
