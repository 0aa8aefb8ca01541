"""The models that are compared, and the scores that each has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tunesmith.errors import ConfigError
from tunesmith.records import Scores
from tunesmith.registry import evidence, versions
from tunesmith.registry.versions import Version
from tunesmith.tracking import runs, store
from tunesmith.tracking.runs import Run
from tunesmith.tracking.scores import BASE, read_scores, scored_runs

BASE_WORD = "base"
SHOWN_ID = 8


@dataclass(frozen=True)
class Model:
    """A model as it was named, and what identifies its weights.

    `evaluated_as` is what `tunesmith evaluate` calls it, `run_id` the run that trained it; of the base both are
    those of the model beside which it is scored.
    """

    reference: str
    name: str
    evaluated_as: str
    run_id: str
    adapter_sha256: str
    base_sha256: str
    registered: bool = False

    @property
    def is_base(self) -> bool:
        """Whether this is a base without an adapter."""
        return self.adapter_sha256 == BASE


@dataclass(frozen=True)
class Source:
    """Scores that a model has: what is known of them, and how to read them."""

    split: str
    digest: str
    items: int
    run_id: str
    read: Callable[[], Scores]


def find_models(references: Sequence[str]) -> list[Model]:
    """The models that references name: run ids, `models:/` URIs, or `base`, the base of the first that is not it."""
    named = {reference: find_model(reference) for reference in references if reference != BASE_WORD}
    if not named:
        raise ConfigError("base: of which model? name at least one other than base")
    first = next(iter(named.values()))
    base = Model(BASE_WORD, BASE_WORD, first.evaluated_as, first.run_id, BASE, first.base_sha256, first.registered)
    return [named.get(reference, base) for reference in references]


def find_model(reference: str) -> Model:
    """The model of a run id or `models:/` URI; raises a `TunesmithError` for what names none."""
    if reference.startswith("models:/"):
        return of_version(reference, versions.find(reference))
    return of_run(reference, runs.attach(reference))


def of_version(reference: str, version: Version) -> Model:
    """A registered version."""
    if not version.tag("run_id"):
        raise ConfigError(f"{reference}: was not registered by Tunesmith; name the run that trained it")
    run = runs.attach(version.run_id)
    alias = f" ({reference.partition('@')[2]})" if "@" in reference else ""
    name = f"{version.name} version {version.number}{alias}"
    sha256, base = run.tag("adapter_sha256"), run.tag("base_sha256")
    return Model(reference, name, f"models:/{version.name}/{version.number}", run.id, sha256, base, registered=True)


def of_run(reference: str, run: Run) -> Model:
    """The model that a run trained or scored; of a sweep, its winner."""
    kind = run.tag("kind") or "unknown"
    winner = run.tag("winner_run") if kind == "sweep" else ""
    if winner:
        return of_run(reference, runs.attach(winner))
    sha256 = run.tag("adapter_sha256")
    if not sha256:
        has = "has no winner yet" if kind == "sweep" else f"is of kind {kind} and holds no model and no scores"
        raise ConfigError(f"{reference}: the run {has}; name a training, an evaluation or models:/NAME@ALIAS")
    name = f"{store.client().get_run(run.id).info.run_name} ({run.id[:SHOWN_ID]})"
    return Model(reference, name, run.id, run.id, sha256, run.tag("base_sha256"))


def sources(model: Model) -> list[Source]:
    """The scores of a model: those of scoring runs, which hold its replies, newest first, then a version's evidence."""
    scored = [
        Source(found.split, found.digest, found.items, found.run_id, partial(read_scores, found.run_id))
        for found in scored_runs(model.adapter_sha256)
        if runs.attach(found.run_id).tag("base_sha256") == model.base_sha256
    ]
    return [*scored, *_evidence(model)]


def _evidence(model: Model) -> list[Source]:
    found = []
    for record in evidence.every(model.run_id):
        weights = BASE if model.is_base else record.adapter_sha256
        if (weights, record.base_sha256) == (model.adapter_sha256, model.base_sha256):
            held = record.base if model.is_base else record.candidate
            items = sum(map(len, held.items.values()))
            found.append(Source("holdout", held.digest, items, model.run_id, partial(_held, held)))
    return found


def _held(scores: Scores) -> Scores:
    return scores
