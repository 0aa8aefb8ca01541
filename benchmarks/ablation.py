"""What each lever of the slots engine saves: one step with all of them, and with one at a time taken away.

    python -m benchmarks.ablation

A step trains 8 real rows, rank 16 on all linear layers; the variants take turns in every round, each going on with
its own adapter. Taken away are:

- shared beginnings: what rows begin with in common is computed once for each of them.
- flat rows: rows are padded to the longest of the step.
- the output layer at labelled positions: it is computed at every token.
- laid-out weights: products read the model's own weights, and lay them out anew each time.
- kept activations: every block is computed again on the way back, as gradient checkpointing does.
- the precision: the one that this machine was not found to be faster in, unless it would only emulate that.
- the written-out backward pass: PyTorch's autograd over PEFT's modules and TRL's trainer, the other levers as they are.

Fusing is a lever between trials: for it eight adapters of about 32 and 128 tokens each take their step in one
pass and in eight. What halving saves is replayed in `benchmarks.rungs`.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.bench import Bench, interleave, load, machine, ratio, timed, write
from benchmarks.fused import FUSED, compare
from benchmarks.step import BATCH, LIMITS, STEPS, TUNED, OrderedSupervised, trl_side
from tunesmith.config.experiment import AdapterConfig
from tunesmith.config.method import SftConfig
from tunesmith.models.device import cpu_computes_bfloat16, place
from tunesmith.models.loading import load_base
from tunesmith.models.references import resolve
from tunesmith.train.encode import IGNORED, Encoded
from tunesmith.train.slots import engine as engines
from tunesmith.train.slots.batch import Batch, build
from tunesmith.train.slots.network import Groups, Network, Rotary, Walk
from tunesmith.train.slots.slot import Plan

ROUNDS = 7
ALL = "nothing"

Side = Callable[[], float]


class Plain(Network):
    """A network that multiplies by the model's own weights."""

    def prepack(self, pack: bool) -> None:
        """Never."""
        super().prepack(pack=False)


class Recomputing(Network):
    """A network that computes every block again before its backward pass."""

    def train(self, batch: Batch, groups: Groups, slopes: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """As in any network."""
        self.batch = batch
        super().train(batch, groups, slopes)

    def _block_backward(self, walk: Walk, above: torch.Tensor, rotary: Rotary, *, last: bool) -> torch.Tensor:
        self._block_forward(walk.layer, walk.tape.inputs[0], self.batch, rotary, walk.groups)
        return super()._block_backward(walk, above, rotary, last=last)


def padded(rows: Sequence[Encoded], filler: int) -> list[Encoded]:
    """Rows of equal length."""
    longest = max(len(row.input_ids) for row in rows)
    lacking = [longest - len(row.input_ids) for row in rows]
    return [
        Encoded(row.input_ids + [filler] * lack, row.labels + [IGNORED] * lack, row.truncated)
        for row, lack in zip(rows, lacking, strict=True)
    ]


def lean(bench: Bench, rows: Sequence[Encoded], *, share: bool = True, network: type[Network] = Network) -> Side:
    """A step of the slots engine on these rows, again and again."""
    engine = engines.Engine(bench.base, LIMITS)
    engine.network = network(bench.base)
    engine.join(0, Plan(rows, AdapterConfig(), SftConfig(batch_size=len(rows), epochs=1000), seed=1))

    def step() -> float:
        engines.build = build if share else partial(build, share=False)  # type: ignore[assignment]
        try:
            return timed(engine.step)
        finally:
            engines.build = build

    return step


def other_precision(bench: Bench) -> dict[str, Side]:
    """A step in the precision that was not chosen; none on a CPU that would only emulate it."""
    if bench.base.device.type == "cpu" and not cpu_computes_bfloat16():
        return {}
    name = "float32" if bench.base.dtype == torch.bfloat16 else "bfloat16"
    config = bench.experiment.model.model_copy(update={"dtype": name})
    other = replace(bench, base=load_base(resolve(config.base), place(config)))
    return {f"the precision: {name} instead": lean(other, bench.rows[:BATCH])}


def levers(bench: Bench) -> dict[str, Side]:
    """A step with all levers, and with one at a time taken away."""
    rows, filler = bench.rows[:BATCH], int(bench.tokenizer.pad_token_id)
    autograd = trl_side(bench, bench.base, OrderedSupervised, TUNED)
    return {
        ALL: lean(bench, rows),
        "shared beginnings": lean(bench, rows, share=False),
        "flat rows": lean(bench, padded(rows, filler)),
        "the output layer at labelled positions": lean(bench, [replace(row, labels=row.input_ids) for row in rows]),
        "laid-out weights": lean(bench, rows, network=Plain),
        "kept activations": lean(bench, rows, network=Recomputing),
        **other_precision(bench),
        "the written-out backward pass": lambda: autograd(rows * STEPS),
    }


def table(seconds: Mapping[str, list[float]], fused: Mapping[int, Any]) -> str:
    """The result as a Markdown table."""
    lines = ["| without | s/step | times as long |", "|---|---:|---|"]
    for name, values in seconds.items():
        lines.append(f"| {name} | {statistics.median(values):.2f} | {ratio(values, seconds[ALL])} |")
    for tokens, found in fused.items():
        solo, together = found["seconds"]["solo"], found["seconds"]["fused"]
        what = f"fusing eight adapters of about {tokens} tokens"
        lines.append(f"| {what} | {statistics.median(solo):.2f} | {ratio(solo, together)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the result."""
    bench = load()
    where = machine()
    sides = levers(bench)
    for side in sides.values():
        side()  # what is allocated first is slow
    seconds = interleave(sides, rounds=ROUNDS)
    fused = {tokens: compare(bench, tokens, FUSED) for tokens in (32, 128)}
    precision = str(bench.base.dtype).removeprefix("torch.")
    head = f"# What each lever of a step saves\n\n{where}\n\n"
    head += (
        f"{ROUNDS} rounds of a step of {BATCH} rows in {precision}: medians, and the range of the rounds' ratios.\n\n"
    )
    write("ablation", head + table(seconds, fused), {"machine": where, "seconds": seconds, "fused": fused})


if __name__ == "__main__":
    main()
