"""A sweep against what people do today: how soon each finds a model within 1% of the peer's best.

    python -m benchmarks.peers [--flags] [--sides defaults strong tunesmith] [--seeds 1 2 3] [--retrain 101 102 103]

Three sides search the same space over the same rows, each with so many trials, and measure tune loss on the same rows:
- defaults: a process for each trial: TRL's SFTTrainer as it comes, with LoRA. Optuna's TPE proposes.
- strong: one process: the base loaded once in bfloat16, no checkpointing, rows of like lengths together, rows
  tokenised once, TPE with a median pruner that sees tune loss at every fifth of a training.
- tunesmith: `tunesmith sweep`, the whole command.

Each side's clock begins with its process, so start-up counts. Both peers get the rows tokenised, measure tune loss by
our function at labelled positions only, begin with the space's coarse grid as our sweep does, and score no task; our
sweep does all of that itself, and scores trials. Sides run one after the other.

`--flags` first times ways to train with TRL and chooses the fastest for the strong peer. `--retrain` trains every
side's winner again, alone, through TRL, from the seeds that are named. `--minutes` ends a side: no trial begins later,
and the result says how far it got. What was done lies in `--state` as it comes: the same command goes on from there,
so sides may be run on their own (`--sides` without a name runs none, and writes the result of what is there).
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

from benchmarks.bench import ROOT, machine, write
from benchmarks.peers.ours import Sweep
from benchmarks.peers.report import OURS, comparisons, curve, fastest, text
from benchmarks.peers.search import Log, Side, by_defaults, encode
from benchmarks.peers.trl import FLAGS, Loaded, Rows, quiet, tuned
from tunesmith.models.loading import attach_saved, release

NAMES = ("defaults", "strong", OURS)
SETTING = ("experiment", "space", "policy", "trials", "rows")


def run_strong(side: Side) -> None:
    """Run the strong peer in a process of its own."""
    path = side.path / "side.json"
    path.write_text(json.dumps({**dataclasses.asdict(side), "started": time.time()}), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "benchmarks.peers.search", str(path)], cwd=ROOT, check=True)


class Judge:
    """Measures saved adapters, all sides' by one function on one base, after their clocks have stopped."""

    def __init__(self) -> None:
        self.loaded: Loaded | None = None

    def load(self, side: Side) -> Loaded:
        """The base, loaded once, with a side's rows."""
        if self.loaded is None:
            self.loaded = side.load()
        return dataclasses.replace(self.loaded, rows=Rows.read(side.rows_file))

    def losses(self, side: Side, adapter: pathlib.Path) -> tuple[float, float]:
        """An adapter's loss on the search's tune rows and on all."""
        loaded, training = self.load(side), side.training(0, {})
        model = attach_saved(loaded.base, adapter)
        rows = loaded.rows
        try:
            first, every = (training.measure(model, part, pad=rows.pad) for part in (rows.tune, rows.every))
        finally:
            release(model)
        return first, every

    def judge(self, side: Side, log: Log) -> None:
        """Measure what a side's trials came to."""
        for number, trial in sorted(log.trials.items()):
            if trial["state"] == "complete" and "judged" not in trial:
                folder = pathlib.Path(side.training(number, {}).folder)
                judged, every = self.losses(side, folder / "adapter")
                log.add(number=number, judged=judged, judged_every=every)


def run(side: Side) -> None:
    """Run what is left of a side."""
    log = Log.of(side)
    if not side.rows_file.is_file():
        encode(side)
    if "seconds" not in log.facts or (log.facts["cut"] and side.name != OURS):
        if side.name == OURS:
            Sweep(side).run()
        else:
            log.add(machine=machine(), flags=side.flags if side.name == "strong" else None)
            (by_defaults if side.name == "defaults" else run_strong)(side)


def time_flags(sides: list[Side], judge: Judge, *, rows: int) -> None:
    """Train one epoch over a few rows with every set of flags in turn, from each seed; note seconds and loss."""
    path = sides[0].path / "flags.jsonl"
    known = {(one["flags"], one["seed"]) for one in lines_of(path)}
    for turn, side in enumerate(sides):
        if not side.rows_file.is_file():
            encode(side)
        loaded = judge.load(side)
        few = dataclasses.replace(loaded.rows, train=loaded.rows.train[:rows])
        folder = str(side.path / "adapters" / "flags")
        training = dataclasses.replace(side.training(0, {"method.epochs": 1}), folder=folder)
        names = list(FLAGS)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if (name, side.seed) not in known:
                began = time.perf_counter()
                loss = _train(training, dataclasses.replace(loaded, rows=few, flags=FLAGS[name]))
                seconds = time.perf_counter() - began
                append(path, {"flags": name, "seed": side.seed, "rows": rows, "seconds": seconds, "loss": loss})


def _train(training: Any, loaded: Loaded) -> float:
    with quiet():
        return tuned(training, loaded).values[1.0]


def retrain(sides: list[Side], judge: Judge, seeds: list[int]) -> None:
    """Train each side's winner again, alone, through TRL."""
    path = sides[0].path / "retrained.jsonl"
    known = {(one["side"], one["seed"]) for one in lines_of(path)}
    for side in sides:
        judged = [trial for trial in Log.of(side).trials.values() if "judged" in trial]
        if not judged:
            continue
        best = min(judged, key=lambda trial: trial["judged"])
        for seed in seeds:
            if (side.key, seed) in known:
                continue
            training = side.training(best["number"], best["params"], seed=seed)
            folder = side.path / "adapters" / f"{side.key}-again-{seed}"
            training = dataclasses.replace(training, folder=str(folder))
            _train(training, dataclasses.replace(judge.load(side), flags=FLAGS[side.flags]))
            tune, every = judge.losses(side, folder / "adapter")
            append(path, {"side": side.key, "seed": seed, "params": best["params"], "tune": tune, "every": every})


def append(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Add a line to a record, and show it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
    print(values, flush=True)


def lines_of(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a record."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def grouped(path: pathlib.Path, key: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of a record by one of their fields."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines_of(path):
        found.setdefault(line[key], []).append(line)
    return found


def result_of(sides: list[Side], chosen: str) -> dict[str, Any]:
    """All that is known, as values for JSON."""
    known: dict[str, Any] = {}
    for side in sides:
        log = Log.of(side)
        if log.trials:
            trials = [log.trials[number] for number in sorted(log.trials)]
            facts = {"cut": len(trials) < side.trials, **log.facts, "seconds": log.seconds}
            known[side.key] = {"name": side.name, "seed": side.seed, "wanted": side.trials, **facts, "trials": trials}
            known[side.key]["curve"] = curve(known[side.key])
    return {
        "machine": machine(),
        "setting": {name: getattr(sides[0], name) for name in SETTING},
        "sides": known,
        "comparisons": comparisons(known),
        "flags": grouped(sides[0].path / "flags.jsonl", "flags"),
        "chosen": chosen,
        "retrained": grouped(sides[0].path / "retrained.jsonl", "side"),
    }


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rows", type=int, default=160, help="rows that are trained on (data.search_rows)")
    parser.add_argument("--minutes", type=float, help="no trial of a side begins later")
    parser.add_argument("--flags", action="store_true", help="time the strong peer's flags, with every seed")
    parser.add_argument("--flag-rows", type=int, default=64)
    parser.add_argument("--retrain", type=int, nargs="*", default=[], metavar="SEED")
    parser.add_argument("--experiment", default="experiments/support.yaml")
    parser.add_argument("--space", default="search_spaces/sft.yaml")
    parser.add_argument("--policy", default="registry/support-bot.yaml")
    parser.add_argument("--state", type=pathlib.Path, default=ROOT / ".tunesmith" / "peers")
    parser.add_argument("--name", default="peers", help="the result is DATE-NAME")
    return parser.parse_args()


def check_setting(options: argparse.Namespace) -> dict[str, Any]:
    """What all sides share; raises `SystemExit` when the state is of another search."""
    setting = {name: getattr(options, name) for name in SETTING}
    options.state.mkdir(parents=True, exist_ok=True)
    path = options.state / "setting.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != setting:
        raise SystemExit(f"{options.state} holds another search, {path.read_text()}; name another --state")
    path.write_text(json.dumps(setting), encoding="utf-8")
    return setting


def main() -> int:
    """Run what is asked for, one after the other; write what is known after each."""
    options = parsed()
    shared = {**check_setting(options), "folder": str(options.state.resolve()), "minutes": options.minutes}
    judge, chosen = Judge(), ""
    seeds = {*options.seeds, *(int(path.stem.rpartition("-")[2]) for path in options.state.glob("*-*.jsonl"))}
    every = [Side(name, seed, **shared) for seed in sorted(seeds) for name in NAMES]
    mine = [n for n, side in enumerate(every) if side.seed in options.seeds]

    def keep() -> list[Side]:
        nonlocal chosen
        chosen = fastest(grouped(options.state / "flags.jsonl", "flags"), usual="recipe")
        sides = [dataclasses.replace(side, flags=chosen) for side in every]
        for side in sides:  # also what a side had trained when it was cut off
            judge.judge(side, Log.of(side))
        result = result_of(sides, chosen)
        write(f"{result['machine']['date'][:10]}-{options.name}", text(result), result)
        return sides

    if options.flags:
        time_flags([every[n] for n in mine[:: len(NAMES)]], judge, rows=options.flag_rows)
    for n in mine:
        if every[n].name in options.sides:
            run(keep()[n])
    if options.retrain:
        sides = keep()
        retrain([sides[n] for n in mine], judge, options.retrain)
    keep()
    return 0


if __name__ == "__main__":
    sys.exit(main())
