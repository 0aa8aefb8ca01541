"""Reinforcement learning from a reward model through TRL's RLOOTrainer (Ahmadian et al., 2024).

Each step samples replies to some prompts. A reply's advantage is its reward, less a penalty for leaving the
reference policy, over the mean of its prompt's other replies.
"""

import pathlib
import statistics
from collections.abc import Sequence

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import RLOOConfig
from trl.trainer.utils import use_adapter

from tunesmith.config.experiment import Experiment
from tunesmith.config.method import RlhfConfig
from tunesmith.models.decoding import end_tokens, sample
from tunesmith.models.device import place
from tunesmith.models.judge import Judge, check_tokenizers, find_reward_model, load_judge
from tunesmith.models.loading import network_of
from tunesmith.train.arguments import arguments
from tunesmith.train.kl import KlLimit
from tunesmith.train.method import Method
from tunesmith.train.pairs import Prompt, encode_prompts
from tunesmith.train.recorder import TrainingData
from tunesmith.train.reference import policy_logprobs
from tunesmith.train.rollout import SharedRLOOTrainer

REFERENCE = "ref"  # TRL's name for the frozen copy of an adapter
TUNE_SEED = 20_260_101


def build_trainer(
    experiment: Experiment,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
    *,
    folder: pathlib.Path,
    callbacks: Sequence[TrainerCallback],
) -> SharedRLOOTrainer:
    """A trainer over prompts that writes nothing by itself but into `folder`."""
    method = config_of(experiment)
    check_tokenizers(tokenizer, find_reward_model(method.reward_model, experiment.path.parent))
    options = arguments(experiment, model, folder)
    options["per_device_train_batch_size"] *= method.replies
    trainer = SharedRLOOTrainer(
        model=model,
        judge=judge_of(experiment),
        args=RLOOConfig(
            **options,
            num_generations=method.replies,
            max_completion_length=method.max_reply,
            beta=method.beta,
            normalize_advantages=True,  # so that a reward model's scale does not set the step's
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt.messages} for prompt in data.train]),
        processing_class=tokenizer,
        callbacks=[*callbacks, KlLimit(method.max_kl)],
    )
    if data.parent is None:  # then the bare base is the reference, and its copy as an adapter only costs time
        model.delete_adapter(REFERENCE)
    return trainer


def config_of(experiment: Experiment) -> RlhfConfig:
    """The experiment's method."""
    assert isinstance(experiment.method, RlhfConfig)  # noqa: S101 - chosen by kind
    return experiment.method


def judge_of(experiment: Experiment) -> Judge:
    """The reward model that an experiment names."""
    found = find_reward_model(config_of(experiment).reward_model, experiment.path.parent)
    return load_judge(found, place(experiment.model), batch_size=experiment.evaluation.batch_size)


def measure(
    model: PreTrainedModel, rows: Sequence[Prompt], *, experiment: Experiment, data: TrainingData
) -> dict[str, float]:
    """Mean reward of one sampled reply to each prompt, its length in tokens, and its KL divergence in nats.

    The loss is minus the reward: what a policy is trained for has no loss of its own.
    """
    network, at_once = network_of(model), experiment.evaluation.batch_size
    ends = {*end_tokens(network), data.end}
    generator = torch.Generator(network.device).manual_seed(TUNE_SEED)
    prompts = [row.input_ids for row in rows]
    replies = []
    for start in range(0, len(prompts), at_once):
        batch = prompts[start : start + at_once]
        limit = config_of(experiment).max_reply
        replies += sample(network, batch, copies=1, limit=limit, ends=ends, generator=generator)
    tokens = [reply.tokens for reply in replies]
    with use_adapter(model, REFERENCE if REFERENCE in model.peft_config else None):
        reference = policy_logprobs(network, list(zip(prompts, tokens, strict=True)), batch_size=at_once)
    given = judge_of(experiment).rewards(prompts, [[reply] for reply in tokens])
    reward = statistics.fmean(reward for (reward,) in given)
    divergence = [sum(reply.logprobs) - value for reply, value in zip(replies, reference, strict=True)]
    return {
        "tune/loss": -reward,
        "tune/reward": reward,
        "tune/kl": statistics.fmean(divergence),
        "tune/reply_tokens": statistics.fmean(map(len, tokens)),
    }


METHOD = Method(
    encode=encode_prompts,
    build_trainer=build_trainer,
    measure=measure,
    whole_batches=True,
    logged={
        "reward": "train/reward",
        "reward_std": "train/reward_deviation",
        "reply_kl": "train/kl",
        "entropy": "train/entropy",
        "completions/mean_length": "train/reply_tokens",
        "completions/clipped_ratio": "train/cut_share",
    },
)
