"""The command line: parse, load, call one function, print the result.

Nothing heavy is imported before a command runs, so `--help` and configuration errors are instant.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

import click

from tunesmith import summary
from tunesmith.config import Experiment, Policy, SearchSpace
from tunesmith.config.overrides import apply, parse_assignments, parse_extra_arguments
from tunesmith.errors import OutcomeError, TunesmithError
from tunesmith.progress import Progress

EXPERIMENT, SPACE, POLICY = "experiments/support.yaml", "search_spaces/sft.yaml", "registry/support-bot.yaml"
TRIALS = 6

OVERRIDABLE = {"ignore_unknown_options": True, "allow_extra_args": True}


class OneLineErrors(click.Group):
    """Reports a `TunesmithError` as one line, without a traceback, with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except TunesmithError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="tunesmith")
def main() -> None:
    """Tunesmith finds, proves and promotes fine-tuned language models, every step an MLflow run.

    Start with `tunesmith doctor`, then `tunesmith plan`, then `mlflow run . -e sweep`.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


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


def experiment_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """EXPERIMENT, `--set field=value`, and undeclared `--field value` pairs as `mlflow run -P` appends them."""

    @click.argument("experiment", default=EXPERIMENT)
    @click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field.")
    @functools.wraps(command)
    def wrapped(experiment: str, assignments: tuple[str, ...], **options: Any) -> Any:
        values = parse_assignments(assignments) | parse_extra_arguments(click.get_current_context().args)
        return command(apply(Experiment.from_yaml(experiment), values), **options)

    return wrapped


@main.command()
@click.option("--reap", is_flag=True, help="End runs whose process is gone; restore statuses that MLflow overwrote.")
@json_option
def doctor(reap: bool) -> tuple[Any, str]:
    """Check versions, device, tracking store, environment managers and stale runs."""
    from tunesmith import doctor as doctors

    findings = doctors.examine(reap=reap)
    if any(finding.severity == "error" for finding in findings):
        click.echo(summary.doctor_text(findings))
        raise OutcomeError("the checks marked ✗ must be mended first")
    return [vars(finding) for finding in findings], summary.doctor_text(findings)


@main.command(context_settings=OVERRIDABLE)
@experiment_argument
@json_option
def audit(experiment: Experiment) -> tuple[Any, str]:
    """Check the data of EXPERIMENT; fails beyond its limits."""
    from tunesmith.audit.checks import audit_experiment

    report = audit_experiment(experiment)
    text = summary.audit_text(report)
    if not report.passed:
        click.echo(text)
        raise OutcomeError(f"{experiment.path}: the data is beyond the limits of data.audit")
    return {"passed": True, **report.metrics}, text


@main.command(context_settings=OVERRIDABLE)
@experiment_argument
@json_option
def plan(experiment: Experiment) -> tuple[Any, str]:
    """Show what training EXPERIMENT would do: rows, tokens, steps, memory, loss mask. Trains nothing."""
    from tunesmith.train.plan import make_plan

    made = make_plan(experiment)
    return {"config": experiment.tree(), **vars(made)}, summary.plan_text(experiment, made)


@main.command(context_settings=OVERRIDABLE)
@experiment_argument
@json_option
def sft(experiment: Experiment) -> tuple[Any, str]:
    """Fine-tune once on the assistant's turns, and score the result on the tune split."""
    from tunesmith import pipeline

    with Progress() as progress:
        run_id, trained, scores = pipeline.train_one(experiment, progress)
    value = {"run_id": run_id, "overfit": trained.overfit, **trained.metrics, **scores.metrics}
    return value, summary.training_text(run_id, trained, scores)


@main.command(context_settings=OVERRIDABLE)
@experiment_argument
@click.option("--space", default=SPACE, help="Search space file.")
@click.option("--policy", default=POLICY, help="Registry policy file.")
@click.option(
    "--trials", default=TRIALS, type=click.IntRange(min=1), help="Trials in all, grid and pruned ones included."
)
@click.option(
    "--resume",
    default="no",
    flag_value="yes",
    is_flag=False,
    type=click.Choice(["yes", "no"]),
    help="Go on with the newest interrupted sweep of this experiment.",
)
@json_option
def sweep(experiment: Experiment, space: str, policy: str, trials: int, resume: str) -> tuple[Any, str]:
    """Search, confirm the best on fresh seeds, and register the winner as candidate."""
    loaded_space, loaded_policy = SearchSpace.from_yaml(space), Policy.from_yaml(policy)
    from tunesmith import pipeline

    with Progress() as progress:
        outcome = pipeline.sweep(
            experiment, loaded_space, loaded_policy, progress, trials=trials, resume=resume == "yes"
        )
    return summary.sweep_value(outcome), summary.sweep_text(outcome, loaded_policy)


@main.command("main", context_settings=OVERRIDABLE)
@experiment_argument
@click.option("--space", default=SPACE, help="Search space file.")
@click.option("--policy", default=POLICY, help="Registry policy file.")
@click.option(
    "--trials", default=TRIALS, type=click.IntRange(min=1), help="Trials in all, grid and pruned ones included."
)
@json_option
def whole_story(experiment: Experiment, space: str, policy: str, trials: int) -> tuple[Any, str]:
    """Everything in one run: audit, base scores, sweep, registration, gate, promotion."""
    loaded_space, loaded_policy = SearchSpace.from_yaml(space), Policy.from_yaml(policy)
    from tunesmith import pipeline

    with Progress() as progress:
        outcome, verdict, move = pipeline.main(experiment, loaded_space, loaded_policy, progress, trials=trials)
    click.echo(summary.sweep_text(outcome, loaded_policy), err=True)
    champion = require_pass(verdict, move, loaded_policy)
    value = {**summary.sweep_value(outcome), "champion": champion.version}
    return value, summary.promotion_text(loaded_policy, champion, verdict)


@main.command()
@click.argument("model")
@click.option("--experiment", default=EXPERIMENT, help="Experiment whose tasks and rows are used.")
@click.option("--split", default="tune", type=click.Choice(["tune", "bench"]), help="Rows to score on.")
@json_option
def evaluate(model: str, experiment: str, split: Literal["tune", "bench"]) -> tuple[Any, str]:
    """Score MODEL (a run id, or `models:/NAME@ALIAS`) beside its base."""
    loaded = Experiment.from_yaml(experiment)
    from tunesmith import pipeline

    with Progress() as progress:
        base, scores = pipeline.evaluate(model, loaded, progress, split=split)
    return {"base": dict(base.metrics), "model": dict(scores.metrics)}, summary.comparison_text(base, scores)


@main.command()
@click.argument("policy", default=POLICY)
@click.option("--reason", default="", help="Why, for the ledger.")
@click.option("--expect", default="", help="Refuse unless this version (or `none`) is champion now.")
@click.option("--force", is_flag=True, help="Let a search's winner pass that was never confirmed; the ledger says so.")
@click.option("--reuse-holdout", is_flag=True, help="Promote past the holdout's budget; the ledger says so.")
@json_option
def promote(policy: str, reason: str, expect: str, force: bool, reuse_holdout: bool) -> tuple[Any, str]:
    """Verify and judge the candidate of POLICY and, if it passes every gate, make it champion."""
    loaded = Policy.from_yaml(policy)
    from tunesmith import promotion

    request = promotion.Request(reason=reason, expect=expect, force=force, reuse_holdout=reuse_holdout)
    verdict, move = promotion.promote(loaded, request)
    champion = require_pass(verdict, move, loaded)
    return {**vars(champion), "verdict": verdict.decision}, summary.promotion_text(loaded, champion, verdict)


@main.command()
@click.argument("policy", default=POLICY)
@click.option("--reason", default="", help="Why, for the ledger.")
@json_option
def rollback(policy: str, reason: str) -> tuple[Any, str]:
    """Give the previous verified champion of POLICY its alias back, without running gates."""
    loaded = Policy.from_yaml(policy)
    from tunesmith import promotion

    move = promotion.rollback(loaded, reason=reason)
    return vars(move), summary.rollback_text(loaded, move)


@main.command()
@click.argument("policy", default=POLICY)
@click.option("--verify", is_flag=True, help="Fail when an entry was changed or the alias was moved past the ledger.")
@click.option("--head", default="", help="SHA-256 of an entry noted down elsewhere, which must still be there.")
@json_option
def history(policy: str, verify: bool, head: str) -> tuple[Any, str]:
    """Print the ledger of POLICY: every promotion and rollback, by whom and why."""
    loaded = Policy.from_yaml(policy)
    from tunesmith import promotion

    found = promotion.history(loaded, head=head)
    text = summary.history_text(found, verify=verify or bool(head))
    if found.faults and (verify or head):
        click.echo(text)
        raise OutcomeError(f"{loaded.model}: {found.faults[0]}")
    entries = [json.loads(entry.text) for entry in found.entries]
    return {"entries": entries, "head": found.head, "faults": found.faults}, text


@main.command()
@click.argument("target")
@click.option("--policy", default=POLICY, help="Registry policy file.")
@click.option("--version", default="champion", help="Number or alias of the version that is copied.")
@json_option
def copy(target: str, policy: str, version: str) -> tuple[Any, str]:
    """Copy a version with its evidence to the registry at the tracking URI TARGET, as candidate there."""
    loaded = Policy.from_yaml(policy)
    from tunesmith import promotion

    source, number = promotion.copy(loaded, version, target)
    text = f"{loaded.model}: version {source} is candidate {number} in {target}"
    return {"target": target, "source_version": source, "version": number}, text


@main.command()
@click.argument("run")
@json_option
def replay(run: str) -> tuple[Any, str]:
    """Train RUN again from its record, and say whether identical, close or different results come out."""
    from tunesmith import replay as replays

    with Progress() as progress:
        found = replays.replay(run, progress)
    text = summary.replay_text(found)
    if found.outcome == "different":
        click.echo(text)
        raise OutcomeError(f"{run}: the replay differs from step {found.step} on")
    return vars(found), text


def require_pass(verdict: Any, move: Any, policy: Policy) -> Any:
    """The move of a promotion; shows the gates and exits 1 when they did not let it happen."""
    if move is None:
        click.echo(summary.verdict_text(verdict), err=True)
        raise OutcomeError(f"{policy.model}: not promoted: the verdict is {verdict.decision}")
    return move


if __name__ == "__main__":
    sys.exit(main())
