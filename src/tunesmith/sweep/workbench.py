"""A base model that stays loaded, and the training and scoring done on it."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.config.experiment import Experiment
from tunesmith.config.task import Task
from tunesmith.data.dataset import load_dataset, training_rows
from tunesmith.data.digest import digest_of
from tunesmith.data.formats import as_conversation
from tunesmith.data.split import stratified
from tunesmith.data.tasks import fewer_items, load_items, load_tasks
from tunesmith.errors import EvaluationError
from tunesmith.evaluate.harness import live_model, score
from tunesmith.evaluate.live import Base
from tunesmith.evaluate.pairs import pair_scores
from tunesmith.evaluate.replies import reply_scores, together
from tunesmith.models.architecture import architecture_of
from tunesmith.models.decoding import end_tokens
from tunesmith.models.device import Placement, fix_threads, free_memory_mb, keep_memory, lacking_memory, place
from tunesmith.models.loading import adapter_effect, attach_saved, load_base, load_tokenizer, network_of, release
from tunesmith.models.measurements import cpu_model, measured_once
from tunesmith.models.references import resolve
from tunesmith.models.reward import pair_margins
from tunesmith.records import Row, Scores
from tunesmith.sweep.protocol import Done, Items, Job, Ready, Sharing
from tunesmith.sweep.racing import race
from tunesmith.train.encode import mask_preview, render, supervised_share
from tunesmith.train.method import Method, method_of
from tunesmith.train.recorder import Recorder, Reporter, TrainingData, Unheard
from tunesmith.train.reference import Present, Reference
from tunesmith.train.run import save_adapter, start_of, train_beside, trained_adapter
from tunesmith.train.slots.calibrate import calibrate, most_tokens
from tunesmith.train.slots.coverage import covers, covers_model
from tunesmith.train.slots.engine import DEFAULT_LIMITS, Engine
from tunesmith.train.slots.network import Network

CALIBRATIONS = "slots.json"
LOSS = "tune/loss"
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
        self.reference = Reference(digest_of([self.model.sha256, self.model.adapter_sha256]))
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(self.model)
        quantise = experiment.adapter.kind == "qlora"
        self.base: PreTrainedModel = load_base(self.model, self.placement, quantise=quantise)
        self.method: Method = method_of(experiment, architecture_of(self.base.config))

    def ready(self) -> Ready:
        """What is loaded."""
        return Ready(self.model.sha256, self.model.revision, self.placement.describe(), self.threads)

    def mask(self, experiment: Experiment) -> tuple[float, str]:
        """Share of the training tokens that count in the loss, and the first row with these marked."""
        tokens = self._tokens("train", experiment.data.train_rows)
        return supervised_share(tokens), mask_preview(as_conversation(self.dataset.train.rows[0]), self.tokenizer)

    def execute(self, job: Job, reporter: Reporter) -> Done:
        """Do a job; raises `TunesmithError` when it fails."""
        return self._train(job, reporter) if job.train else Done(self.score(job))

    def score(self, job: Job) -> Scores:
        """Score what the training begins with, or the saved adapter that the job names.

        Where the job names rows for it, the tune loss is among the metrics.
        """
        adapter = pathlib.Path(job.adapter) if job.adapter else self.model.adapter
        if adapter is None or (job.adapter is None and job.experiment.method.kind == "reward"):
            start = start_of(self.base, job.experiment)
            return self._with_loss(self._score(start, job).scores, start, job)
        model = attach_saved(self.base, adapter)
        try:
            return self._with_loss(self._checked_scores(model, job).scores, model, job)
        finally:
            release(model)

    def _with_loss(self, scores: Scores, model: PreTrainedModel, job: Job) -> Scores:
        """Scores, with the loss that trials are judged by if that is asked for; the model is its own reference."""
        if job.loss_rows is None:
            return scores
        reference = Present(network_of(model), batch_size=self.experiment.evaluation.batch_size)
        data = replace(self.training_data(job), reference=reference)
        found = self.method.measure(model, data.tune, experiment=self.experiment, data=data)
        return replace(scores, metrics={**scores.metrics, LOSS: found[LOSS]})

    def _train(self, job: Job, reporter: Reporter) -> Done:
        recorder = Recorder(self.training_data(job), fractions=job.fractions, reporter=reporter)
        folder = pathlib.Path(job.folder)
        base = start_of(self.base, job.experiment)
        training = trained_adapter(base, self.tokenizer, job.experiment, recorder, folder=folder, slots=job.slots)
        with training as (model, trained):
            return replace(self._checked_scores(model, job), trained=trained)

    def assist(self, job: Job) -> None:
        """Take part in a training job that another process of the team does."""
        recorder = Recorder(self.training_data(job), fractions=job.fractions, reporter=Unheard())
        base, folder = start_of(self.base, job.experiment), pathlib.Path(job.folder)
        train_beside(base, self.tokenizer, job.experiment, recorder, folder=folder)

    def training_data(self, job: Job) -> TrainingData:
        """The encoded rows of a training job.

        Its tune loss is that of the method as the workbench's experiment has it: a search over what the loss is made
        of, as DPO's beta, would else choose whatever makes the same replies cost least.
        """
        return TrainingData(
            self._tokens("train", job.experiment.data.train_rows),
            self._tokens("tune", job.loss_rows),
            pad=self.tokenizer.pad_token_id,
            end=self.tokenizer.eos_token_id,
            parent=self.model.adapter,
            reference=self.reference,
            yardstick=self.experiment.method,
        )

    def uncovered(self, experiment: Experiment) -> str | None:
        """Why the slots engine does not train an experiment here; None when it does."""
        return covers(self.base, experiment)

    def finish(self, model: PreTrainedModel, job: Job, recorder: Recorder) -> Done:
        """Save the adapter of a finished training and score it."""
        trained = save_adapter(model, recorder, pathlib.Path(job.folder))
        return replace(self._checked_scores(model, job), trained=trained)

    def _checked_scores(self, model: PreTrainedModel, job: Job) -> Done:
        adapter_effect(model, self.tokenizer, self.probe, base=self.base)
        return self._score(model, job)

    def calibrate(self, experiment: Experiment) -> Sharing:
        """How slots should share passes on this machine with this base; measured once per machine and base."""
        rows = self._tokens("train", experiment.data.train_rows)
        row_tokens = sum(len(row.input_ids) for row in rows) / len(rows)
        memory = free_memory_mb(self.base.device) * MEMORY_SHARE
        if self.uncovered(experiment) is not None:  # the engine still trains the trials that it covers, one by one
            return Sharing(fuse=1, most=self._most_tokens(memory), row_tokens=row_tokens)
        key = calibration_key(self.placement, self.threads, self.model.sha256)
        found: dict[str, Any] = measured_once(
            CALIBRATIONS, key, lambda: asdict(calibrate(Engine(self.base), rows, memory_mb=memory))
        )
        ratios, most = {int(size): ratio for size, ratio in found["ratios"].items()}, self._most_tokens(memory)
        return Sharing(min(found["limits"]["fuse"], most), most, row_tokens, ratios)

    def _most_tokens(self, memory_mb: float) -> int:
        """How many tokens a pass may have now, if the engine runs this base; else no trial asks."""
        usual = DEFAULT_LIMITS.most  # as in a training that nobody shares, so that bits agree
        return usual if covers_model(self.base) else min(usual, most_tokens(Network(self.base), memory_mb))

    def _score(self, model: PreTrainedModel, job: Job) -> Done:
        size = self.experiment.evaluation.batch_size
        told = f"out of memory while {size} items were scored at once; set a smaller evaluation.batch_size"
        with lacking_memory(lambda: EvaluationError(told)):
            return self._score_in_batches(model, job, size)

    def _score_in_batches(self, model: PreTrainedModel, job: Job, size: int) -> Done:
        evaluation, items = self.experiment.evaluation, job.items
        tasks = {name: self.tasks[name] for name in job.tasks or evaluation.names}
        split = "tune" if items in {"trial", "confirmation"} else items
        own = None if job.tasks else OWN_SCORES.get(self.experiment.method.kind)
        if not tasks and own is not None:
            return Done(own(self, model, items, split))
        chosen = load_items(tasks, self.experiment, split)
        if split != items:
            chosen = fewer_items(chosen, tasks, self.experiment, keep_primary=items == "confirmation")
        base = Base(self.base, self.model.sha256)
        live = live_model(model, self.tokenizer, batch_size=size, base=base)

        def scored(tasks: Mapping[str, Task], items: Mapping[str, Sequence[Row]]) -> Scores:
            return score(model, self.tokenizer, tasks, items, split=split, batch_size=size, live=live)

        if job.rival is not None:
            name = evaluation.primary.split("/")[1]
            only = {name: tasks[name]}
            lost = race(lambda rows: scored(only, {name: rows}), chosen[name], job.rival, evaluation.primary)
            if lost is not None:
                return Done(lost[0], beaten=lost[1], latency=live.latency)
        scores = scored(tasks, chosen)
        scores = scores if own is None else together(scores, own(self, model, items, split))
        return Done(scores, latency=live.latency)

    def judged_rows(self, items: Items, split: str) -> Sequence[Row]:
        """The rows that a method's own task is scored on; a trial is scored on a few."""
        rows: Sequence[Row] = getattr(self.dataset, split).rows
        if items == "trial":
            return stratified(rows, self.experiment.evaluation.trial_items, by=self.experiment.data.stratify_by)
        return rows

    @functools.cached_property
    def probe(self) -> str:
        """The text on which an adapter must change the logits."""
        return render(as_conversation(self.dataset.tune.rows[0])["messages"], self.tokenizer)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - lives as long as the worker
    def _tokens(self, split: str, count: int | None) -> Sequence[Any]:
        config = self.experiment.data
        if split == "train":
            rows = training_rows(self.dataset, config.model_copy(update={"train_rows": count})).rows
        else:
            rows = self.dataset.tune.rows
            rows = stratified(rows, count, by=config.stratify_by) if count else rows
        return self.method.encode(rows, self.tokenizer, max_length=self.experiment.model.max_length)


def calibration_key(placement: Placement, threads: int, base_sha256: str) -> str:
    """Under what a calibration is kept: the processor or device, how it computes, and the base."""
    place = torch.cuda.get_device_name() if placement.device == "cuda" else cpu_model()
    return f"{place}, {threads} threads, {placement.dtype}, torch {torch.__version__}, {base_sha256[:16]}"


def _pairs(bench: Workbench, model: PreTrainedModel, items: Items, split: str) -> Scores:
    """Score a reward model on the pairs of a split."""
    rows, length = bench.judged_rows(items, split), bench.experiment.model.max_length
    pairs = bench.method.encode(rows, bench.tokenizer, max_length=length)
    margins = pair_margins(network_of(model), pairs, batch_size=bench.experiment.evaluation.batch_size)
    settings = {"chat_template": bench.tokenizer.chat_template, "max_length": length}
    return pair_scores(rows, margins, split=split, settings=settings)


def _replies(bench: Workbench, model: PreTrainedModel, items: Items, split: str) -> Scores:
    """Score a policy by the reward model that it is trained with."""
    from tunesmith.train.rlhf import config_of, judge_of

    rows, method = bench.judged_rows(items, split), config_of(bench.experiment)
    length = bench.experiment.model.max_length
    prompts = bench.method.encode(rows, bench.tokenizer, max_length=length)
    network = network_of(model)
    return reply_scores(
        network,
        judge_of(bench.experiment),
        rows,
        prompts,
        split=split,
        limit=method.max_reply,
        ends={*end_tokens(network), bench.tokenizer.eos_token_id},
        settings={"reward_model": method.reward_model, "max_length": length},
    )


OWN_SCORES = {"reward": _pairs, "rlhf": _replies}
"""How methods that bring a task with them are scored on it."""
