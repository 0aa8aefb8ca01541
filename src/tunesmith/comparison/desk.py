"""What `tunesmith compare` does: find the models and their scores, compare them, and log the page."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from tunesmith.comparison.analysis import Comparison, Result, analyse
from tunesmith.comparison.asking import ask_judge
from tunesmith.comparison.matching import ANY, matching_scores
from tunesmith.comparison.models import Model, find_models
from tunesmith.comparison.page import page
from tunesmith.config.judge import JudgeConfig
from tunesmith.errors import ConfigError
from tunesmith.tracking import runs, store

PAGE = "report/comparison.html"


def compare(
    references: Sequence[str], *, split: str = ANY, metrics: Sequence[str] = (), judge: JudgeConfig | None = None
) -> Comparison:
    """Compare models with the first of them, by scores that they have already; see `matching_scores`.

    With `judge`, their replies are sent to its endpoint; should that fail, a note says so and all else stands.
    """
    if len(references) < 2:
        raise ConfigError("compare: name at least two models")
    models = find_models(references)
    found, scores = matching_scores(models, split=split)
    compared = analyse([model.name for model in models], scores, split=found, metrics=metrics)
    judged = None if judge is None else ask_judge(judge, scores, split=found)
    said = () if judged is None else judged.notes(compared.names)
    return replace(compared, judged=judged, notes=(*notes(models, compared), *said))


def notes(models: Sequence[Model], compared: Comparison) -> list[str]:
    """What else a reader should know."""
    found = []
    if compared.split == "tune":
        found.append("a search chooses by tune: its winner looks better there than it is; compare on bench or holdout")
    for n, model in enumerate(models[1:], start=1):
        if (model.adapter_sha256, model.base_sha256) == (models[0].adapter_sha256, models[0].base_sha256):
            found.append(f"{compared.names[n]} and {compared.names[0]} are the same weights")
    own: dict[str, dict[str, float]] = {}
    for result in compared.results:
        if result.whole is not None:
            both = (compared.names[0], compared.names[result.rival])
            own.setdefault(result.metric, {}).update(zip(both, result.whole, strict=True))
    for metric, values in own.items():
        listed = ", ".join(f"{value:.4g} ({name})" for name, value in values.items())
        found.append(f"{metric} is compared by its mean over items; the metric itself is {listed}")
    return found


def log(references: Sequence[str], compared: Comparison) -> str:
    """Log a comparison as a run, beside the first model's; returns the run's id."""
    first = next(model for model in find_models(references) if not model.is_base)
    experiment = store.client().get_experiment(runs.attach(first.run_id).experiment_id).name
    run = runs.adopt_or_create(experiment, f"compare {' '.join(references)}", kind="comparison")
    with runs.recording(run):
        run.tags({"compared": " ".join(references), "compared_on": compared.split, "compared_digest": compared.digest})
        run.tags({f"outcome_{n}": compared.outcome(n) for n in range(1, len(compared.names))})
        several = len(compared.names) > 2
        for result in compared.results:
            where = f"{result.rival}/{result.metric}" if several else result.metric
            values = {"difference": result.effect.difference, "low": result.effect.low, "high": result.effect.high}
            run.metrics({f"{name}/{where}": v for name, v in {**values, "p_holm": result.adjusted}.items()})
        if compared.judged is not None:
            run.tags({"judge": compared.judged.model, "judge_sha256": compared.judged.sha256})
            run.metrics(compared.judged.metrics(several=several))
        run.json(value(compared), "comparison.json")
        run.text(page(compared), PAGE)
    return run.id


def value(compared: Comparison) -> dict[str, Any]:
    """A comparison for machines."""
    rivals = [
        {
            "model": compared.names[n],
            "outcome": compared.outcome(n),
            "metrics": {result.metric: result_value(result) for result in compared.of(n)},
            "changed": [
                {"task": c.task, "item": c.item, "values": {name: list(pair) for name, pair in c.values.items()}}
                for c in compared.changes[n - 1]
            ],
        }
        for n in range(1, len(compared.names))
    ]
    sizes = {"items": compared.items, "groups": compared.groups}
    where = {"split": compared.split, "digest": compared.digest, **sizes}
    judged = {} if compared.judged is None else {"judge": asdict(compared.judged)}
    return {"first": compared.names[0], **where, "rivals": rivals, "notes": list(compared.notes), **judged}


def result_value(result: Result) -> dict[str, Any]:
    """One metric's numbers; bounds that do not exist are null."""
    found = result.effect
    numbers = {
        "first": found.first,
        "second": found.second,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
        "p_holm": result.adjusted,
        "detectable": result.detectable,
    }
    finite = {name: number if abs(number) < float("inf") else None for name, number in numbers.items()}
    counts = {"items": found.items, "groups": found.groups, "needed_items": result.needed}
    way = {"test": found.test, "lower_is_better": result.lower_is_better}
    return {**finite, **counts, **way, "outcome": result.outcome}
