"""Eight adapters trained together against the same eight trained one after the other.

    python -m benchmarks.fused

Every slot takes one whole optimiser step, optimiser included, on ragged real rows of its own. Both sides are
the slots engine with the same slots: fused, all in one pass; solo, a pass for each; calibrated, as the
engine's own calibration decides.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.bench import Bench, interleave, load, machine, ratio, timed, write
from tunesmith.config.experiment import AdapterConfig
from tunesmith.config.method import SftConfig
from tunesmith.train.encode import Encoded
from tunesmith.train.slots.calibrate import calibrate
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.passes import Limits
from tunesmith.train.slots.slot import Plan

SLOTS = 8
ROUNDS = {32: 9, 128: 7, 512: 5}
TARGETS = {32: 0.55, 128: 0.75, 512: 1.03}
SOLO, FUSED = Limits(fuse=1, most=10**6), Limits(fuse=10**6, most=10**6)


def slot_rows(rows: Sequence[Encoded], tokens: int) -> list[list[Encoded]]:
    """Rows of each slot, about `tokens` a slot on average, no two slots alike: row ends for 32, else whole rows."""
    if tokens < 64:
        lengths = [tokens + (n % 5 - 2) * tokens // 5 for n in range(SLOTS)]
        return [[tail(rows[n], length)] for n, length in enumerate(lengths)]
    if tokens < 256:
        near = sorted(rows, key=lambda row: abs(len(row.input_ids) - tokens))
        return [[row] for row in near[:SLOTS]]
    each = round(tokens / (sum(len(row.input_ids) for row in rows) / len(rows)))
    return [list(rows[n * each : (n + 1) * each]) for n in range(SLOTS)]


def tail(row: Encoded, length: int) -> Encoded:
    """The last tokens of a row, where its reply is."""
    return Encoded(row.input_ids[-length:], row.labels[-length:], truncated=True)


def compare(bench: Bench, tokens: int, calibrated: Limits) -> dict[str, object]:
    """Seconds a step of all slots, by side."""
    engine = Engine(bench.base)
    counts = []
    for n, rows in enumerate(slot_rows(bench.rows, tokens)):
        method = SftConfig(batch_size=len(rows), epochs=1000, learning_rate=1e-5)
        engine.join(n, Plan(rows, AdapterConfig(), method, seed=n))
        counts.append(sum(len(row.input_ids) for row in rows))

    def side(limits: Limits) -> float:
        engine.limits = limits
        return timed(engine.step)

    sides = {"solo": SOLO, "fused": FUSED, "calibrated": calibrated}
    for limits in sides.values():
        side(limits)
    seconds = interleave(
        {name: lambda limits=limits: side(limits) for name, limits in sides.items()}, rounds=ROUNDS[tokens]
    )
    return {
        "tokens": counts,
        "seconds": seconds,
        "fused": ratio(seconds["fused"], seconds["solo"]),
        "calibrated": ratio(seconds["calibrated"], seconds["solo"]),
    }


def main() -> None:
    """Measure and write the result."""
    bench = load()
    where = machine()
    calibration = calibrate(Engine(bench.base), bench.rows, memory_mb=4096)
    found = {tokens: compare(bench, tokens, calibration.limits) for tokens in ROUNDS}
    lines = [
        f"# {SLOTS} adapters together against one after the other",
        "",
        str(where),
        "",
        f"Calibrated: {calibration}",
        "",
    ]
    lines += ["| tokens a slot | solo s/step | fused / solo | calibrated / solo | target |", "|---|---|---|---|---|"]
    for tokens, result in found.items():
        solo = statistics.median(result["seconds"]["solo"])
        lines.append(
            f"| {tokens} ({min(result['tokens'])} to {max(result['tokens'])}) | {solo:.2f} | {result['fused']} "
            f"| {result['calibrated']} | ≤ {TARGETS[tokens]} |"
        )
    write("fused", "\n".join(lines) + "\n", {"machine": where, "calibration": asdict(calibration), "found": found})


if __name__ == "__main__":
    main()
