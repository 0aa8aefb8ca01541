"""The lm-eval model over a network that is already loaded, without the work that requests share."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from tunesmith.models.decoding import end_tokens, greedy
from tunesmith.models.encoder_decoder import greedy_targets, target_logprobs
from tunesmith.models.loading import network_of
from tunesmith.models.prefix import can_share, continuation_logprobs, plain_logprobs, scales_logits
from tunesmith.models.tree import takes_trees, tree_logprobs

Request = tuple[tuple[str, str], list[int], list[int]]
Tokens = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Base:
    """A base model, whatever is attached to it, and the SHA-256 of its weights."""

    network: PreTrainedModel
    sha256: str


class LiveModel(HFLM):
    """HFLM that answers each distinct request once in its life, and runs a context once for all its continuations."""

    def __init__(self, *args: Any, tuned_from: Base | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tuned_from = tuned_from
        self.replies: dict[str, str] = {}
        self.likelihoods: dict[Tokens, tuple[float, bool]] = {}
        self.seconds = 0.0
        self.tokens = 0

    @property
    def latency(self) -> float | None:
        """Measured time in seconds for each token of the replies so far, their ends counted; None without replies."""
        return self.seconds / self.tokens if self.tokens else None

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate for each request that is new; give every request its reply."""
        new = {repr(request.args): request for request in requests}
        new = {key: request for key, request in new.items() if key not in self.replies}
        if new:
            replies = self._timed(list(new.values()))
            self.replies.update(zip(new, replies, strict=True))
        return [self.replies[repr(request.args)] for request in requests]

    def _timed(self, requests: list[Instance]) -> list[str]:
        shares = can_share(self._network) and not scales_logits(self._network)
        fast = (shares or self._separate) and all(map(is_plain_greedy, requests))
        began = time.perf_counter()
        replies: list[str] = self._greedy(requests) if fast else super().generate_until(requests, disable_tqdm=True)
        self.seconds += time.perf_counter() - began
        self.tokens += sum(len(self.tok_encode(reply)) + 1 for reply in replies)
        return replies

    def _greedy(self, requests: Sequence[Instance]) -> list[str]:
        """Greedy replies, contexts of like length decoded together."""
        decode = greedy_targets if self._separate else greedy
        ends = {self.eot_token_id, *end_tokens(self._network)}
        contexts = [self.tok_encode(request.args[0]) for request in requests]
        order = sorted(range(len(requests)), key=lambda n: len(contexts[n]))
        replies = [""] * len(requests)
        size = int(self.batch_size)
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            limit = max(requests[n].args[1]["max_gen_toks"] for n in batch)
            tokens = decode(self._network, [contexts[n] for n in batch], limit=limit, ends=ends)
            for n, reply in zip(batch, tokens, strict=True):
                replies[n] = self.tok_decode(reply[: requests[n].args[1]["max_gen_toks"]])
        return replies

    def mean_logprobs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The mean log-probability per token, in nats, of each text after its context; 0 for an empty text.

        Answered anew each time: meanwhile an adapter may have been switched on or off.
        """
        asked = {pair: self.tok_encode(pair[1]) for pair in pairs if pair[1]}
        requests = [(pair, self.tok_encode(pair[0]), tokens) for pair, tokens in asked.items()]
        sums = self._likelihoods(requests)
        means = {pair: total / len(asked[pair]) for pair, (total, _) in zip(asked, sums, strict=True)}
        return [means.get(pair, 0.0) for pair in pairs]

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **settings: Any) -> Any:
        """lm-eval counts the context into `max_length`; an encoder–decoder's reply has the start token instead."""
        limit = max_length - context.shape[1] + 1 if self._separate else max_length
        return super()._model_generate(context, limit, stop, **settings)

    @property
    def _separate(self) -> bool:
        """Whether prompt and reply are read apart."""
        return bool(self.backend == "seq2seq")

    @property
    def _network(self) -> PreTrainedModel:
        """The base model, with the adapter's layers inside it if one is attached."""
        return network_of(self.model)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        keys: list[Tokens] = [(tuple(context), tuple(reply)) for _, context, reply in requests]
        new = {key: n for n, key in enumerate(keys) if key not in self.likelihoods}
        if new:
            answers = self._likelihoods([requests[n] for n in new.values()], override_bs)
            self.likelihoods.update(zip(new, answers, strict=True))
        return [self.likelihoods[key] for key in keys]

    def _likelihoods(self, requests: Sequence[Request], override_bs: int | None = None) -> list[tuple[float, bool]]:
        model = self._network
        fits = all(len(context) + len(reply) <= self.max_length for _, context, reply in requests)
        if not self._separate and (scales_logits(model) or not fits):
            return super()._loglikelihood_tokens(list(requests), disable_tqdm=True, override_bs=override_bs)
        groups: dict[tuple[int, ...], list[int]] = {}
        for n, (_, context, _) in enumerate(requests):
            groups.setdefault(tuple(context), []).append(n)
        scored = self._scored(list(groups), [[requests[n][2] for n in group] for group in groups.values()])
        results: dict[int, tuple[float, bool]] = {}
        for group, values in zip(groups.values(), scored, strict=True):
            results.update(zip(group, values, strict=True))
        for n, value in results.items():
            self.cache_hook.add_partial("loglikelihood", requests[n][0], value)
        return [results[n] for n in range(len(requests))]

    def _scored(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[tuple[float, bool]]]:
        """The log-likelihood of each continuation of each context; where no tree can be made, in padded batches."""
        model, size = self._network, int(self.batch_size)
        if not self._separate and takes_trees(model):
            return tree_logprobs(model, contexts, continuations, batch_size=size, softmax=self.softmax_dtype)
        logprobs = continuation_logprobs if can_share(model) else plain_logprobs
        logprobs = target_logprobs if self._separate else logprobs
        order = sorted(range(len(contexts)), key=lambda n: (len(contexts[n]), contexts[n]))
        results: dict[int, list[tuple[float, bool]]] = {}
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            values = logprobs(model, [contexts[n] for n in batch], [continuations[n] for n in batch])
            results.update(zip(batch, values, strict=True))
        return [results[n] for n in range(len(contexts))]


def is_plain_greedy(request: Instance) -> bool:
    """Whether a request wants nothing but greedy decoding up to the model's own end token."""
    settings = request.args[1]
    return not settings.get("do_sample", False) and not settings.get("until") and "max_gen_toks" in settings
