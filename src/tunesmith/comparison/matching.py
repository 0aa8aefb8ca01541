"""Scores of several models that may be compared: on one split, under one digest, the same items in one order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.comparison.models import Model, Source, sources
from tunesmith.errors import ConfigError, EvaluationError, TunesmithError
from tunesmith.judgement import scoring_command
from tunesmith.records import Scores
from tunesmith.tracking import runs

SPLITS = ("holdout", "bench", "tune")
"""In the order of their worth: the search has not seen the first two, and chose by the last."""
ANY = "any"

Found = Sequence[tuple[Model, Sequence[Source]]]


def matching_scores(models: Sequence[Model], *, split: str) -> tuple[str, list[Scores]]:
    """The split and every model's scores on it; with `ANY`, on the first of `SPLITS` that all have.

    Where a model has several scores, those on the most items are taken, then the newest. Raises `ConfigError` that
    names the command for a model that was not scored, and `EvaluationError` for scores that do not compare.
    """
    found = [(model, sources(model)) for model in models]
    for name in SPLITS if split == ANY else (split,):
        common = set.intersection(*({s.digest for s in known if s.split == name} for _, known in found))
        if common:
            largest = max((s for s in found[0][1] if s.digest in common), key=lambda source: source.items)
            scores = [next(s for s in known if s.digest == largest.digest).read() for _, known in found]
            check_items(models, scores)
            return name, scores
    raise refusal(found, split=split)


def refusal(found: Found, *, split: str) -> TunesmithError:
    """Why models have no scores in common, and the command that gives them such."""
    counts = {name: sum(any(s.split == name for s in known) for _, known in found) for name in SPLITS}
    wanted = max(reversed(SPLITS), key=lambda name: counts[name]) if split == ANY else split
    held = [(model, [s for s in known if s.split == wanted]) for model, known in found]
    lacking = next((model for model, known in held if not known), None)
    if lacking is not None:
        like = next((known[0].run_id for model, known in held if known and not model.is_base), lacking.run_id)
        remedy = how_to_score(lacking, wanted, like)
        return ConfigError(f"{lacking.reference}: has not been scored on {wanted}; {remedy}")
    shared = Counter(digest for _, known in held for digest in {s.digest for s in known})
    digest = shared.most_common(1)[0][0]
    first = next((m, s) for m, known in held for s in known if s.digest == digest)
    other = next((m, known[0]) for m, known in held if all(s.digest != digest for s in known))
    why = what_differs(first[1].read(), other[1].read(), names=(first[0].reference, other[0].reference))
    return EvaluationError(
        f"{other[0].reference}: its scores on {wanted} do not compare with those of {first[0].reference}: {why}; "
        f"{how_to_score(other[0], wanted, first[1].run_id)}"
    )


def how_to_score(model: Model, split: str, like: str) -> str:
    """The command that scores a model on a split, by the settings of the run `like`."""
    what = "it and its base" if model.is_base else "it"
    if split == "holdout" and not model.registered:
        command = scoring_command(model.evaluated_as, runs.attach(like), split="bench")
        return f"only registered versions are scored on the holdout; score {what} on bench: {command}"
    return f"score {what}: {scoring_command(model.evaluated_as, runs.attach(like), split=split)}"


def check_items(models: Sequence[Model], scores: Sequence[Scores]) -> None:
    """Refuse scores whose items are not those of the first model's, in its order, each with the same metrics."""
    first = scores[0]
    for model, held in zip(models[1:], scores[1:], strict=True):
        names = (models[0].reference, model.reference)
        for task in {**first.items, **held.items}:
            why = items_differ(task, first.items.get(task, {}), held.items.get(task, {}), names=names)
            if why:
                raise EvaluationError(f"{model.reference}: {why}; its scores are damaged, score it again")


def what_differs(first: Scores, second: Scores, *, names: tuple[str, str]) -> str:
    """In what two scorings differ that have other digests: their items, else the settings that were recorded."""
    items = [
        items_differ(task, first.items[task], second.items[task], names=names)
        for task in first.items
        if task in second.items
    ]
    ours, theirs = flat(first.settings), flat(second.settings)
    settings = [
        f"{key} {ours.get(key, 'none')} against {theirs.get(key, 'none')}"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key) and first.settings and second.settings
    ]
    if any(items):
        return next(filter(None, items))
    return "; ".join(settings) or "other tasks, rows, harness or settings"


def items_differ(task: str, first: Mapping[str, Any], second: Mapping[str, Any], *, names: tuple[str, str]) -> str:
    """How the items of a task differ between two scorings, the first item named; empty where they do not."""
    for mine, others, who in ((second, first, names[1]), (first, second, names[0])):
        missing = [item for item in others if item not in mine]
        if missing:
            return f"{len(missing)} of {len(others)} items of {task} are missing from {who}, {missing[0]} first"
    moved = next((a for a, b in zip(first, second, strict=True) if a != b), None)
    if moved is not None:
        return f"the items of {task} are in another order, from {moved} on"
    short = next((item for item in first if {*first[item]} != {*second[item]}), None)
    return "" if short is None else f"item {short} of {task} has other metrics"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping under dotted names, long digests cut short."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)[:60]}
    return found
