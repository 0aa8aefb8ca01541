"""One command for each method of training; all are made alike."""

from typing import Any

import click

from tunesmith import summary
from tunesmith.commands.options import EXPERIMENT, OVERRIDABLE, experiment_argument, json_option
from tunesmith.config import Experiment
from tunesmith.errors import ConfigError
from tunesmith.progress import Progress

METHODS = {
    "sft": (EXPERIMENT, "Fine-tune once on the assistant's turns, and score the result on the tune split."),
    "dpo": (
        "experiments/support-dpo.yaml",
        "Train once on preference pairs against the reference policy, and score the result on the tune split.",
    ),
    "kto": (
        "experiments/support-kto.yaml",
        "Train once on replies that are wanted or not, and score the result on the tune split.",
    ),
    "reward": (
        "experiments/support-reward.yaml",
        "Train a reward model on preference pairs; its score is how many tune pairs it ranks right.",
    ),
    "rlhf": (
        "experiments/support-rlhf.yaml",
        "Train a policy by reinforcement from a reward model, and compare its replies to tune prompts with before.",
    ),
}
"""Each method's own experiment, and what its command says of itself."""


def command_of(kind: str) -> click.Command:
    """The command that trains once by a method."""
    example, text = METHODS[kind]

    @click.command(kind, context_settings=OVERRIDABLE, help=text)
    @experiment_argument(example)
    @json_option
    def command(experiment: Experiment) -> tuple[Any, str]:
        if experiment.method.kind != kind:
            where, other = experiment.where("method", "kind"), experiment.method.kind
            raise ConfigError(f"{where}: is {other}; run `tunesmith {other}`, or name an experiment of method {kind}")
        from tunesmith import pipeline

        with Progress() as progress:
            run_id, trained, scores = pipeline.train_one(experiment, progress)
        value = {"run_id": run_id, "overfit": trained.overfit, **trained.metrics, **scores.metrics}
        return value, summary.training_text(run_id, trained, scores)

    return command


TRAINING = tuple(command_of(kind) for kind in METHODS)
