"""One command for each method of training; all are made alike."""

import os
import sys
from typing import Any

import click

from tunesmith import summary
from tunesmith.commands.options import EXPERIMENT, OVERRIDABLE, experiment_argument, json_option
from tunesmith.config import Experiment
from tunesmith.errors import ConfigError
from tunesmith.progress import Progress
from tunesmith.train import launch
from tunesmith.train.team import Parallel, joined, team

NPROC = "Processes that share each batch, at most one for each CUDA device, or for each core of a CPU."
PARALLEL = "Whether each process holds all weights (ddp) or a share of them (fsdp, on CUDA)."

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
    @click.option("--nproc", default=1, type=click.IntRange(min=1), help=NPROC)
    @click.option("--parallel", default="ddp", type=click.Choice(["ddp", "fsdp"]), help=PARALLEL)
    @json_option
    def command(experiment: Experiment, nproc: int, parallel: Parallel) -> tuple[Any, str]:
        if experiment.method.kind != kind:
            where, other = experiment.where("method", "kind"), experiment.method.kind
            raise ConfigError(f"{where}: is {other}; run `tunesmith {other}`, or name an experiment of method {kind}")
        if team().size == nproc == 1 and parallel == "ddp":
            return train(experiment)
        return train_together(experiment, nproc, parallel)

    return command


def train(experiment: Experiment) -> tuple[Any, str]:
    """Train and score in this process, and say what came out."""
    if team().size == 1:
        see_one_device()
    from tunesmith import pipeline

    with Progress() as progress:
        run_id, trained, scores = pipeline.train_one(experiment, progress)
    value = {"run_id": run_id, "overfit": trained.overfit, **trained.metrics, **scores.metrics}
    return value, summary.training_text(run_id, trained, scores)


def see_one_device() -> None:
    """Let a process that trains alone see one CUDA device: transformers would split its batches over all by itself."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.partition(",")[0]


def train_together(experiment: Experiment, nproc: int, parallel: Parallel) -> tuple[Any, str]:
    """Start the processes; in each of them, do its part. Only process 0 has something to say."""
    if team().size == 1:
        launch.check(experiment, nproc, parallel)
        launch.launch(sys.argv[1:], experiment, nproc, parallel)
        raise click.exceptions.Exit(0)
    with joined(experiment.model, nproc) as own:
        if own.leads:
            return train(experiment)
        from tunesmith import pipeline

        pipeline.assist_one(experiment)
        raise SystemExit(0)


TRAINING = tuple(command_of(kind) for kind in METHODS)
