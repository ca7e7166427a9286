"""Command lines from frozen dataclasses: one field an option, with its help beside it."""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, fields
from typing import Any


def option(default: Any, text: str, *flags: str, **settings: Any) -> Any:
    """A dataclass field that is an option on the command line.

    Args:
        default: its value where it is not given.
        text: the line of help.
        flags: short and published names, beside the field's own.
        settings: further arguments of `argparse.ArgumentParser.add_argument`.
    """
    return field(default=default, metadata={"flags": flags, "help": text, **settings})


def parse(options: type, description: str, arguments: Sequence[str] | None = None) -> tuple:
    """Read the command line.

    Args:
        options: a dataclass whose fields come from `option`.
        description: of the program, for --help.
        arguments: instead of the program's own.

    Returns:
        The options as an instance of the dataclass, and the parser, whose `error(sentence)` ends
        the program with exit status 2.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for item in fields(options):
        settings = dict(item.metadata)
        own = f"--{item.name.replace('_', '-')}"
        names = (*settings.pop("flags"), own)
        parser.add_argument(*names, dest=item.name, default=item.default, **settings)
    values = vars(parser.parse_args(arguments))
    # Tuples, so that the options as a whole cannot change.
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return options(**values), parser


def choice(choices: Iterable[str], aliases: Mapping[str, str] | None = None) -> Callable:
    """An argument type for one of some names.

    Args:
        choices: the names.
        aliases: further names -> the choices they stand for.
    """
    names = {name: name for name in choices} | dict(aliases or {})

    def parse_name(text):
        if text not in names:
            raise argparse.ArgumentTypeError(f"unknown {text!r}: choose from {', '.join(choices)}")
        return names[text]

    return parse_name


def number(
    kind: type,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Callable:
    """An argument type for numbers in a range.

    Args:
        kind: int or float.
        above: the number must be above this.
        least: the number must be at least this.
        most: the number must be at most this.
    """
    name = {int: "a whole number", float: "a number"}[kind]
    bound = f" above {above}" if above is not None else f" of at least {least}"
    bound += "" if most is None else f" and at most {most}"

    def parse_number(text):
        try:
            value = kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"needs {name}, got {text!r}") from error
        # Written so that NaN is refused.
        in_range = (above is None or value > above) and (least is None or value >= least)
        in_range = in_range and (most is None or value <= most)
        if not (in_range and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"needs {name}{bound}, got {text}")
        return value

    return parse_number
