"""A base model that stays loaded, and the training and scoring done on it."""

import functools
import pathlib
from dataclasses import asdict
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.config.experiment import Experiment
from tunesmith.data.dataset import load_dataset, training_rows
from tunesmith.data.split import stratified
from tunesmith.data.tasks import fewer_items, load_items, load_tasks
from tunesmith.evaluate.harness import score
from tunesmith.models.device import fix_threads, free_memory_mb, keep_memory, place
from tunesmith.models.loading import adapter_effect, attach_saved, load_base, load_tokenizer, release
from tunesmith.models.measurements import cpu_model, measured_once
from tunesmith.models.references import resolve
from tunesmith.records import Scores
from tunesmith.sweep.protocol import Done, Job, Ready, Sharing
from tunesmith.train.encode import Encoded, encode_rows, mask_preview, render, supervised_share
from tunesmith.train.recorder import Recorder, Reporter, TrainingData
from tunesmith.train.run import save_adapter, trained_adapter
from tunesmith.train.slots.calibrate import calibrate
from tunesmith.train.slots.coverage import covers
from tunesmith.train.slots.engine import DEFAULT_LIMITS, Engine

MEMORY_SHARE = 0.25  # of what is free when a worker has loaded its base, for the activations of a pass


class Workbench:
    """Everything that jobs of one experiment share; fields that a sweep varies may differ by job.

    `seat` is the number of the worker that works at it.
    """

    def __init__(self, experiment: Experiment, *, seat: int = 0) -> None:
        keep_memory()
        self.seat = seat
        self.threads = fix_threads()
        self.experiment = experiment
        self.dataset = load_dataset(experiment)
        self.tasks = load_tasks(experiment)
        self.placement = place(experiment.model)
        self.model = resolve(experiment.model.base, revision=experiment.model.revision)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(self.model)
        quantise = experiment.adapter.kind == "qlora"
        self.base: PreTrainedModel = load_base(self.model, self.placement, quantise=quantise)

    def ready(self) -> Ready:
        """What is loaded."""
        return Ready(self.model.sha256, self.model.revision, self.placement.describe(), self.threads)

    def mask(self, experiment: Experiment) -> tuple[float, str]:
        """Share of the training tokens that count in the loss, and the first row with these marked."""
        tokens = self._tokens("train", experiment.data.train_rows)
        return supervised_share(tokens), mask_preview(self.dataset.train.rows[0], self.tokenizer)

    def execute(self, job: Job, reporter: Reporter) -> Done:
        """Do a job; raises `TunesmithError` when it fails."""
        return self._train(job, reporter) if job.train else Done(self.score(job))

    def score(self, job: Job) -> Scores:
        """Score the base, or the saved adapter that the job names."""
        if job.adapter is None:
            return self._score(self.base, job)
        model = attach_saved(self.base, pathlib.Path(job.adapter))
        try:
            return self._checked_scores(model, job)
        finally:
            release(model)

    def _train(self, job: Job, reporter: Reporter) -> Done:
        recorder = Recorder(self.training_data(job), fractions=job.fractions, reporter=reporter)
        folder = pathlib.Path(job.folder)
        training = trained_adapter(self.base, self.tokenizer, job.experiment, recorder, folder=folder, slots=job.slots)
        with training as (model, trained):
            return Done(self._checked_scores(model, job), trained)

    def training_data(self, job: Job) -> TrainingData:
        """The encoded rows of a training job."""
        train = self._tokens("train", job.experiment.data.train_rows)
        return TrainingData(train=train, tune=self._tokens("tune", job.loss_rows))

    def finish(self, model: PreTrainedModel, job: Job, recorder: Recorder) -> Done:
        """Save the adapter of a finished training and score it."""
        trained = save_adapter(model, recorder, pathlib.Path(job.folder))
        return Done(self._checked_scores(model, job), trained)

    def _checked_scores(self, model: PreTrainedModel, job: Job) -> Scores:
        adapter_effect(model, self.tokenizer, self.probe, base=self.base)
        return self._score(model, job)

    def calibrate(self, experiment: Experiment) -> Sharing:
        """How slots should share passes on this machine with this base; measured once per machine and base."""
        rows = self._tokens("train", experiment.data.train_rows)
        row_tokens = sum(len(row.input_ids) for row in rows) / len(rows)
        if covers(self.base, experiment) is not None:
            return Sharing(fuse=1, most=1, row_tokens=row_tokens)
        place = f"{torch.cuda.get_device_name()}" if self.base.device.type == "cuda" else cpu_model()
        key = f"{place}, {self.threads} threads, {self.base.dtype}, torch {torch.__version__}, {self.model.sha256[:16]}"
        memory = free_memory_mb(self.base.device) * MEMORY_SHARE
        found: dict[str, Any] = measured_once(
            "slots.json", key, lambda: asdict(calibrate(Engine(self.base), rows, memory_mb=memory))
        )
        limits, ratios = found["limits"], {int(size): ratio for size, ratio in found["ratios"].items()}
        most = min(limits["most"], DEFAULT_LIMITS.most)  # as in a training that nobody shares, so that bits agree
        return Sharing(min(limits["fuse"], most), most, row_tokens, ratios)

    def _score(self, model: PreTrainedModel, job: Job) -> Scores:
        evaluation, items = self.experiment.evaluation, job.items
        tasks = {name: self.tasks[name] for name in job.tasks or evaluation.tasks}
        split = "tune" if items in {"trial", "confirmation"} else items
        chosen = load_items(tasks, self.experiment, split)
        if split != items:
            chosen = fewer_items(chosen, tasks, self.experiment, keep_primary=items == "confirmation")
        return score(model, self.tokenizer, tasks, chosen, split=split, batch_size=evaluation.batch_size)

    @functools.cached_property
    def probe(self) -> str:
        """The text on which an adapter must change the logits."""
        return render(self.dataset.tune.rows[0]["messages"], self.tokenizer)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - lives as long as the worker
    def _tokens(self, split: str, count: int | None) -> list[Encoded]:
        config = self.experiment.data
        if split == "train":
            rows = training_rows(self.dataset, config.model_copy(update={"train_rows": count})).rows
        else:
            rows = self.dataset.tune.rows
            rows = stratified(rows, count, by=config.stratify_by) if count else rows
        return encode_rows(rows, self.tokenizer, max_length=self.experiment.model.max_length)
