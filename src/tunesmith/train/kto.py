"""KTO through TRL's KTOTrainer, with reference log-probabilities that all trials share."""

import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import KTOConfig, KTOTrainer

from tunesmith.config.experiment import Experiment
from tunesmith.config.method import KtoConfig as Kto
from tunesmith.models.loading import network_of
from tunesmith.records import Row
from tunesmith.train.arguments import arguments
from tunesmith.train.method import Method
from tunesmith.train.order import epoch_order, own_share
from tunesmith.train.ordered import OwnRows
from tunesmith.train.pairs import Reply, encode_reply
from tunesmith.train.recorder import TrainingData
from tunesmith.train.reference import Asked, Reference, policy_logprobs
from tunesmith.train.team import leader_first, team


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[Reply]:
    """Encode KTO rows; a preference pair is taken as a wanted reply and an unwanted one."""
    encoded = []
    for row in rows:
        if "chosen" in row:
            said = [(row["chosen"], True), (row["rejected"], False)]
        else:
            said = [(row["completion"], row["label"])]
        for reply, wanted in said:
            made = encode_reply(row["prompt"], reply, tokenizer, max_length=max_length, row=row["id"])
            encoded.append(Reply(made.prompt, made.reply, wanted, made.truncated))
    return encoded


class SharedReferenceKTOTrainer(OwnRows, KTOTrainer):
    """KTOTrainer over rows whose tokens and reference log-probabilities are known already."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
        return dataset


def build_trainer(
    experiment: Experiment,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
    *,
    folder: pathlib.Path,
    callbacks: Sequence[TrainerCallback],
) -> KTOTrainer:
    """A trainer over encoded replies that writes nothing by itself but into `folder`.

    TRL estimates the KL divergence of a micro-batch from its replies, each after the next row's prompt. So the order
    is that of one epoch for all; it depends on the seed alone.
    """
    method, own = config_of(experiment), team()
    size = own.rows_at_once(method) * own.size  # the rows of all processes' passes are one micro-batch
    rows = [data.train[n] for n in mixed_order(data.train, batch_size=size, seed=experiment.seed)]
    network, at_once = model.get_base_model().eval(), scored_at_once(experiment)
    with leader_first(own):
        for asked in (matched(data.tune), mismatched(data.tune, len(data.tune))):
            data.reference.learn(network, asked, batch_size=at_once)
        columns = table(network, rows[: own.even(len(rows))], size=size, reference=data.reference, at_once=at_once)
    trainer = SharedReferenceKTOTrainer(
        model=model,
        args=KTOConfig(
            **arguments(experiment, model, folder),
            beta=method.beta,
            desirable_weight=method.wanted_weight,
            undesirable_weight=method.unwanted_weight,
            precompute_ref_log_probs=True,
            train_sampling_strategy="sequential",
            dataloader_drop_last=len(rows) % size == 1,  # a lone row has no other to estimate the KL from
            max_length=None,  # rows are cut, and counted, when they are encoded
        ),
        train_dataset=Dataset.from_dict({name: own_share(values, own) for name, values in columns.items()}),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    model.delete_adapter("ref")  # TRL's frozen copy; nobody will ask it
    return trainer


def config_of(experiment: Experiment) -> Kto:
    """The experiment's method, known to be KTO."""
    assert isinstance(experiment.method, Kto)  # noqa: S101 - chosen by kind
    return experiment.method


def mixed_order(rows: Sequence[Reply], *, batch_size: int, seed: int) -> list[int]:
    """Row numbers in an order in which rows of a micro-batch have like lengths and, as a rule, other prompts."""
    return epoch_order([len(row.input_ids) for row in rows], batch_size=batch_size, seed=seed, epoch=0)


def table(
    network: PreTrainedModel, rows: Sequence[Reply], *, size: int, reference: Reference, at_once: int
) -> dict[str, list[Any]]:
    """The columns that TRL trains on: tokens, what the KL is estimated from, and the reference's log-probabilities."""
    others = mismatched(rows, size)
    return {
        "prompt_ids": [row.prompt for row in rows],
        "completion_ids": [row.reply for row in rows],
        "label": [row.wanted for row in rows],
        "KL_completion_ids": [reply for _, reply in others],
        "ref_logps": reference.learn(network, matched(rows), batch_size=at_once),
        "ref_KL_logps": reference.learn(network, others, batch_size=at_once),
    }


def matched(rows: Sequence[Reply]) -> list[Asked]:
    """Each row's prompt with its own reply."""
    return [(row.prompt, row.reply) for row in rows]


def mismatched(rows: Sequence[Reply], size: int) -> list[Asked]:
    """Each row's prompt with the reply of the row before it in its micro-batch of `size` (the first has the last's)."""
    found = []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        found += [(row.prompt, batch[n - 1].reply) for n, row in enumerate(batch)]
    return found


def scored_at_once(experiment: Experiment) -> int:
    """How many prompts are scored together."""
    return experiment.evaluation.batch_size


def measure(
    model: PreTrainedModel, rows: Sequence[Reply], *, experiment: Experiment, data: TrainingData
) -> dict[str, float]:
    """The KTO loss, with one KL estimate over all rows, and that estimate in nats per reply."""
    method, at_once = data.yardstick or experiment.method, scored_at_once(experiment)
    assert isinstance(method, Kto)  # noqa: S101 - chosen by kind
    ratios, crossed = (
        torch.tensor(policy_logprobs(network_of(model), asked, batch_size=at_once))
        - torch.tensor(data.reference.of(asked))
        for asked in (matched(rows), mismatched(rows, len(rows)))
    )
    kl = crossed.mean().clamp(min=0)
    wanted = torch.tensor([row.wanted for row in rows])
    signs = torch.where(wanted, 1.0, -1.0)
    weights = torch.where(wanted, method.wanted_weight, method.unwanted_weight)
    losses = weights * (1 - torch.sigmoid(method.beta * signs * (ratios - kl)))
    return {"tune/loss": losses.mean().item(), "tune/kl": kl.item()}


METHOD = Method(
    encode=encode,
    build_trainer=build_trainer,
    measure=measure,
    logged={"kl": "train/kl", "rewards/margins": "train/reward_margin"},
)
