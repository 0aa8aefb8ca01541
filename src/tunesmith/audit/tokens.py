"""What a model's tokeniser and chat template make of the rows."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tunesmith.audit.diversity import sample
from tunesmith.audit.formatting import empty_problem, turn_problem
from tunesmith.audit.material import Material, turns
from tunesmith.audit.result import Check, Result
from tunesmith.records import Severity

SAMPLE = 2_000
MAX_TRUNCATED, MIN_SUPERVISED = 0.05, 0.05


def checks(tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[Check, ...]:
    """The checks that need a tokeniser, over at most 2,000 training rows."""
    find = partial(lengths, tokenizer=tokenizer, max_length=max_length)
    return (
        Check("chat template", "formatting", partial(rendering, tokenizer=tokenizer), severity=Severity.WARN),
        Check("tokens", "formatting", find, severity=Severity.WARN),
    )


def well_formed(material: Material) -> list[int]:
    """A sample of training rows that a chat template may be asked to render."""
    rows = sample(material.train, SAMPLE, material).tolist()
    return [n for n in rows if not turn_problem(material.rows[n]) and not empty_problem(material.rows[n])]


def rendering(material: Material, *, tokenizer: PreTrainedTokenizerBase) -> Result:
    """Rows that the model's chat template refuses, or whose earlier turns it rewrites once others follow."""
    rows = well_formed(material)
    found = {}
    for n in rows:
        problem = rendering_problem(turns(material.rows[n]), tokenizer)
        if problem:
            found[n] = problem
    share = len(found) / max(1, len(rows))
    return Result(found, share=share, detail=f"{share:.2%} of {len(rows)} training rows", passed=not found)


def rendering_problem(messages: Sequence[Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """What goes wrong when a conversation is rendered."""
    from jinja2.exceptions import TemplateError

    try:
        whole, prompt = render(messages, tokenizer), render(messages[:-1], tokenizer, ask=True)
    except (TemplateError, TypeError, ValueError):
        return "the chat template refuses it"
    return "" if whole.startswith(prompt) else "the chat template rewrites earlier turns"


def render(messages: Sequence[Any], tokenizer: PreTrainedTokenizerBase, *, ask: bool = False) -> str:
    """Messages as the text that the model reads."""
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask))


def lengths(material: Material, *, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Result:
    """Tokens per row, the share of rows that would be cut, and the share of tokens that the loss counts."""
    rows = [n for n in well_formed(material) if not rendering_problem(turns(material.rows[n]), tokenizer)]
    if not rows:
        return Result({}, skipped="no training row can be rendered")
    whole = count_tokens([render(turns(material.rows[n]), tokenizer) for n in rows], tokenizer)
    replies = [[str(turn["content"]) for turn in turns(material.rows[n]) if turn["role"] == "assistant"] for n in rows]
    flat = count_tokens([text for said in replies for text in said], tokenizer)
    supervised = (flat.sum() + sum(map(len, replies))) / whole.sum()  # one end mark for each reply
    cut = {n: f"has {size} tokens" for n, size in zip(rows, whole.tolist(), strict=True) if size > max_length}
    share = len(cut) / len(rows)
    detail = (
        f"of {len(rows)} rows longer than max_length {max_length}; median {np.median(whole):.0f} tokens, "
        f"longest {whole.max()}, {supervised:.0%} of them in the loss"
    )
    return Result(
        cut,
        share=share,
        detail=detail,
        passed=share <= MAX_TRUNCATED and supervised >= MIN_SUPERVISED,
        metrics={"audit/truncated_rate": share, "audit/supervised_share": float(supervised)},
        series={"Tokens per row": tuple(float(size) for size in whole)},
    )


def count_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Tokens of each text, of shape [texts]."""
    return np.array([len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]])
