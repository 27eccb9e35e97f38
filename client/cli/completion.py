"""What a shell has to know to complete our words: made from the parser, so that it cannot lag behind."""

from __future__ import annotations

import argparse

from client.cli import words

# They belong to the launcher, which is not ours to look into.
OF_THE_LAUNCHER = {
    "serve": "run the service",
    "migrate": "bring the database's schema up to date",
    "doctor": "say what works on this machine, and what does not",
    "export": "write the history as JSON lines",
    "import": "take a history in",
    "backup": "save the embedded database with what belongs to it",
    "restore": "bring a backup into an empty state directory",
    "psql": "open the embedded database",
}
_IDS = "command bashd ps --all --limit 30 2>/dev/null | sed -n 's/^ *\\([0-9][0-9]*\\) .*/\\1/p'"
_TAKES_ID = ("show", "logs", "stop", "signal", "rerun", "wait")
_FILES_FOLLOW = ("-f", "--file", "--cwd")


def script(shell: str) -> str:
    """The script for one of ``words.SHELLS``."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _known() -> dict[str, tuple[str, list[argparse.Action]]]:
    """Each word, what it does, and its arguments."""
    parser = words.parser()
    choices = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    helps = {one.dest: str(one.help) for one in choices._choices_actions}
    own = {name: (helps[name], list(one._actions)) for name, one in choices.choices.items()}
    return {name: (text, []) for name, text in OF_THE_LAUNCHER.items()} | own


def _flags(actions: list[argparse.Action]) -> list[str]:
    return [flag for action in actions for flag in action.option_strings]


def _bash() -> str:
    cases = "\n".join(
        f"        {name}) words='{' '.join(_flags(actions) + _values(actions))}' ;;"
        for name, (_, actions) in _known().items()
    )
    return f"""\
# bashd completion for bash: eval "$(bashd completion bash)"
_bashd() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} words=''
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W '{" ".join(_known())}' -- "$current"))
        return
    fi
    case $previous in {"|".join(_FILES_FOLLOW)}) COMPREPLY=($(compgen -f -- "$current")); return ;; esac
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
    case ${{COMP_WORDS[1]}} in {"|".join(_TAKES_ID)})
        case $current in -*) ;; *) words=$({_IDS}) ;; esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -F _bashd bashd
"""


def _values(actions: list[argparse.Action]) -> list[str]:
    """What may stand for an argument without a flag."""
    return [str(one) for action in actions if not action.option_strings for one in action.choices or ()]


def _zsh() -> str:
    named = "\n".join(f"        '{name}:{_quoted(text)}'" for name, (text, _) in _known().items())
    cases = "\n".join(
        f"        {name}) compadd -- {' '.join(_flags(actions) + _values(actions))} ;;"
        for name, (_, actions) in _known().items()
        if actions
    )
    return f"""\
#compdef bashd
# bashd completion for zsh: bashd completion zsh > a file _bashd in a directory of $fpath
_bashd() {{
    local -a named
    named=(
{named}
    )
    if (( CURRENT == 2 )); then
        _describe 'word' named
        return
    fi
    case $words[CURRENT-1] in {"|".join(_FILES_FOLLOW)}) _files; return ;; esac
    case $words[2] in {"|".join(_TAKES_ID)})
        [[ $words[CURRENT] == -* ]] || compadd -- $({_IDS}) ;;
    esac
    case $words[2] in
{cases}
    esac
}}
if [ "$funcstack[1]" = _bashd ]; then _bashd; else compdef _bashd bashd; fi
"""


def _fish() -> str:
    lines = ["# bashd completion for fish: bashd completion fish > ~/.config/fish/completions/bashd.fish"]
    lines.append("complete -c bashd -f")
    for name, (text, actions) in _known().items():
        lines.append(f"complete -c bashd -n __fish_use_subcommand -a {name} -d '{_quoted(text)}'")
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for action in actions:
            flags = [f"-l {one[2:]}" if one.startswith("--") else f"-s {one[1:]}" for one in action.option_strings]
            if not flags:
                continue
            takes = " -rF" if set(action.option_strings) & set(_FILES_FOLLOW) else " -r" if action.nargs is None else ""
            lines.append(f"complete -c bashd {seen} {' '.join(flags)}{takes} -d '{_quoted(action.help or '')}'")
        if values := _values(actions):
            lines.append(f"complete -c bashd {seen} -a '{' '.join(values)}'")
        if name in _TAKES_ID:
            lines.append(f"complete -c bashd {seen} -a '({_IDS.replace(chr(39), chr(34))})'")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Fit for single quotes, in each of the three."""
    return text.replace("'", "’")
