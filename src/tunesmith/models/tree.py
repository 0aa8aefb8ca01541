"""Log-probabilities of continuations without padding, and with all that texts begin with in common computed once.

The texts of a pass form a tree (`trie`), whose nodes run as one flat row: a node has the position of its token and
attends to the nodes on its own path. What all contexts of a pass begin with is the trunk; its keys and values stay
for the passes that follow. The output layer runs once at each node that predicts something. All this equals the
plain forward pass up to rounding.
"""

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

from tunesmith.models.prefix import at_least_float32, can_share
from tunesmith.models.trie import Trie, shared_tokens

PASS_NODES = 512  # more nodes hardly make products faster, and attention grows with their square
TRUNK_GROWTH = 32  # fewer tokens are cheaper in each pass than as a pass of their own
HEAD_ROWS = 128  # positions whose logits are held at once; more of them leave the processor's cache

Scored = list[tuple[float, bool]]


def takes_trees(model: PreTrainedModel) -> bool:
    """Whether the model's layers attend by any mask they are given, and keep nothing but keys and values."""
    kernel = model.config._attn_implementation
    any_mask = model._supports_attention_backend and kernel in ("sdpa", "eager")
    return any_mask and not model._is_stateful and can_share(model)


@torch.inference_mode()
def tree_logprobs(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int,
    softmax: torch.dtype | None = None,
) -> list[Scored]:
    """As `prefix.continuation_logprobs`, for any number of contexts; up to `batch_size` of them run at once.

    `softmax` is the precision of the log-softmax, by default that of the logits or float32. PyTorch's float32 kernel
    for CPUs is biased: over 49,152 logits it gives a token about 1.5e-5 nats too many, where float64 gives none.
    """
    trunk = Trunk(model)
    results: dict[int, Scored] = {}
    for part in passes(contexts, continuations, batch_size=batch_size):
        first, last = contexts[part[0]], contexts[part[-1]]
        start = trunk.move(first[: min(shared_tokens(first, last), len(first) - 1)])
        trie = Trie(start)
        flat = [(contexts[n], tokens) for n in part for tokens in continuations[n]]
        paths = [trie.add([*context[start:], *tokens[:-1]]) for context, tokens in flat]
        asked = [path[len(context) - 1 - start :] for path, (context, _) in zip(paths, flat, strict=True)]
        scored = iter(_score(model, trunk.run(trie, paths), asked, [tokens for _, tokens in flat], softmax))
        results.update({n: [next(scored) for _ in continuations[n]] for n in part})
    return [results[n] for n in range(len(contexts))]


def passes(
    contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]], *, batch_size: int
) -> list[list[int]]:
    """Which contexts run together, by number: neighbours in lexical order, up to `PASS_NODES` beside the trunk."""
    parts: list[list[int]] = []
    nodes = trunk = 0
    for n in sorted(range(len(contexts)), key=lambda n: tuple(contexts[n])):
        fresh = len(contexts[n]) + sum(len(tokens) - 1 for tokens in continuations[n])
        if parts:
            shared = shared_tokens(contexts[parts[-1][-1]], contexts[n])
            nodes, trunk = nodes + fresh - shared, min(trunk, shared)
        if not parts or len(parts[-1]) == batch_size or nodes - trunk > PASS_NODES:
            parts.append([])
            nodes, trunk = fresh, len(contexts[n]) - 1
        parts[-1].append(n)
    return parts


class Trunk:
    """Keys and values of the tokens that passes begin with, kept from one pass to the next."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.tokens: Sequence[int] = ()
        self.cache = DynamicCache(config=model.config)

    def move(self, tokens: Sequence[int]) -> int:
        """Make these tokens the trunk or, where few would be added, as many as it has of them; returns how many."""
        kept = shared_tokens(self.tokens, tokens)
        self.cache.crop(kept - len(self.tokens))
        if len(tokens) - kept >= TRUNK_GROWTH:
            ids = torch.tensor([list(tokens[kept:])], device=self.model.device)
            self.model.base_model(input_ids=ids, past_key_values=self.cache, use_cache=True)
            kept = len(tokens)
        self.tokens = tokens[:kept]
        return kept

    def run(self, trie: Trie, paths: Sequence[Sequence[int]]) -> torch.Tensor:
        """Hidden states [nodes, width] of the nodes on `paths`, which begin behind the trunk."""
        device = self.model.device
        hidden: torch.Tensor = self.model.base_model(
            input_ids=torch.tensor([trie.ids], device=device),
            attention_mask=self._mask(len(trie.ids), paths),
            position_ids=torch.tensor([trie.positions], device=device),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.cache.crop(-len(trie.ids))
        return hidden[0]

    def _mask(self, nodes: int, paths: Sequence[Sequence[int]]) -> torch.Tensor | None:
        """What is added to the scores [1, 1, nodes, trunk + nodes]; None for a single path, which is plainly causal."""
        if nodes == max(len(path) for path in paths):
            return None
        trunk, dtype = len(self.tokens), self.model.dtype
        mask = torch.full((nodes, trunk + nodes), torch.finfo(dtype).min, dtype=dtype)
        mask[:, :trunk] = 0
        for path in paths:
            at = torch.tensor(path)
            later, earlier = torch.tril_indices(len(path), len(path))
            mask[at[later], trunk + at[earlier]] = 0
        return mask[None, None].to(self.model.device)


def _score(
    model: PreTrainedModel,
    states: torch.Tensor,
    asked: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    softmax: torch.dtype | None,
) -> Scored:
    """Log-probability and greediness of replies, given the states [nodes, width] and the node before each token.

    The log-softmax is lm-eval's, so that equal networks get equal scores.
    """
    flat = [node for path in asked for node in path]
    nodes = sorted(set(flat))
    place = {node: n for n, node in enumerate(nodes)}
    row = torch.tensor([place[node] for node in flat], device=states.device)
    wanted = torch.tensor([token for reply in replies for token in reply], device=states.device)
    logprobs, hits = torch.empty(len(flat), dtype=torch.float64), torch.empty(len(flat), dtype=torch.bool)
    for start in range(0, len(nodes), HEAD_ROWS):
        here = ((row >= start) & (row < start + HEAD_ROWS)).nonzero()[:, 0]
        logits = model.get_output_embeddings()(states[nodes[start : start + HEAD_ROWS]])
        logs = torch.log_softmax(at_least_float32(logits), -1, dtype=softmax)
        at, tokens = row[here] - start, wanted[here]
        logprobs[here.cpu()] = logs[at, tokens].cpu().double()
        hits[here.cpu()] = (logs.argmax(1)[at] == tokens).cpu()
    lengths = [len(reply) for reply in replies]
    per_reply = zip(torch.split(logprobs, lengths), torch.split(hits, lengths), strict=True)
    return [(float(values.sum()), bool(greedy.all())) for values, greedy in per_reply]
