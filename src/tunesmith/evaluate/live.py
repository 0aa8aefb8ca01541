"""The lm-eval model over a network that is already loaded, without the work that requests share."""

from collections.abc import Sequence

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tunesmith.models.prefix import can_share, continuation_logprobs, scales_logits

Request = tuple[tuple[str, str], list[int], list[int]]


class LiveModel(HFLM):
    """HFLM that generates once per distinct request, and runs a context once for all its continuations."""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate for each distinct request; give every request its reply."""
        distinct = {repr(request.args): request for request in requests}
        replies = super().generate_until(list(distinct.values()), disable_tqdm=True)
        by_key = dict(zip(distinct, replies, strict=True))
        return [by_key[repr(request.args)] for request in requests]

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        model = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        fits = all(len(context) + len(reply) <= self.max_length for _, context, reply in requests)
        if scales_logits(model) or not can_share(model) or not fits:
            return super()._loglikelihood_tokens(list(requests), disable_tqdm=True, override_bs=override_bs)
        results: dict[int, tuple[float, bool]] = {}
        for batch in self._batches(requests):
            contexts = [requests[group[0]][1] for group in batch]
            continuations = [[requests[n][2] for n in group] for group in batch]
            scored = continuation_logprobs(model, contexts, continuations)
            for group, values in zip(batch, scored, strict=True):
                results.update(zip(group, values, strict=True))
        for n, value in results.items():
            self.cache_hook.add_partial("loglikelihood", requests[n][0], value)
        return [results[n] for n in range(len(requests))]

    def _batches(self, requests: Sequence[Request]) -> list[list[list[int]]]:
        """Request numbers, grouped by equal context; contexts of like length are batched together."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for n, (_, context, _) in enumerate(requests):
            groups.setdefault(tuple(context), []).append(n)
        ordered = [groups[context] for context in sorted(groups, key=lambda context: (len(context), context))]
        size = int(self.batch_size)
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]
