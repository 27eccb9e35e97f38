"""The words and their arguments."""

from __future__ import annotations

import argparse
from typing import NoReturn

from client.cli import exits

SHELLS = ("bash", "zsh", "fish")


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(exits.USAGE, f"bashd: {message} ({self.prog} --help)\n")


def parser() -> Parser:
    """All words that ask a service."""
    top = Parser(
        prog="bashd",
        description="Asks the service of this machine, or the one that BASHD_URL names, with the token BASHD_TOKEN.",
        allow_abbrev=False,
    )
    words = top.add_subparsers(dest="word", required=True, metavar="WORD")

    def word(name: str, help_: str, *, json: str | None = "print JSON") -> argparse.ArgumentParser:
        one = words.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".", allow_abbrev=False)
        if json is not None:
            one.add_argument("--json", action="store_true", help=json)
        return one

    _run(word("run", "run a script, show what it prints, exit as it does", json="print its events, one JSON a line"))
    ps = word("ps", "list the commands that run or wait", json="print one JSON array")
    ps.add_argument("-a", "--all", action="store_true", help="those that have ended too")
    ps.add_argument("-n", "--limit", type=count, default=50, metavar="COUNT", help="at most so many, the newest (50)")
    ps.add_argument("--name", help="those with this name")
    ps.add_argument("--label", action="append", metavar="NAME:VALUE", help="those with this label; may be repeated")
    _id(word("show", "show all that is known of a command"))
    logs = word("logs", "print what a command has printed", json="print its events, one JSON a line, to its end")
    _id(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on until it has ended")
    logs.add_argument("-n", "--tail", type=count, metavar="LINES", help="the last lines alone")
    logs.add_argument("-t", "--timestamps", action="store_true", help="begin each line with its time and stream")
    logs.add_argument("--stream", choices=("both", "stdout", "stderr"), default="both", help="one stream alone")
    stop = word("stop", "stop commands with all that they started, and wait until they have ended")
    stop.add_argument("ids", type=count, nargs="+", metavar="ID")
    stop.add_argument("--signal", metavar="SIGNAL", help="instead of TERM")
    stop.add_argument("--grace", type=seconds, metavar="SECONDS", help="before KILL")
    send = word("signal", "send the group of a command a signal")
    _id(send)
    send.add_argument("signal", metavar="SIGNAL", help="USR1, or a number")
    again = word("rerun", "run the same again, as run does", json="print its events, one JSON a line")
    _id(again)
    again.add_argument("-d", "--detach", action="store_true", help="print its id and do not wait")
    wait = word("wait", "wait until a command has ended, and exit as it did")
    _id(wait)
    wait.add_argument("--timeout", type=seconds, metavar="SECONDS", help="give up then, with exit status 124")
    top_word = word("top", "watch the processes of all commands", json="print them once, as JSON")
    top_word.add_argument("--once", action="store_true", help="print them once")
    _token(word("token", "print this machine's token; make, list and end others", json=None))
    completion = word("completion", "print what makes a shell complete these words", json=None)
    completion.add_argument("shell", choices=SHELLS)
    return top


def _token(token: argparse.ArgumentParser) -> None:
    words = token.add_subparsers(dest="of_token", metavar="create | list | rotate | revoke")

    def word(name: str, help_: str) -> argparse.ArgumentParser:
        one = words.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".", allow_abbrev=False)
        one.add_argument("--json", action="store_true", help="print JSON")
        return one

    create = word("create", "make a token and print its secret, which nobody can find out again")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--scope", choices=("read", "run", "admin"), default="run", help="what it may do (run)")
    create.add_argument("--expires-in", type=seconds, metavar="SECONDS", help="until then; without it for ever")
    word("list", "list all tokens, without their secrets")
    word("rotate", "give a token another secret and print it; the old one is nothing any more").add_argument(
        "name", metavar="NAME"
    )
    word("revoke", "end a token for ever").add_argument("name", metavar="NAME")


def _run(run: argparse.ArgumentParser) -> None:
    run.usage = "bashd run [OPTION ...] SCRIPT [ARG ...]\n       bashd run [OPTION ...] -f FILE [ARG ...]"
    run.add_argument("-f", "--file", metavar="FILE", help="the script is in a file; - is our standard input")
    run.add_argument("-d", "--detach", action="store_true", help="print its id and do not wait")
    run.add_argument(
        "--timeout", type=seconds_or_none, default=..., metavar="SECONDS", help="stop it then; none: never"
    )
    run.add_argument("--grace", type=seconds, metavar="SECONDS", help="between TERM and KILL")
    run.add_argument("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="a variable, or ours")
    run.add_argument(
        "--secret", action="append", default=[], metavar="NAME", help="a variable of ours that is not recorded"
    )
    run.add_argument("--cwd", metavar="DIRECTORY", help="where it runs; else in a directory of its own")
    run.add_argument("--name", help="to find it again")
    run.add_argument("--label", action="append", default=[], metavar="NAME:VALUE", help="to find it again")
    run.add_argument("-i", "--stdin", action="store_true", help="give it our standard input")
    run.add_argument("--merge-stderr", action="store_true", help="one stream, in the exact order")
    run.add_argument("--run-as", metavar="USER", help="another user; only when Bashd runs as root")
    run.add_argument(
        "--output-limit", type=count, metavar="BYTES", help="how much of each stream is kept (1 GiB; detached 16 MiB)"
    )
    run.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="SCRIPT [ARG ...]", help="all behind it is the script's"
    )


def _id(word: argparse.ArgumentParser) -> None:
    word.add_argument("id", type=count, metavar="ID")


def count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3e8:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def seconds_or_none(text: str) -> float | None:
    return None if text == "none" else seconds(text)
