"""What the base model itself makes of the answers: which it knows already, which the prompt does not explain."""

import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.audit.material import Material, turns
from tunesmith.audit.result import Check, Result
from tunesmith.audit.tokens import render, rendering_problem, well_formed
from tunesmith.data.digest import digest_of
from tunesmith.models.bundled import cache_folder
from tunesmith.models.prefix import can_share, continuation_logprobs, scales_logits
from tunesmith.records import Row, Severity

BATCH = 16
ALONE = [{"role": "user", "content": "-"}]


@dataclass(frozen=True)
class Loss:
    """Loss in nats per token of a row's last answer after its prompt, and on its own."""

    prompted: float
    alone: float

    @property
    def ratio(self) -> float:
        """The instruction-following difficulty (Li et al., 2024): below 1, the prompt helps."""
        return self.prompted / self.alone if self.alone > 0 else 1.0


Told = Callable[[int, int], None]
"""Hears how many of how many rows are done."""


class BaseModel:
    """A loaded base model that gives the losses of rows, each once: they are cached by row and model digest."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sha256: str, told: Told) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.told = told
        self.file = cache_folder() / "losses" / f"{sha256}.json"

    def losses(self, rows: Mapping[int, Row]) -> dict[int, Loss]:
        """The losses of rows, by position."""
        known = self._read()
        keys = {n: digest_of(list(turns(row))) for n, row in rows.items()}
        new = [n for n in rows if keys[n] not in known]
        new.sort(key=lambda n: sum(len(str(turn["content"])) for turn in turns(rows[n])))
        try:
            for start in range(0, len(new), BATCH):
                batch = new[start : start + BATCH]
                for n, loss in zip(batch, self._compute([rows[n] for n in batch]), strict=True):
                    known[keys[n]] = (loss.prompted, loss.alone)
                self.told(start + len(batch), len(new))
        finally:
            if new:
                self._write(known)
        return {n: Loss(*known[key]) for n, key in keys.items()}

    def _compute(self, rows: Sequence[Row]) -> list[Loss]:
        contexts, replies = [], []
        for row in rows:
            *prompt, answer = turns(row)
            contexts.append(self._ids(render(prompt, self.tokenizer, ask=True)))
            replies.append(self._ids(str(answer["content"])))
        header = render(ALONE, self.tokenizer, ask=True).removeprefix(render(ALONE, self.tokenizer))
        start = self._ids(header) or [int(self.tokenizer.eos_token_id)]
        prompted = continuation_logprobs(self.model, contexts, [[reply] for reply in replies])
        alone = continuation_logprobs(self.model, [start], [replies])[0]
        return [
            Loss(-with_prompt[0][0] / len(reply), -without[0] / len(reply))
            for with_prompt, without, reply in zip(prompted, alone, replies, strict=True)
        ]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _read(self) -> dict[str, tuple[float, float]]:
        try:
            stored = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {key: (float(first), float(second)) for key, (first, second) in stored.items()}

    def _write(self, known: Mapping[str, tuple[float, float]]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.file.parent, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(known, file)
        pathlib.Path(name).replace(self.file)


def checks(base: BaseModel) -> tuple[Check, ...]:
    """The checks that need the base model; neither bars training."""
    return (
        Check("trivial", "accuracy", partial(trivial, base=base), severity=Severity.NOTE),
        Check("impossible", "accuracy", partial(impossible, base=base), severity=Severity.NOTE),
    )


def measured(material: Material, base: BaseModel) -> dict[int, Loss]:
    """The losses of a sample of training rows that can be rendered."""

    def measure() -> dict[int, Loss]:
        rows = {n: material.rows[n] for n in well_formed(material)}
        return base.losses({n: row for n, row in rows.items() if not rendering_problem(turns(row), base.tokenizer)})

    return material.once("losses", measure)  # type: ignore[no-any-return]


def refusal(base: BaseModel) -> str:
    """Why this model's losses cannot be had this way; empty if they can."""
    fits = can_share(base.model) and not scales_logits(base.model)
    return "" if fits else "the model attends in windows, scales its logits or has an encoder"


def trivial(material: Material, *, base: BaseModel) -> Result:
    """Rows whose answer the base gives already: they teach nothing but form."""
    if refusal(base):
        return Result({}, skipped=refusal(base))
    losses, limit = measured(material, base), material.limits.difficulty.trivial_loss
    found = {n: f"loss {loss.prompted:.2f} under the base" for n, loss in losses.items() if loss.prompted < limit}
    series = {"Loss of the answers under the base, nats per token": tuple(loss.prompted for loss in losses.values())}
    mean = sum(loss.prompted for loss in losses.values()) / max(1, len(losses))
    detail = f"of {len(losses)} training rows have a loss below {limit:g}; mean {mean:.2f} nats per token"
    return Result(found, detail=detail, passed=not found, metrics={"audit/base_loss": mean}, series=series)


def impossible(material: Material, *, base: BaseModel) -> Result:
    """Rows whose prompt does not help to predict the answer; it may belong to another question."""
    if refusal(base):
        return Result({}, skipped=refusal(base))
    losses, limit = measured(material, base), material.limits.difficulty.impossible_ratio
    found = {n: f"difficulty ratio {loss.ratio:.2f}" for n, loss in losses.items() if loss.ratio >= limit}
    series = {"Instruction-following difficulty": tuple(loss.ratio for loss in losses.values())}
    detail = f"of {len(losses)} training rows have a ratio loss(answer | prompt) / loss(answer) of {limit:g} or more"
    return Result(found, detail=detail, passed=not found, series=series)
