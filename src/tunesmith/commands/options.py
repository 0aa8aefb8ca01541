"""Options that commands share."""

import functools
import json
from collections.abc import Callable
from typing import Any

import click

from tunesmith.config import Experiment
from tunesmith.config.overrides import apply, parse_assignments, parse_extra_arguments

OVERRIDABLE = {"ignore_unknown_options": True, "allow_extra_args": True}
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


def experiment_argument(default: str = EXPERIMENT) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """EXPERIMENT, `--set field=value`, and undeclared `--field value` pairs as `mlflow run -P` appends them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("experiment", default=default)
        @click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field.")
        @functools.wraps(command)
        def wrapped(experiment: str, assignments: tuple[str, ...], **options: Any) -> Any:
            values = parse_assignments(assignments) | parse_extra_arguments(click.get_current_context().args)
            return command(apply(Experiment.from_yaml(experiment), values), **options)

        return wrapped

    return decorate
