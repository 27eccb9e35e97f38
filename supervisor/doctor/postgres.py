"""The database: one of the operator's own, asked once, or the embedded one, whose binaries are found and tried."""

from __future__ import annotations

import os
from collections.abc import Iterator

from protocol.places import Places
from supervisor import cluster, database
from supervisor.doctor.finding import Finding, failed, ok, warning
from supervisor.settings import Settings


def findings(settings: Settings, places: Places) -> Iterator[Finding]:
    """Of the database that ``bashd serve`` would use with these settings."""
    if settings.database_url is not None:
        yield _external(settings.database_url.get_secret_value())
    else:
        yield from _embedded(settings.pg_user, places)


def _external(conninfo: str) -> Finding:
    try:
        silence = database.check(conninfo)
    except database.DatabaseError as error:
        return failed("database", str(error), "mend what it says; bashd serve would refuse to start")
    if silence is not None:
        return warning(
            "database",
            f"it does not answer: {silence}",
            "bashd serve starts without it and answers 503 until it is there; look at its address and its server",
        )
    return ok("database", "it answers, and what is to be created may be created")


def _embedded(pg_user: str | None, places: Places) -> Iterator[Finding]:
    try:
        found = cluster.find_binaries()
        owner = cluster.owner_of(pg_user)
        chosen = cluster.choose(found, os.path.join(places.postgres, "data"))
    except (cluster.ClusterError, OSError) as error:
        yield failed("embedded PostgreSQL", str(error), "mend what it says, or set database_url")
        return
    others = dict.fromkeys(f"{one.major} in {one.directory}" for one in found if one != chosen)
    yield ok(
        "embedded PostgreSQL",
        f"version {chosen.major} in {chosen.directory}" + (f"; there is {', '.join(others)} too" if others else ""),
    )
    trouble = cluster.trouble_with(chosen, owner)
    if owner is None:
        if trouble is not None:
            yield failed("PostgreSQL runs", trouble, "install its libraries, or set PG_BINDIR or database_url")
        else:
            yield ok("PostgreSQL runs", "its programs can be executed")
    elif trouble is not None:
        yield ok(
            "PostgreSQL runs", f"user {owner.pw_name} cannot reach its programs: they are copied at the first start"
        )
    else:
        yield ok("PostgreSQL runs", f"user {owner.pw_name} can execute its programs")
