"""What `tunesmith shortlist` does: find the candidates, score and measure each, recommend one, log it all."""

import datetime
import gc
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tunesmith.config.experiment import Experiment
from tunesmith.data.dataset import load_dataset, load_rows
from tunesmith.data.digest import digest_of, digest_rows
from tunesmith.data.formats import as_conversation, check_conversation
from tunesmith.data.sources import find_source
from tunesmith.errors import ConfigError, ModelError, OutcomeError, TunesmithError
from tunesmith.models.device import Placement, fix_threads, installed_memory_mb, keep_memory, place
from tunesmith.models.loading import load_base, load_tokenizer
from tunesmith.models.measurements import cpu_model
from tunesmith.models.references import LocalModel, resolve
from tunesmith.progress import Progress
from tunesmith.records import Row
from tunesmith.shortlist.choice import Limits, recommend
from tunesmith.shortlist.entry import Entry
from tunesmith.shortlist.facts import facts_of
from tunesmith.shortlist.page import page
from tunesmith.shortlist.scoring import Sanity, sanity_tasks, score_candidate
from tunesmith.shortlist.speed import speed_of
from tunesmith.shortlist.table import Shortlist
from tunesmith.tracking import runs
from tunesmith.tracking.command import relative_to_project
from tunesmith.tracking.runs import Run
from tunesmith.train.encode import encode_rows

PAGE = "report/shortlist.html"
FOREIGN = (TunesmithError, ValueError, OSError)
"""What a model that is not as it should be raises, here and in transformers."""


@dataclass(frozen=True)
class Ground:
    """What all candidates are held against."""

    experiment: Experiment
    train: tuple[Row, ...]
    sanity: Sanity
    placement: Placement


def shortlist(
    experiment: Experiment, progress: Progress, *, models: Sequence[str] = (), log: bool = True
) -> tuple[Shortlist, str]:
    """Compare base models on the sanity set; returns what was found and the run's id, empty without `log`.

    `models` take the place of `shortlist.candidates`; the experiment's own base is always among them. Raises
    `ModelError` before anything runs when one cannot be had, and `OutcomeError` when none could be scored.
    """
    fix_threads()
    keep_memory()
    ground = prepare(experiment)
    candidates = resolve_all(experiment, models)
    run = runs.adopt_or_create(experiment.name, f"{experiment.name}-shortlist", kind="shortlist") if log else None
    if run is None:
        return compare(ground, candidates, progress, None), ""
    with runs.recording(run):
        return compare(ground, candidates, progress, run), run.id


def prepare(experiment: Experiment) -> Ground:
    """The sanity set, the tasks and the rows; raises a `TunesmithError` naming what is missing."""
    named = experiment.data.sanity
    if named is None:
        raise ConfigError(
            f"{experiment.where('data')}: data.sanity: names no file; a shortlist needs 50 to 100 plain questions of "
            "the domain with their replies"
        )
    rows = load_rows(find_source(named, folder=experiment.path.parent), check_conversation)
    tasks, skipped = sanity_tasks(experiment, rows)
    train = tuple(as_conversation(row) for row in load_dataset(experiment).train.rows)
    known = {key for row in rows for key in (row["id"], row["group"])}
    examples = tuple(row for row in train if not known & {row["id"], row["group"]})
    sanity = Sanity(rows, examples, tasks, experiment.shortlist.shots, experiment.seed, tuple(skipped))
    if len(examples) < sanity.shots:
        raise ConfigError(f"{experiment.where('shortlist', 'shots')}: only {len(examples)} training rows are examples")
    return Ground(experiment, train, sanity, place(experiment.model))


def resolve_all(experiment: Experiment, models: Sequence[str]) -> list[LocalModel]:
    """The experiment's base and the candidates, all of them at hand; raises `ModelError` naming those that are not."""
    config = experiment.model
    wanted = dict.fromkeys([config.base, *(models or experiment.shortlist.candidates)])
    found, missing = [], []
    for reference in wanted:
        try:
            found.append(resolve(reference, revision=config.revision if reference == config.base else None))
        except ModelError as error:
            missing.append(str(error).removeprefix("model.base: "))
    if missing:
        where = "--models" if models else experiment.where("shortlist", "candidates")
        raise ModelError(f"{where}: {'; '.join(missing)}")
    return found


def compare(ground: Ground, candidates: Sequence[LocalModel], progress: Progress, run: Run | None) -> Shortlist:
    """Examine every candidate and recommend one."""
    experiment, sanity = ground.experiment, ground.sanity
    entries = []
    for n, model in enumerate(candidates, 1):
        progress.note(f"candidate {n} of {len(candidates)}: {model.reference}")
        entries.append(examine(model, ground, progress))
        if run is not None:
            log_entry(entries[-1], model, run)
    limits = Limits(installed_memory_mb(ground.placement.device), experiment.adapter.kind)
    groups = {row["id"]: row["group"] for row in sanity.rows}
    primary = experiment.evaluation.primary.removeprefix("tune/")
    found = Shortlist(
        entries=tuple(entries),
        choice=recommend(entries, limits, primary=primary, groups=groups),
        items=len(sanity.rows),
        shots=sanity.shots,
        rows=len(ground.train),
        memory_mb=limits.memory_mb,
        machine=machine(ground.placement),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        notes=sanity.skipped,
    )
    if run is not None:
        log(found, ground, run)
    if not any(entry.scores for entry in entries):
        raise OutcomeError(f"no candidate could be scored; {entries[0].reference}: {'; '.join(entries[0].notes)}")
    return found


def examine(model: LocalModel, ground: Ground, progress: Progress) -> Entry:
    """Everything about one candidate; what cannot be had is a note, and the rest is kept."""
    entry = Entry(model.reference)
    try:
        entry = replace(entry, facts=facts_of(model, ground.experiment, ground.train))
        assert entry.facts is not None  # noqa: S101 - just set
        if entry.facts.encoder_decoder:
            return _noted(entry, "not scored: replies of encoder–decoder models are not asked for here")
        tokenizer = load_tokenizer(model)
        return measure(entry, model, tokenizer, ground)
    except FOREIGN as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        entry = _noted(entry, text.removeprefix(f"model.base: {model.reference}: "))
        progress.note(f"  {entry.notes[-1]}")
        return entry
    finally:
        gc.collect()


def measure(entry: Entry, model: LocalModel, tokenizer: PreTrainedTokenizerBase, ground: Ground) -> Entry:
    """Scores and speed, which need the weights."""
    experiment, facts = ground.experiment, entry.facts
    base = load_base(model, ground.placement)
    size = experiment.evaluation.batch_size
    window = facts.context if facts is not None else None
    scores, notes = score_candidate(base, tokenizer, ground.sanity, window=window, batch_size=size)
    entry = replace(entry, scores=scores, notes=(*entry.notes, *notes))
    rows = encode_rows(ground.train[:16], tokenizer, max_length=experiment.model.max_length)
    return replace(entry, speed=speed_of(base, rows, experiment.adapter, pad=int(tokenizer.pad_token_id)))


def _noted(entry: Entry, text: str) -> Entry:
    return replace(entry, notes=(*entry.notes, text))


def machine(placement: Placement) -> str:
    """What the speed was measured on."""
    if placement.device == "cuda":
        return f"{torch.cuda.get_device_name()}, {placement.describe()}"
    return f"{cpu_model()}, {torch.get_num_threads()} threads of {os.cpu_count()}, {placement.describe()}"


def log_entry(entry: Entry, model: LocalModel, parent: Run) -> None:
    """A candidate as a run of its own below the shortlist's, so that MLflow compares them."""
    with runs.recording(runs.create("", entry.reference, kind="candidate", parent=parent)) as run:
        run.tags({"base_sha256": model.sha256, "notes": "; ".join(entry.notes)})
        run.params({"model.base": entry.reference})
        run.metrics(metrics_of(entry))
        if entry.facts is not None:
            run.tags({"licence": entry.facts.licence.name, "architecture": entry.facts.kind})


def metrics_of(entry: Entry) -> dict[str, float]:
    """The numbers of a candidate by metric name."""
    found = {
        f"{setting.replace('-', '_')}/{metric}{suffix}": value
        for setting, scores in entry.scores.items()
        for metric, got in scores.items()
        for suffix, value in (("", got.mean), ("/low", got.low), ("/high", got.high))
    }
    if entry.facts is not None:
        facts = entry.facts
        found |= {"model/parameters": facts.parameters, "data/tokens_per_word": facts.per_word}
        found |= {f"data/tokens_p{n}": value for n, value in zip((50, 95, 99), facts.tokens, strict=True)}
        found |= {f"memory/{kind}_mb": value for kind, value in facts.memory_mb.items()}
        found |= {"data/tokens_per_byte": facts.per_byte}
        found |= {} if facts.context is None else {"model/context": facts.context}
    if entry.speed is not None:
        found |= {"speed/forward": entry.speed.forward[0], "speed/training": entry.speed.training[0]}
    return found


def log(found: Shortlist, ground: Ground, run: Run) -> None:
    """The shortlist's own run: what was compared, on what, and what is recommended."""
    experiment, sanity = ground.experiment, ground.sanity
    shown: Mapping[str, Any] = next(iter(sanity.items("few-shot").values()))[0]
    run.json(value(found), "shortlist.json")
    run.json([row["id"] for row in shown["shots"]], "shots.json")
    run.json(experiment.tree(), "experiment.json")
    run.text(page(found), PAGE)
    run.tags({"experiment_file": relative_to_project(experiment.path), "config_sha256": digest_of(experiment.tree())})
    run.tags({"sanity_sha256": digest_rows(sanity.rows), "recommended": found.choice.reference or "none"})
    run.tags({"reason": found.choice.reason, **runs.provenance()})


def value(found: Shortlist) -> dict[str, Any]:
    """A shortlist for machines."""
    candidates = {
        entry.reference: {
            **metrics_of(entry),
            "licence": entry.facts.licence.name if entry.facts else None,
            "licence_limits": entry.facts.licence.limits if entry.facts else None,
            "encoder_decoder": entry.facts.encoder_decoder if entry.facts else None,
            "notes": list(entry.notes),
        }
        for entry in found.entries
    }
    choice = {"recommended": found.choice.reference, "reason": found.choice.reason, "metric": found.choice.metric}
    where = {"items": found.items, "shots": found.shots, "machine": found.machine, "date": found.date}
    return {**choice, **where, "candidates": candidates, "notes": list(found.notes)}
