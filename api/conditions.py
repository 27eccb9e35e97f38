"""What is selected, in SQL: where from, and under which conditions."""

from __future__ import annotations

from typing import Any

from api.selection import SEARCHED, Selection


def conditions_of(selection: Selection) -> tuple[str, list[str], list[Any]]:
    """Where from, and under which conditions and values beside the status; rows are called ``c``."""
    source = "commands c"
    conditions: list[str] = []
    values: list[Any] = []
    if selection.text is not None:
        source = f"(select * from commands order by id desc limit {SEARCHED}) c"  # noqa: S608  (a number of ours)
        conditions.append("strpos(lower(c.script), lower(%s)) > 0")
        values.append(selection.text)
    for number, label in enumerate(selection.labels):
        source += f" join labels l{number} on l{number}.command_id = c.id"
        conditions.append(f"l{number}.name = %s and l{number}.value = %s")
        values += label
    if selection.name is not None:
        conditions.append("c.name = %s")
        values.append(selection.name)
    for at, comparison in ((selection.since, ">="), (selection.until, "<")):
        if at is not None:
            conditions.append(f"c.created_at {comparison} %s")
            values.append(at)
    after = selection.after
    if after is not None and after.created_at is not None:
        conditions.append("(c.created_at, c.id) < (%s, %s)")
        values += [after.created_at, after.id]
    elif after is not None:
        conditions.append("c.id < %s")
        values.append(after.id)
    return source, conditions, values


def branches_of(statuses: tuple[str, ...], live: dict[int, str]) -> list[tuple[list[str], list[Any]]]:
    """Conditions and values, of which a command fulfils one at most; without statuses there is one for all."""
    if not statuses:
        return [([], [])]
    branches: list[tuple[list[str], list[Any]]] = [
        (["c.status = %s", "not c.id = any(%s)"], [status, list(live)]) for status in statuses
    ]
    return [*branches, (["c.id = any(%s)"], [[one for one, now in live.items() if now in statuses]])]
