"""Draws docs/cli/session.svg from a real session on a pseudo-terminal: ``make picture``.

It starts a service of its own, in a directory that is gone afterwards.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.processes import Service, adopt_orphans, eventually
from tests.terminal import Terminal, environment

PICTURE = Path(__file__).with_name("session.svg")
COLUMNS = 92
SESSION = (
    "bashd run 'echo out; echo err >&2; exit 7'; echo \"→ $?\"",
    "bashd run --detach --name nightly --label team:infra 'sleep 60 & setsid sleep 60 & wait'",
    "bashd top --once",
    "bashd stop 2; bashd ps --all",
    'bashd wait 2; echo "→ $?"',
)


def main() -> None:
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="bashd-picture-") as directory:
        Path(directory).chmod(0o711)
        with Service(Path(directory) / "state").start() as service:
            shown = Text()
            for line in SESSION:
                shown.append("$ ", style="bold green").append(line + "\n").append(_session(service, line))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(shown)
    PICTURE.write_text(console.export_svg(title="bashd", unique_id="bashd") + "\n")


def _session(service: Service, line: str) -> Text:
    one = Terminal(["/bin/bash", "--norc", "-c", f"stty cols {COLUMNS}; {line}"], environment(service))
    try:
        eventually(lambda: one.ended() is not None, within_s=60)
        text = "\n".join(row.rstrip() for row in one.screen.replace("\r\n", "\n").split("\n"))
        return Text.from_ansi(text.strip("\n")).append("\n")
    finally:
        one.close()


if __name__ == "__main__":
    main()
