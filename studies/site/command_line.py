"""The reference of the command line, from its parsers."""

from __future__ import annotations

import argparse

import studies.__main__ as of_studies
import vitdm.__main__ as of_library

INTRODUCTION = """# Command line

`vitdm` is the library's, `python -m studies` what the article measures with it; the rules of the
workflow call both. `--help` after a command prints what stands here. Wrong input ends with one
message that says what would be right, and exit status 2.
"""


def command_line() -> str:
    """Return the page: usage, example, arguments and options of each command."""
    text = [INTRODUCTION]
    for module in (of_library, of_studies):
        parser = module.parser()
        text.append(f"## {parser.prog}\n\n{parser.description}\n")
        for name, command in _commands(parser).items():
            text.append(_command(f"{parser.prog} {name}", command, module.COMMANDS[name].EXAMPLE))
    return "\n".join(text)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands by their names; none if it has no commands."""
    listed = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return listed[0].choices if listed else {}


def _command(name: str, parser: argparse.ArgumentParser, example: str) -> str:
    """Return the section of a command, with a table for each of its own commands if it has any."""
    head = f"### {name}\n\n{parser.description}\n\n```sh\n{example}\n```\n\n"
    if own := _commands(parser):
        tables = (f"`{name} {k}`: {p.description}\n\n{_table(p)}" for k, p in own.items())
        return head + "\n".join(tables)
    return head + _table(parser)


def _table(parser: argparse.ArgumentParser) -> str:
    """Return the table of arguments and options."""
    rows = ["| | default | meaning |", "|---|---|---|"]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.dest != "help"]
        if actions and group.title not in ("positional arguments", "options"):
            rows.append(f"| *{group.title}* | | |")
        rows += [_row(action) for action in actions]
    return "\n".join(rows) + "\n" if len(rows) > 2 else ""


def _row(action: argparse.Action) -> str:
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    value = " ".join(value) if isinstance(value, tuple) else value
    takes_none = action.nargs == 0
    several = "…" if action.nargs in ("+", "*") else ""
    names = ", ".join(action.option_strings)
    shown = f"{names} {'' if takes_none else value + several}".strip()
    needed = action.required and action.option_strings
    known = action.default not in (None, argparse.SUPPRESS, [], {}) and not takes_none
    default = "*needed*" if needed else f"`{_plain(action)}`" if known else ""
    told = " ".join((action.help or "").split()).replace("(default: %(default)s)", "")
    told = told.replace("%%", "%").strip().replace("|", "\\|").replace("<", "&lt;")
    return f"| `{shown}` | {default} | {told} |".replace("`|", "`\\|")


def _plain(action: argparse.Action) -> str:
    """Return a default as it would be given on the command line."""
    if isinstance(action.default, (list, tuple)):
        return ("/" if action.metavar == "K/N" else " ").join(map(str, action.default))
    return str(action.default)
