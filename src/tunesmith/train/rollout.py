"""RLOOTrainer with rollouts that do no work twice."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from trl import RLOOTrainer
from trl.trainer.utils import RepeatSampler

from tunesmith.models.decoding import sample
from tunesmith.models.judge import Judge
from tunesmith.models.prefix import can_share, scales_logits
from tunesmith.train.order import EPOCH_STRIDE
from tunesmith.train.replies import grouped, token_logprobs

STEP_STRIDE = 1_000_003  # keeps (seed, step + 1) apart from (seed + 1, step)


class EpochRepeatSampler(RepeatSampler):
    """TRL's sampler, which gives every prompt as often as it is replied to; its order depends on seed and epoch alone.

    TRL's own draws one order after the other, so a training that goes on in its second epoch would see the first again.
    """

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next, counted from 0."""
        self.generator.manual_seed(self.seed + EPOCH_STRIDE * epoch)


class SharedRLOOTrainer(RLOOTrainer):
    """RLOOTrainer that runs a prompt once for all its replies, and whose samples depend on seed and step alone.

    TRL runs the prompt again with each reply, scores every position where Triton is absent, and asks the policy
    again for the log-probabilities that it had while it sampled. The algorithm and its loss are TRL's.
    """

    _sampled: list[list[float]] | None = None

    def __init__(self, *, judge: Judge, **options: Any) -> None:
        self._judge = judge
        super().__init__(reward_funcs=judge_replies, **options)

    def _get_train_sampler(self, dataset: Any = None) -> EpochRepeatSampler:
        return EpochRepeatSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            seed=self.args.seed,
        )

    def _network(self) -> PreTrainedModel:
        return self.accelerator.unwrap_model(self.model).get_base_model()

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any) -> list[list[int]]:
        network = self._network()
        seed = self.args.seed + STEP_STRIDE * (self.state.global_step + 1)
        found = sample(
            network,
            prompt_ids[:: self.num_generations],
            copies=self.num_generations,
            limit=self.max_completion_length,
            ends=set(self.eos_token_ids),
            generator=torch.Generator(network.device).manual_seed(seed),
        )
        self._sampled = [reply.logprobs for reply in found]
        self._prompts = prompt_ids
        return [reply.tokens for reply in found]

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        groups = grouped(self._prompts, completion_ids_list)
        given = [value for group in self._judge.rewards(groups.prompts, groups.replies) for value in group]
        values = [value for _, value in sorted(zip(groups.places, given, strict=True))]
        local = torch.tensor(values, device=self.accelerator.device)[:, None]
        return self.accelerator.gather(local)

    def _get_per_token_logps_and_entropies(
        self, model: Any, ids: torch.Tensor, mask: torch.Tensor, kept: int, *rest: Any, **more: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        wanted = mask[:, -kept:]
        if self._sampled is not None:  # TRL's first question after sampling is about the policy that sampled
            known, self._sampled = self._sampled, None
            return filled([torch.tensor(row) for row in known], wanted), None, None
        network = self._network()
        if not can_share(network) or scales_logits(network) or self.accelerator.num_processes > 1:
            return super()._get_per_token_logps_and_entropies(model, ids, mask, kept, *rest, **more)
        groups = grouped(*unpadded(ids, mask, kept))
        with self.accelerator.autocast():
            logprobs, entropies = (groups.ungrouped(values) for values in token_logprobs(network, groups))
        return filled(logprobs, wanted), filled(entropies, wanted), None

    def log(self, logs: dict[str, float], *args: Any) -> None:
        """Log; TRL's divergence is a mean over tokens, `reply_kl` is one over replies, in nats."""
        metrics = self._metrics["train"]
        metrics["reply_kl"] = [
            kl * length for kl, length in zip(metrics["kl"], metrics["completions/mean_length"], strict=True)
        ]
        super().log(logs, *args)


def judge_replies(**_: Any) -> list[float]:
    """What TRL is given as the reward function: a name; `_calculate_rewards` asks the judge itself."""
    raise AssertionError("never called")


judge_replies.__name__ = "reward_model"


def unpadded(ids: torch.Tensor, mask: torch.Tensor, kept: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and replies of rows [rows, tokens] whose last `kept` columns are the reply."""
    rows = [row[seen.bool()].tolist() for row, seen in zip(ids, mask, strict=True)]
    lengths = mask[:, -kept:].sum(1).tolist()
    return (
        [row[: len(row) - length] for row, length in zip(rows, lengths, strict=True)],
        [row[len(row) - length :] for row, length in zip(rows, lengths, strict=True)],
    )


def filled(rows: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Values of each reply's tokens as [rows, tokens], zero where `mask` is."""
    values = torch.cat(list(rows)).to(mask.device)
    return torch.zeros(mask.shape, device=mask.device, dtype=values.dtype).masked_scatter(mask.bool(), values)
