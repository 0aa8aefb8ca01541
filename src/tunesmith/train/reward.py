"""Reward models through TRL's RewardTrainer: the chosen reply of a pair is to get more than the rejected one."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import RewardConfig, RewardTrainer

from tunesmith.config.experiment import Experiment
from tunesmith.config.method import RewardConfig as Reward
from tunesmith.models.loading import network_of
from tunesmith.models.reward import pair_margins, rewards
from tunesmith.train.arguments import arguments
from tunesmith.train.method import Method
from tunesmith.train.ordered import OrderedRows
from tunesmith.train.pairs import Pair, encode_pairs
from tunesmith.train.recorder import TrainingData
from tunesmith.train.team import inside

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


class SharedRewardTrainer(OrderedRows, RewardTrainer):
    """RewardTrainer that runs the prompt of a pair once, and reads the reward at the reply's very last token.

    TRL runs the prompt with each of its replies. It finds the end of a reply by its padding, which on a tokenizer
    that pads with its end mark is one token before that mark.
    """

    def row_lengths(self) -> list[int]:
        """The length in tokens of each training pair."""
        return [sum(map(len, parts)) for parts in zip(*(self.train_dataset[name] for name in COLUMNS), strict=True)]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Mean negative log-likelihood in nats of the pairs' order, and what keeps rewards near 0."""
        network = self.accelerator.unwrap_model(model)
        replies = list(zip(inputs["chosen_ids"], inputs["rejected_ids"], strict=True))
        rate = functools.partial(rewards, network.get_base_model())
        chosen, rejected = inside(model, network, rate, inputs["prompt_ids"], replies).view(-1, 2).T
        margins = chosen - rejected
        loss = -logsigmoid(margins).mean() + self.args.center_rewards_coefficient * ((chosen + rejected) ** 2).mean()
        tokens = torch.tensor(sum(len(ids) for name in COLUMNS for ids in inputs[name]), device=margins.device)
        self._total_train_tokens += int(self.accelerator.gather(tokens).sum())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        all_margins = self.accelerator.gather(margins.detach())
        self._metrics["train"]["accuracy"].append((all_margins > 0).float().mean().item())
        self._metrics["train"]["margin"].append(all_margins.mean().item())
        return loss


def build_trainer(
    experiment: Experiment,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
    *,
    folder: pathlib.Path,
    callbacks: Sequence[TrainerCallback],
) -> RewardTrainer:
    """A trainer over encoded pairs that writes nothing by itself but into `folder`."""
    method = experiment.method
    assert isinstance(method, Reward)  # noqa: S101 - chosen by kind
    rows = [dict(zip(COLUMNS, (pair.prompt, pair.chosen, pair.rejected), strict=True)) for pair in data.train]
    return SharedRewardTrainer(
        model=model,
        args=RewardConfig(
            **arguments(experiment, model, folder),
            center_rewards_coefficient=method.center,
            max_length=None,  # pairs are cut, and counted, when they are encoded
            remove_unused_columns=False,
        ),
        data_collator=columns,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )


def columns(rows: Sequence[dict[str, list[int]]]) -> dict[str, list[list[int]]]:
    """A batch as lists of ids: what shares a prompt is found in these."""
    return {name: [row[name] for row in rows] for name in COLUMNS}


def measure(
    model: PreTrainedModel, rows: Sequence[Pair], *, experiment: Experiment, data: TrainingData
) -> dict[str, float]:
    """Loss, and the share of pairs whose chosen reply gets more."""
    margins = torch.tensor(pair_margins(network_of(model), rows, batch_size=experiment.evaluation.batch_size))
    return {"tune/loss": -logsigmoid(margins).mean().item(), "tune/accuracy": (margins > 0).float().mean().item()}


METHOD = Method(
    encode=encode_pairs,
    build_trainer=build_trainer,
    measure=measure,
    logged={"accuracy": "train/accuracy", "margin": "train/margin"},
)
