"""Options that commands share."""

import functools
import json
from collections.abc import Callable
from typing import Any

import click

POLICY = "registry/support-bot.yaml"
EXPERIMENT = "experiments/support.yaml"


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`: print what the command returns as one line instead of as text.

    The command returns a (machine-readable value, text) pair.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print one machine-readable line.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, **options: Any) -> None:
        value, text = command(*args, **options)
        click.echo(json.dumps(value, default=str) if as_json else text)

    return wrapped
