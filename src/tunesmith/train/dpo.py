"""DPO through TRL's DPOTrainer, with reference log-probabilities that all trials share."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import DPOConfig, DPOTrainer

from tunesmith.config.experiment import Experiment
from tunesmith.config.method import DpoConfig as Dpo
from tunesmith.models.loading import network_of
from tunesmith.train.arguments import arguments
from tunesmith.train.encode import IGNORED
from tunesmith.train.method import Method
from tunesmith.train.ordered import OrderedRows
from tunesmith.train.pairs import Pair, encode_pairs
from tunesmith.train.preference import both, pair_figures
from tunesmith.train.recorder import TrainingData
from tunesmith.train.reference import policy_logprobs
from tunesmith.train.replies import grouped, token_logprobs
from tunesmith.train.team import inside, leader_first, team


class SharedPromptDPOTrainer(OrderedRows, DPOTrainer):
    """DPOTrainer over pairs whose tokens and reference are known, which runs a pair's prompt once.

    TRL runs the prompt with each of its replies, and on a CPU its output layer over every position. Its own `sft` loss
    is a mean over the tokens of a micro-batch; ours is one over pairs, whatever is run at once.
    """

    sft_weight = 0.0

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def row_lengths(self) -> list[int]:
        """The length in tokens of each training pair."""
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        return [sum(map(len, parts)) for parts in zip(*(self.train_dataset[name] for name in names), strict=True)]

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        forward, logprobs = self._forward(model), []

        def policy(**arguments: Any) -> Any:
            outputs = forward(**arguments)
            logprobs.append(outputs.log_probs)
            return outputs

        loss = super()._compute_loss(policy, inputs, return_outputs=False)
        if self.sft_weight:
            tokens = inputs["completion_mask"][:, 1:].sum(1)
            likely, _ = (logprobs[0].sum(1) / tokens).chunk(2)
            loss = loss - self.sft_weight * likely.mean()
        return (loss, None) if return_outputs else loss

    def _forward(self, model: Any) -> Callable[..., Any]:
        """A forward pass whose outputs have the `log_probs` of the labels."""
        if self.args.gradient_checkpointing:  # which keeps no cache to share a prompt by
            forward: Callable[..., Any] = model
            return forward
        network = self.accelerator.unwrap_model(model)
        outputs = functools.partial(reply_outputs, network.get_base_model())

        def shared(input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> SimpleNamespace:
            return inside(model, network, outputs, input_ids, labels)

        return shared


def reply_outputs(network: PreTrainedModel, input_ids: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
    """What TRL's loss reads of a forward pass over ids and labels [rows, tokens], 0 where there is no label.

    All are [rows, tokens − 1]. The mean logits and hits that TRL only logs are not computed.
    """
    starts = (labels != IGNORED).int().argmax(1).tolist()
    replies = [row[row != IGNORED].tolist() for row in labels]
    prompts = [row[:start].tolist() for row, start in zip(input_ids, starts, strict=True)]
    groups = grouped(prompts, replies)
    logprobs, entropies = token_logprobs(network, groups)
    shape = (labels.shape[0], labels.shape[1] - 1)
    placed = []
    for values in (logprobs, entropies):
        table = torch.zeros(shape, dtype=values.dtype, device=values.device)
        at = torch.nonzero(labels[:, 1:] != IGNORED, as_tuple=True)
        placed.append(table.index_put(at, torch.cat(groups.ungrouped(values))))
    nothing = torch.zeros(shape, device=logprobs.device)
    return SimpleNamespace(log_probs=placed[0], entropy=placed[1], mean_logits=nothing, is_top1=nothing.bool())


def build_trainer(
    experiment: Experiment,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
    *,
    folder: pathlib.Path,
    callbacks: Sequence[TrainerCallback],
) -> DPOTrainer:
    """A trainer over encoded pairs that writes nothing by itself but into `folder`.

    `model` must hold the reference policy now: the bare base under a fresh adapter, or the parent's adapter.
    """
    method = config_of(experiment)
    network, at_once = model.get_base_model().eval(), experiment.evaluation.batch_size
    with leader_first(team()):
        data.reference.learn(network, both(data.tune), batch_size=at_once)
        values = data.reference.learn(network, both(data.train), batch_size=at_once)
    trainer = SharedPromptDPOTrainer(
        model=model,
        args=DPOConfig(
            **arguments(experiment, model, folder),
            beta=method.beta,
            loss_type=[method.loss],
            label_smoothing=method.label_smoothing,
            precompute_ref_log_probs=True,
            disable_dropout=False,  # adapter.dropout says it
            max_length=None,  # pairs are cut, and counted, when they are encoded
        ),
        train_dataset=Dataset.from_dict(columns(data.train, values)),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.sft_weight = method.sft_weight
    model.delete_adapter("ref")  # TRL's frozen copy; nobody will ask it
    return trainer


def columns(pairs: Sequence[Pair], reference: Sequence[float]) -> dict[str, Sequence[Any]]:
    """Pairs as TRL's dataset has them, with the reference's values of each pair's two replies, pair after pair."""
    return {
        "prompt_ids": [pair.prompt for pair in pairs],
        "chosen_ids": [pair.chosen for pair in pairs],
        "rejected_ids": [pair.rejected for pair in pairs],
        "ref_chosen_logps": reference[::2],
        "ref_rejected_logps": reference[1::2],
    }


def config_of(experiment: Experiment) -> Dpo:
    """The experiment's method, known to be DPO."""
    assert isinstance(experiment.method, Dpo)  # noqa: S101 - chosen by kind
    return experiment.method


def measure(
    model: PreTrainedModel, rows: Sequence[Pair], *, experiment: Experiment, data: TrainingData
) -> dict[str, float]:
    """Loss, reward margin, and the share of pairs ranked right: by the implicit reward, and by log π per token."""
    method = data.yardstick or experiment.method
    assert isinstance(method, Dpo)  # noqa: S101 - chosen by kind
    asked = both(rows)
    found = policy_logprobs(network_of(model), asked, batch_size=experiment.evaluation.batch_size)
    policy, reference = (torch.tensor(values).view(-1, 2) for values in (found, data.reference.of(asked)))
    lengths = torch.tensor([len(reply) for _, reply in asked]).view(-1, 2)
    figures = pair_figures(method, policy, reference, lengths)
    return {f"tune/{name}": values.mean().item() for name, values in figures.items()}


METHOD = Method(
    encode=encode_pairs,
    build_trainer=build_trainer,
    measure=measure,
    logged={"rewards/margins": "train/reward_margin", "rewards/accuracies": "train/accuracy"},
)
