"""Log-probabilities under the reference policy: computed once for each reply, and kept for all trials and resumed runs.

The reference is the policy before its first step. Values are kept by the digest of its weights and by the very
tokens of prompt and reply, so template, rows and (for KTO) the pairing within a micro-batch are part of what names
them; rank, seed and learning rate are not.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
from transformers import PreTrainedModel

from tunesmith import manifest
from tunesmith.models.bundled import cache_folder
from tunesmith.models.prefix import continuation_logprobs
from tunesmith.train.replies import grouped

Asked = tuple[list[int], list[int]]
"""The tokens of a prompt and of a reply."""


class Reference:
    """What the policy with these weights thinks of replies; kept on disk under `weights`, their SHA-256, if given.

    `way` tells ways of computing it apart: in bfloat16 they differ by as much as a nat a reply, so a policy is
    compared with a reference that was computed as it is.
    """

    def __init__(self, weights: str = "", way: str = "") -> None:
        self.weights, self.way = weights, way
        self.values: dict[str, float] = {}

    @cached_property
    def in_slots(self) -> "Reference":
        """The same policy as the slots engine computes it."""
        return Reference(self.weights, "slots")

    def learn(self, network: PreTrainedModel, asked: Sequence[Asked], *, batch_size: int) -> list[float]:
        """Summed log-probability in nats of each reply under `network`, which must hold the reference policy now."""
        ask = partial(policy_logprobs, network, batch_size=batch_size)
        return self.learn_by(ask, asked, dtype=network.dtype)

    def learn_by(
        self, ask: Callable[[Sequence[Asked]], list[float]], asked: Sequence[Asked], *, dtype: torch.dtype
    ) -> list[float]:
        """As `learn`, by a function that is asked what is not known yet; it computes in `dtype`."""
        path = self._path(dtype)
        if path is not None and any(key_of(*pair) not in self.values for pair in asked):
            self.values |= read(path)
        wanted = {key: pair for pair in asked if (key := key_of(*pair)) not in self.values}
        if wanted:
            found = ask(list(wanted.values()))
            self.values |= dict(zip(wanted, found, strict=True))
            if path is not None:
                with manifest.writing_file(path) as aside:
                    aside.write_text(json.dumps({**read(path), **self.values}), encoding="utf-8")
        return self.of(asked)

    def of(self, asked: Sequence[Asked]) -> list[float]:
        """The values of replies that were learnt before."""
        return [self.values[key_of(*pair)] for pair in asked]

    def _path(self, dtype: torch.dtype) -> pathlib.Path | None:
        parts = (self.weights[:32], str(dtype).removeprefix("torch."), self.way)
        return cache_folder() / "reference" / f"{'-'.join(filter(None, parts))}.json" if self.weights else None


class Present(Reference):
    """The policy that a network holds now, asked whenever its values are wanted."""

    def __init__(self, network: PreTrainedModel, *, batch_size: int) -> None:
        super().__init__()
        self.network, self.batch_size = network, batch_size

    def of(self, asked: Sequence[Asked]) -> list[float]:
        """The values of replies, computed now."""
        return policy_logprobs(self.network, asked, batch_size=self.batch_size)


def policy_logprobs(network: PreTrainedModel, asked: Sequence[Asked], *, batch_size: int) -> list[float]:
    """Summed log-probability in nats of each reply, `batch_size` prompts of like length at once."""
    groups = grouped([prompt for prompt, _ in asked], [reply for _, reply in asked])
    order = sorted(range(len(groups.prompts)), key=lambda n: len(groups.prompts[n]))
    found: dict[int, list[float]] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        scored = continuation_logprobs(network, [groups.prompts[n] for n in batch], [groups.replies[n] for n in batch])
        found |= {n: [value for value, _ in replies] for n, replies in zip(batch, scored, strict=True)}
    flat = [value for n in range(len(groups.prompts)) for value in found[n]]
    return [value for _, value in sorted(zip(groups.places, flat, strict=True))]


def key_of(prompt: Sequence[int], reply: Sequence[int]) -> str:
    """What names a reply to a prompt: 128 bits of SHA-256 over the tokens of both."""
    return hashlib.sha256(json.dumps([list(prompt), list(reply)]).encode()).hexdigest()[:32]


def read(path: pathlib.Path) -> dict[str, float]:
    """The values kept in a file; none where it is absent or damaged, since they can be computed again."""
    try:
        values: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values
