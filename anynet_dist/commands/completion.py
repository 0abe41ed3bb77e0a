"""Completion of commands and options for bash, zsh or fish.

`anynet completion bash` prints a script. To use it in every shell from now on:

  bash:  anynet completion bash > ~/.local/share/bash-completion/completions/anynet
  zsh:   anynet completion zsh > ~/.anynet.zsh, and in ~/.zshrc after compinit: source ~/.anynet.zsh
  fish:  anynet completion fish > ~/.config/fish/completions/anynet.fish
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

from anynet_dist.commands import command_names, module_name, summary

SHELLS = ("bash", "zsh", "fish")

BASH = """\
_anynet() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands} help --help --version"
    elif [ "$COMP_CWORD" -eq 2 ] && [[ "$current" != -* ]]; then
        case "${{COMP_WORDS[1]}}" in
{actions}
            help) words="{commands}" ;;
        esac
    elif [[ "$current" == -* ]]; then
        case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{options}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _anynet anynet
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument("shell", choices=SHELLS, help="whose script to print")


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    if args.shell == "fish":
        print("\n".join(_fish()))
    else:
        print((ZSH if args.shell == "zsh" else "") + _bash(), end="")


def _parsers() -> dict[tuple[str, ...], argparse.ArgumentParser]:
    """A parser for each command and each action of one."""
    parsers: dict[tuple[str, ...], argparse.ArgumentParser] = {}
    for command in command_names():
        parser = argparse.ArgumentParser()
        importlib.import_module(module_name(command)).configure(parser)
        parsers[command,] = parser
        parsers |= {(command, name): action for name, action in _actions(parser).items()}
    return parsers


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """Its long options, those of a config among them where it takes overrides."""
    names = [name for name in parser._option_string_actions if name.startswith("--")]
    if parser.get_default("overrides") is not None:
        from anynet_dist.config.options import options

        names += [f"--{key}" for key in options()]
    return sorted(names)


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """What may stand in the place of the first argument: actions, or the choices of the argument."""
    positional = next((each for each in parser._actions if not each.option_strings), None)
    return [] if positional is None or positional.choices is None else list(positional.choices)


def _bash() -> str:
    parsers = _parsers()
    actions = [
        f'            {words[0]}) words="{" ".join(_words(parser))}" ;;'
        for words, parser in parsers.items()
        if len(words) == 1 and _words(parser)
    ]
    by_length = sorted(parsers.items(), key=lambda item: -len(item[0]))  # the actions before their command
    options = [
        f'            {_pattern(words)}) words="{" ".join(_options(parser))}" ;;'
        for words, parser in by_length
    ]
    return BASH.format(
        commands=" ".join(command_names()), actions="\n".join(actions), options="\n".join(options)
    )


def _pattern(words: tuple[str, ...]) -> str:
    """Of the first two words: both, or the command with whatever follows."""
    return f'"{words[0]} {words[1]}"' if len(words) == 2 else f'"{words[0]} "*'


def _fish() -> Iterator[str]:
    for command in [*command_names(), "help"]:
        about = "Explain a command" if command == "help" else summary(command)
        about = about.replace("'", "\\'")
        yield f"complete -c anynet -f -n __fish_use_subcommand -a {command} -d '{about}'"
    for words, parser in _parsers().items():
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in words)
        for word in _words(parser) if len(words) == 1 else []:
            yield f"complete -c anynet -f -n '{seen}' -a {word}"
        for option in _options(parser):
            yield f"complete -c anynet -n '{seen}' -l {option[2:]}"
