"""`sofs completion`: scripts that complete commands, options and names in a shell.

The scripts are made from the parser itself, so they know every command of this version. Names of
shares and volumes are asked for when they are needed (``sofs completion names``): read from the
cluster's root, without asking the leader, which takes some tenths of a second; only for roots that
are folders. Whatever is wrong then completes nothing and says nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from sofs.actors import rundir
from sofs.cli import delegate
from sofs.core.share_table import SHARES_FOLDER, VOLUMES_FOLDER, decode_table, order_of
from sofs.errors import SofsError
from sofs.storage.local import LocalAppendStore

EXAMPLES: Final = """\
examples:
  source <(sofs completion bash)             in this shell
  sofs completion bash > ~/.local/share/bash-completion/completions/sofs
  source <(sofs completion zsh)              in ~/.zshrc, behind compinit
  sofs completion fish > ~/.config/fish/completions/sofs.fish
"""
SHELLS: Final = ("bash", "zsh", "fish")
KINDS: Final = ("share", "volume")
# Whose NAME, and which option's value, is the name of a share or volume.
NAMES: Final = {"share rm": "share", "share change": "share", "volume rm": "volume"}
NAME_OPTIONS: Final = {"--volume": "volume"}
FILE_METAVARS: Final = ("PATH_OR_URL", "DIR", "FILE")


@dataclass(slots=True)
class Command:
    """One command of the tree. ``path`` without the program's name; ``options`` by their spelling:
    None for a switch, else what completes the value: words, or "@files", "@share" and the like."""

    path: str
    help: str = ""
    commands: list[Command] = field(default_factory=list)
    options: dict[str, str | None] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)
    names: str = ""

    def walk(self) -> Iterator[Command]:
        yield self
        for command in self.commands:
            yield from command.walk()


def tree(parser: argparse.ArgumentParser, path: str = "", text: str = "") -> Command:
    """The commands and options of a parser."""
    made = Command(path, text, names=NAMES.get(path, ""))
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, inner in action.choices.items():
                inside = f"{path} {name}".strip()
                own = delegate.parser(name) if not path and name in delegate.COMMANDS else None
                made.commands.append(tree(own or inner, inside, texts.get(name, "")))
        elif action.option_strings:
            for spelling in action.option_strings:
                made.options[spelling] = _value(spelling, action)
        elif action.choices:
            made.choices += [str(choice) for choice in action.choices]
    return made


def _value(spelling: str, action: argparse.Action) -> str | None:
    if action.nargs == 0:
        return None
    if action.choices:
        return " ".join(str(choice) for choice in action.choices)
    if spelling in NAME_OPTIONS:
        return f"@{NAME_OPTIONS[spelling]}"
    files = action.metavar in FILE_METAVARS or spelling in ("--root", "--folder")
    return "@files" if files else ""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "completion",
        help="completion of this command for a shell",
        description="Print a script that completes commands, options and names.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=[*SHELLS, "names"], help="or: names of shares or volumes")
    parser.add_argument("kind", nargs="?", choices=KINDS, help="with names")
    parser.add_argument("--root", metavar="PATH_OR_URL", help="the cluster's root, for names")
    parser.add_argument("--run-dir", metavar="DIR", help="of the cluster, for names")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from sofs.cli.main import build_parser

    if options.shell == "names":
        for name in names(options.kind or "share", options.run_dir, options.root):
            print(name)
        return 0
    script = {"bash": bash, "zsh": zsh, "fish": fish}[options.shell]
    print(script(tree(build_parser())), end="")
    return 0


def names(kind: str, run_dir: str | None, root: str | None) -> list[str]:
    """Shares or volumes of the cluster that is meant, as its root has them; none when it cannot be
    told quickly."""
    try:
        found = rundir.find_run_dir(run_dir, root, os.environ)
        record = rundir.read_run(found) if found is not None else None
        where = root or (record.root if record is not None else "")
        if not where or not os.path.isdir(where.removeprefix("file://")):
            return []
        store = LocalAppendStore(where)
        if kind == "volume":
            keys = store.list(VOLUMES_FOLDER)
            return [key.removeprefix(f"{VOLUMES_FOLDER}/").removesuffix(".json") for key in keys]
        tables = [key for key in store.list(SHARES_FOLDER) if order_of(key) is not None]
        data = store.get(tables[-1]) if tables else None
        if data is None:
            return []
        return [share.name for share in decode_table(data, tables[-1]).shares]
    except (SofsError, OSError):
        return []


# Scripts ----------------------------------------------------------------------------------------

_BASH: Final = """\
# Completion of `sofs` for bash; made by `sofs completion bash`.
_sofs_names() {{
    local i arguments=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${{COMP_WORDS[i]}}" in
            --root|--run-dir) arguments+=("${{COMP_WORDS[i]}}" "${{COMP_WORDS[i + 1]}}") ;;
        esac
    done
    sofs completion names "$1" "${{arguments[@]}}" 2>/dev/null
}}

_sofs() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" path="" words="" kind="" word i skip=0
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${{COMP_WORDS[i]}}"
        if ((skip)); then skip=0; continue; fi
        case "$path:$word" in
{steps}
{valued}
        esac
    done
    if ((skip)); then
        case "$path:$word" in
{values}
        esac
    else
        case "$path" in
{words}
        esac
        [[ $cur == -* ]] || case "$path" in
{names}
        esac
    fi
    case "$kind" in
        @files) COMPREPLY=($(compgen -f -- "$cur")) ;;
        @*) COMPREPLY=($(compgen -W "$(_sofs_names "${{kind#@}}") $words" -- "$cur")) ;;
        *) COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
    esac
}}
complete -o bashdefault -F _sofs sofs
"""


def _cases(cases: list[tuple[str, str]], indent: int = 12) -> str:
    pad = " " * indent
    return "\n".join(f"{pad}{match}) {action} ;;" for match, action in cases) or f"{pad}*) ;;"


def bash(command: Command) -> str:
    """The script for bash."""
    steps, valued, values, words, kinds = [], [], [], [], []
    for one in command.walk():
        for inner in one.commands:
            steps.append((f'"{one.path}:{inner.path.split()[-1]}"', f'path="{inner.path}"'))
        for spelling, value in one.options.items():
            if value is None:
                continue
            match = f'"{one.path}:{spelling}"'
            valued.append((match, "skip=1"))
            values.append((match, f'kind="{value}"' if value[:1] == "@" else f'words="{value}"'))
        own = [inner.path.split()[-1] for inner in one.commands]
        words.append((f'"{one.path}"', f'words="{" ".join([*own, *one.choices, *one.options])}"'))
        if one.names:
            kinds.append((f'"{one.path}"', f'kind="@{one.names}"'))
    return _BASH.format(
        steps=_cases(steps),
        valued=_cases(valued),
        values=_cases(values),
        words=_cases(words),
        names=_cases(kinds),
    )


def zsh(command: Command) -> str:
    """The script for zsh: the one for bash, through zsh's own adapter."""
    adapter = "autoload -U +X bashcompinit && bashcompinit\n"
    return f"# Made by `sofs completion zsh`.\n{adapter}{bash(command)}"


_FISH: Final = """\
# Completion of `sofs` for fish; made by `sofs completion fish`.
function __sofs_at
    set -l path
    for word in (commandline -opc)[2..-1]
        contains -- (string join ' ' -- $path $word) $__sofs_commands; and set -a path $word
    end
    test "$path" = "$argv"
end
set -g __sofs_commands {commands}
complete -c sofs -f
"""


def fish(command: Command) -> str:
    """The script for fish."""
    paths = [one.path for one in command.walk() if one.path]
    lines = [_FISH.format(commands=" ".join(f"'{path}'" for path in paths))]
    for one in command.walk():
        at = f'complete -c sofs -n "__sofs_at {one.path}"'
        for inner in one.commands:
            lines.append(f"{at} -a {inner.path.split()[-1]} -d {_quoted(inner.help)}\n")
        if one.choices:
            lines.append(f"{at} -a {_quoted(' '.join(one.choices))}\n")
        if one.names:
            lines.append(f"{at} -a '(sofs completion names {one.names} 2>/dev/null)'\n")
        for spelling, value in one.options.items():
            if not spelling.startswith("--"):
                continue
            option = f"{at} -l {spelling.removeprefix('--')}"
            if value == "@files":
                option += " -r -F"
            elif value is not None and value.startswith("@"):
                option += f" -x -a '(sofs completion names {value[1:]} 2>/dev/null)'"
            elif value is not None:
                option += f" -x -a {_quoted(value)}" if value else " -x"
            lines.append(f"{option}\n")
    return "".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
