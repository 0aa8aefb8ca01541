"""The command line: parse, load, call one function, print the result.

Nothing heavy is imported before a command runs, so `--help` and configuration errors are instant.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, Literal

import click

from tunesmith import summary
from tunesmith.commands.compare import compare
from tunesmith.commands.data import data
from tunesmith.commands.labels import labels
from tunesmith.commands.options import EXPERIMENT, OVERRIDABLE, POLICY, experiment_argument, json_option
from tunesmith.commands.promotion import copy, history, promote, replay, require_pass, rollback
from tunesmith.commands.shortlist import shortlist
from tunesmith.commands.study import study
from tunesmith.commands.training import TRAINING
from tunesmith.config import Experiment, Policy, SearchSpace
from tunesmith.config.overrides import apply, parse_assignments
from tunesmith.errors import ConfigError, OutcomeError, Terminated, TunesmithError
from tunesmith.progress import Progress
from tunesmith.sweep import forkserver

SPACE = "search_spaces/sft.yaml"
TRIALS = 16

INTERRUPTED, TERMINATED = 130, 143  # as shells report SIGINT and SIGTERM


class OneLineErrors(click.Group):
    """Reports a `TunesmithError` as one line, without a traceback, with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except TunesmithError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as stop:
            again = "; go on with the same command and --resume (mlflow run: -P resume=yes)"
            click.echo(f"interrupted{again if ctx.invoked_subcommand == 'sweep' else ''}", err=True)
            ctx.exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="tunesmith")
def main() -> None:
    """Tunesmith finds, proves and promotes fine-tuned language models, every step an MLflow run.

    Start with `tunesmith doctor`, then `tunesmith plan`, then `mlflow run . -e sweep`.
    """
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT asks transformers for it
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a kernel that nothing here needs
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # the traceback of what it also raises


@main.command()
@click.option("--reap", is_flag=True, help="End runs whose process is gone; restore statuses that MLflow overwrote.")
@json_option
def doctor(reap: bool) -> tuple[Any, str]:
    """Check versions, device, tracking store, disk, environment managers and stale runs."""
    from tunesmith import doctor as doctors

    findings = doctors.examine(reap=reap)
    if any(finding.severity == "error" for finding in findings):
        click.echo(summary.doctor_text(findings))
        raise OutcomeError("the checks marked ✗ must be mended first")
    return [vars(finding) for finding in findings], summary.doctor_text(findings)


def yes_or_no(name: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A flag that `mlflow run` can pass too, as `-P name=yes`."""
    return click.option(
        name, default="no", flag_value="yes", is_flag=False, type=click.Choice(["yes", "no"]), help=text
    )


@main.command(context_settings=OVERRIDABLE)
@experiment_argument()
@yes_or_no("--model", "Also ask the base model what it finds trivial or impossible (minutes on a CPU).")
@yes_or_no("--curate", "Write the rows that pass, and a ledger of what was done to the others.")
@click.option(
    "--out",
    default="",
    help="Where --curate writes the rows; the ledger goes beside it. A new name beside the source if empty.",
)
@click.option("--html", default="", help="Also write the report as an HTML page to this file.")
@click.option("--no-log", is_flag=True, help="Log no run to MLflow.")
@json_option
def audit(experiment: Experiment, model: str, curate: str, out: str, html: str, no_log: bool) -> tuple[Any, str]:
    """Report on the data of EXPERIMENT; fails beyond the limits of its `data.audit`."""
    from tunesmith.audit import desk
    from tunesmith.audit import report as reports

    with Progress() as progress:
        if curate == "yes":
            curated, written, ledger = desk.curate_experiment(experiment, progress, out=out)
            value = {"kept": len(curated.kept), "of": len(curated.source), "out": written, "ledger": ledger}
            return {**value, "counts": curated.counts()}, summary.curation_text(curated, written, ledger)
        found = desk.audit_and_log(experiment, progress, model=model == "yes", page=html, log=not no_log)
    if not found.passed:
        click.echo(summary.audit_text(found))
        raise OutcomeError(f"{experiment.path}: the data is beyond the limits of data.audit")
    return reports.value(found), summary.audit_text(found)


@main.command(context_settings=OVERRIDABLE)
@experiment_argument()
@json_option
def plan(experiment: Experiment) -> tuple[Any, str]:
    """Show what training EXPERIMENT would do: rows, tokens, steps, memory, loss mask. Trains nothing."""
    from tunesmith.train.plan import make_plan

    made = make_plan(experiment)
    return {"config": experiment.tree(), **vars(made)}, summary.plan_text(experiment, made)


@main.command(context_settings=OVERRIDABLE)
@experiment_argument()
@click.option("--space", default=SPACE, help="Search space file.")
@click.option("--policy", default=POLICY, help="Registry policy file.")
@click.option(
    "--trials", default=TRIALS, type=click.IntRange(min=1), help="Trials in all, grid and pruned ones included."
)
@click.option(
    "--max-hours",
    default=0.0,
    type=click.FloatRange(min=0),
    help="Begin no trial after so long, counted anew by --resume; 0: no limit.",
)
@click.option("--target", default=0.0, type=click.FloatRange(min=0), help="Begin no trial once one has this tune loss.")
@click.option(
    "--warm-start", default=0, type=click.IntRange(min=0), help="Trials, of all, that repeat earlier sweeps' winners."
)
@click.option(
    "--resume",
    default="no",
    flag_value="yes",
    is_flag=False,
    type=click.Choice(["yes", "no"]),
    help="Go on with the newest sweep of this experiment: an interrupted one, or a finished one with more --trials.",
)
@click.option("--allow-drift", is_flag=True, help="With --resume: go on although data, space or model were changed.")
@json_option
def sweep(experiment: Experiment, space: str, policy: str, **options: Any) -> tuple[Any, str]:
    """Search, confirm the best on fresh seeds, and register the winner as candidate.

    There is one worker for each CUDA device, so trials take no --nproc.
    """
    loaded_space, loaded_policy = SearchSpace.from_yaml(space), Policy.from_yaml(policy)
    forkserver.start()  # before this process loads what it needs: the two take about as long
    from tunesmith import pipeline
    from tunesmith.sweep.budget import Budget
    from tunesmith.sweep.opening import Resume

    limits = options["max_hours"] or None, options["target"] or None
    budget = Budget(options["trials"], *limits, warm_start=options["warm_start"])
    resume = Resume(options["resume"])
    if options["allow_drift"] and resume is Resume.YES:
        resume = Resume.DESPITE_DRIFT
    with Progress() as progress:
        outcome = pipeline.sweep(experiment, loaded_space, loaded_policy, progress, budget=budget, resume=resume)
    return summary.sweep_value(outcome), summary.sweep_text(outcome, experiment, loaded_policy)


@main.command("main", context_settings=OVERRIDABLE)
@experiment_argument()
@click.option("--space", default=SPACE, help="Search space file.")
@click.option("--policy", default=POLICY, help="Registry policy file.")
@click.option(
    "--trials", default=TRIALS, type=click.IntRange(min=1), help="Trials in all, grid and pruned ones included."
)
@json_option
def whole_story(experiment: Experiment, space: str, policy: str, trials: int) -> tuple[Any, str]:
    """Everything in one run: audit, base scores, sweep, registration, gate, promotion."""
    loaded_space, loaded_policy = SearchSpace.from_yaml(space), Policy.from_yaml(policy)
    forkserver.start()  # before this process loads what it needs: the two take about as long
    from tunesmith import pipeline
    from tunesmith.sweep.budget import Budget

    with Progress() as progress:
        budget = Budget(trials)
        outcome, verdict, move = pipeline.main(experiment, loaded_space, loaded_policy, progress, budget=budget)
    click.echo(summary.sweep_text(outcome, experiment, loaded_policy), err=True)
    champion = require_pass(verdict, move, loaded_policy)
    value = {**summary.sweep_value(outcome), "champion": champion.version}
    return value, summary.promotion_text(loaded_policy, champion, verdict)


@main.command()
@click.argument("model")
@click.option("--experiment", default=EXPERIMENT, help="Experiment whose tasks and rows are used.")
@click.option("--split", default="tune", type=click.Choice(["tune", "bench", "holdout"]), help="Rows to score on.")
@click.option("--suite", default="", help="Score only this task or suite; all of them if empty.")
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field.")
@json_option
def evaluate(
    model: str, experiment: str, split: Literal["tune", "bench", "holdout"], suite: str, assignments: tuple[str, ...]
) -> tuple[Any, str]:
    """Score MODEL (a run id, or `models:/NAME@ALIAS`) beside its base.

    On the holdout only registered versions are scored: the ledger notes the use, and the scores become evidence
    that later candidates are judged by.
    """
    loaded = apply(Experiment.from_yaml(experiment), parse_assignments(assignments))
    if suite and split == "holdout":
        raise ConfigError("--suite: the holdout is scored as a whole, so that gates can judge by it; leave --suite out")
    from tunesmith import pipeline, rescore

    with Progress() as progress:
        if split == "holdout":
            base, scores = rescore.rescore(model, loaded, progress)
        else:
            base, scores = pipeline.evaluate(model, loaded, progress, split=split, only=suite)
    return {"base": dict(base.metrics), "model": dict(scores.metrics)}, summary.comparison_text(base, scores)


for command in (*TRAINING, compare, data, labels, shortlist, study, promote, rollback, history, copy, replay):
    main.add_command(command)


if __name__ == "__main__":
    sys.exit(main())
