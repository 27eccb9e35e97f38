"""The one file of a backup: a tar with a few members of known names, the first of which says what it is."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO

from supervisor.chores.record import ChoreError

FORMAT = "bashd-backup"
VERSION = 1
MANIFEST, NODE_ID, SECRETS_KEY, DUMP = "manifest.json", "node_id", "secrets_key", "database.dump"
MAX_SMALL_BYTES = 64 * 1024  # of every member but the dump
PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Manifest:
    """What a backup says of itself."""

    bashd_version: str
    schema_version: int
    made_at: str
    dump_sha256: str
    format: str = FORMAT
    version: int = VERSION


@dataclass(frozen=True)
class Backup:
    """A backup that is being read; ``dump`` is read once, and checked by ``copy_dump``."""

    manifest: Manifest
    node_id: str
    secrets_key: str | None
    dump: IO[bytes]

    def copy_dump(self, to: IO[bytes]) -> None:
        """Copy the dump, in pieces. Raises ``ChoreError`` at its end when it is not what was saved."""
        digest = hashlib.sha256()
        while piece := self.dump.read(PIECE_BYTES):
            digest.update(piece)
            to.write(piece)
        if digest.hexdigest() != self.manifest.dump_sha256:
            raise ChoreError("the backup is damaged: its dump is not the one that was saved")


def digest_of(dump: IO[bytes]) -> str:
    """What ``Manifest.dump_sha256`` holds."""
    dump.seek(0)
    digest = hashlib.sha256()
    while piece := dump.read(PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def write(to: IO[bytes], manifest: Manifest, *, node_id: str, secrets_key: str | None, dump: IO[bytes]) -> None:
    """Write a backup. The dump is last, so that whoever reads it knows everything else by then."""
    small = {MANIFEST: json.dumps(asdict(manifest), indent=2) + "\n", NODE_ID: node_id}
    if secrets_key is not None:
        small[SECRETS_KEY] = secrets_key
    with tarfile.open(fileobj=to, mode="w") as tar:
        for name, text in small.items():
            content = text.encode()
            tar.addfile(_member(name, len(content)), io.BytesIO(content))
        size = dump.seek(0, io.SEEK_END)
        dump.seek(0)
        tar.addfile(_member(DUMP, size), dump)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


@contextmanager
def opened(path: str) -> Iterator[Backup]:
    """The backup in this file. Raises ``ChoreError`` for one that is none, or not whole."""
    try:
        source = open(path, "rb")  # noqa: SIM115  (closed below; an error of the body is not one of opening)
    except (OSError, ValueError) as error:
        raise ChoreError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from error
    try:
        with source, tarfile.open(fileobj=source, mode="r:") as tar:
            manifest = _manifest(_small(tar, MANIFEST))
            node_id = _small(tar, NODE_ID)
            secrets_key = _small(tar, SECRETS_KEY) if SECRETS_KEY in tar.getnames() else None
            dump = tar.extractfile(DUMP)
            if node_id is None or dump is None:
                raise ChoreError(f"{path} is no backup of Bashd, or not a whole one")
            yield Backup(manifest, node_id, secrets_key, dump)
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise ChoreError(f"{path} is no backup of Bashd, or not a whole one") from error


def _small(tar: tarfile.TarFile, name: str) -> str:
    member = tar.getmember(name)
    file = tar.extractfile(member)
    if file is None or member.size > MAX_SMALL_BYTES:
        raise KeyError(name)
    return file.read().decode()


def _manifest(text: str) -> Manifest:
    facts = json.loads(text)
    if facts.get("format") != FORMAT:
        raise KeyError("format")
    if facts.get("version") != VERSION:
        raise ChoreError(f"the backup has version {facts.get('version')}, this Bashd knows {VERSION}: use a newer one")
    return Manifest(
        bashd_version=str(facts["bashd_version"]),
        schema_version=int(facts["schema_version"]),
        made_at=str(facts["made_at"]),
        dump_sha256=str(facts["dump_sha256"]),
    )
