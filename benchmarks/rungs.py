"""Which way of halving keeps the best trials, told from recorded trainings.

    python -m benchmarks.rungs [--searches 100]

The recorded trainings of the demo (`results/2026-11-26-rungs.json`) make a model of its tune loss: at each share of a
training a Gaussian process over learning rate, batch size, epochs and scheduler, and what these leave unexplained
as noise that is correlated from share to share. In this model our search (sampler and rungs as they are shipped, two
workers) tries 20 trials, and so does a strong peer: TPE over one training after the other, stopped by Optuna's
MedianPruner. A way of halving is good where its best loss is within 1% of a peer's in as many pairs of a search and a
peer as that of another peer is, at little cost. Costs are rows: those trained in all, and those of the longest queue
of one worker, which is what a search takes where each worker has a device of its own. What measuring and scoring take
is left out. No training was repeated for this, so "noise" is what the fit leaves, and its error where it was not
fitted (`unseen_error`) is larger.
"""

import argparse
import heapq
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from benchmarks.bench import RESULTS, ROOT, machine, write
from tunesmith.config import Experiment, SearchSpace, overrides
from tunesmith.config.space import Halving
from tunesmith.sweep import proposals
from tunesmith.sweep import study as studies
from tunesmith.sweep.rungs import Standing, Standings

MARKS = (0.2, 0.4, 0.6, 0.8, 1.0)
LEAST_RATE = 1e-4
"""Hardly anything was recorded below; there the loss is taken to rise to the base's, a factor of ten further down."""
BASE_LOSS = 4.35
TRIALS, WORKERS, ROWS = 20, 2, 160
WITHIN = 1.01
WAYS = {
    "no halving": None,
    "0.2": Halving(),
    "0.2, 0.6": Halving(rungs=2),
    "0.2, 0.4, 0.8 by two": Halving(reduction=2, rungs=3),
    "0.2 by two": Halving(reduction=2),
    "0.2 by four": Halving(reduction=4),
    "0.4": Halving(first_rung=0.4),
}


def features(params: Mapping[str, Any]) -> list[float]:
    """What the loss is told from; weight decay made no difference that shows."""
    scheduler = params["method.scheduler"]
    rate, batch = np.log(params["method.learning_rate"]), np.log(params["method.batch_size"])
    return [rate, batch, params["method.epochs"], scheduler == "constant", scheduler == "linear"]


class Landscape:
    """Tune loss at every mark, anywhere in the space, from recorded trainings."""

    def __init__(self, curves: list[dict[str, Any]]) -> None:
        points = np.array([features(curve["params"]) for curve in curves], dtype=float)
        self.mean, self.scale = points.mean(0), points.std(0)
        self.points = (points - self.mean) / self.scale
        self.losses = np.array([[curve["tune_loss"][str(mark)] for mark in MARKS] for curve in curves])
        self.fits = [self._fit(losses) for losses in self.losses.T]
        left = self.losses - np.array([fit.predict(self.points) for fit in self.fits]).T
        self.noise = np.cov(left.T)

    def _fit(self, losses: np.ndarray) -> GaussianProcessRegressor:
        smooth = RBF(np.full(self.points.shape[1], 2.0), (0.3, 30))
        kernel = ConstantKernel(1.0) * smooth + WhiteKernel(
            0.02, (1e-2, 0.3)
        )  # no mark is known much better than the others
        return GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0).fit(
            self.points, losses
        )

    def unseen_error(self) -> float:
        """Root of the mean squared error at the end of a training that the model was not fitted to (one left out)."""
        errors = []
        for n, point in enumerate(self.points):
            rest = np.arange(len(self.points)) != n
            fit = GaussianProcessRegressor(self.fits[-1].kernel_, optimizer=None, normalize_y=True)
            fit.fit(self.points[rest], self.losses[rest, -1])
            errors.append(fit.predict(point[None])[0] - self.losses[n, -1])
        return float(np.sqrt(np.mean(np.square(errors))))

    def curve(self, params: Mapping[str, Any], rng: np.random.Generator) -> dict[float, float]:
        """Tune loss by mark of one training."""
        rate = params["method.learning_rate"]
        known = {**params, "method.learning_rate": max(rate, LEAST_RATE)}
        point = ((np.array(features(known), dtype=float) - self.mean) / self.scale)[None]
        losses = np.array([fit.predict(point)[0] for fit in self.fits])
        losses += (BASE_LOSS - losses) * max(0.0, np.log10(LEAST_RATE / rate))
        return dict(zip(MARKS, losses + rng.multivariate_normal(np.zeros(len(MARKS)), self.noise), strict=True))


@dataclass
class Found:
    """What a search came to: its best loss at the end of a training, rows trained, and those until its last end."""

    best: float
    rows: float
    in_turn: float
    complete: int


@dataclass
class Sweep:
    """Our search in the model: trials pause on rungs, and the best go on."""

    space: SearchSpace
    seed: int
    curve: Callable[[Mapping[str, Any]], dict[float, float]]
    queue: list[dict[str, Any]]
    trials: list[FrozenTrial] = field(default_factory=list)
    curves: list[dict[float, float]] = field(default_factory=list)
    standings: Standings = field(default_factory=Standings)

    def run(self) -> Found:
        """Hand segments to the workers until none is left."""
        rungs, now, busy = studies.rungs(self.space), 0.0, []
        free = WORKERS
        while True:
            while free and (sent := self._next()) is not None:
                number, rung = sent
                share = rungs[rung - 1] - (rungs[rung - 2] if rung > 1 else 0.0)
                heapq.heappush(busy, (now + share * rows_of(self.trials[number].params), number, rung))
                free -= 1
            if not busy:
                break
            now, number, rung = heapq.heappop(busy)
            free += 1
            self._arrive(number, rung, rungs)
        ends = [trial.value for trial in self.trials if trial.state == TrialState.COMPLETE]
        rows = sum(rows_of(trial.params) * max(trial.intermediate_values) / 100 for trial in self.trials)
        return Found(min(ends), rows, now, len(ends))

    def _next(self) -> tuple[int, int] | None:
        may_ask = len(self.trials) < TRIALS
        standing = studies.ladder(self.space).promotable(self.standings, closing=not may_ask)
        if standing is not None:
            self.standings.put(Standing(standing.number, standing.losses, standing.sent + 1))
            return standing.number, standing.sent + 1
        if not may_ask:
            return None
        number = len(self.trials)
        params = self.queue.pop(0) if self.queue else self._proposed(number)
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=proposals.distributions(self.space)
        )
        self.trials.append(trial)
        self.curves.append(self.curve(params))
        self.standings.put(Standing(number, (), 1))
        return number, 1

    def _proposed(self, number: int) -> dict[str, Any]:
        return proposals.propose(self.trials, self.space, seed=self.seed + number)

    def _arrive(self, number: int, rung: int, rungs: tuple[float, ...]) -> None:
        trial, share = self.trials[number], rungs[rung - 1]
        loss = self.curves[number][share]
        trial.intermediate_values[round(100 * share)] = loss
        if rung == len(rungs):
            trial.state, trial.values = TrialState.COMPLETE, [loss]
        losses = tuple(value for _, value in sorted(trial.intermediate_values.items()))
        self.standings.put(Standing(number, losses, rung))


def rows_of(params: Mapping[str, Any]) -> int:
    """The rows that a whole training reads."""
    return ROWS * int(params["method.epochs"])


def peer(space: SearchSpace, seed: int, curve: Callable[..., dict[float, float]], queue: list[dict[str, Any]]) -> Found:
    """TPE and MedianPruner as Optuna ships them, one training after the other."""
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction="minimize", sampler=sampler, pruner=optuna.pruners.MedianPruner())
    for params in queue:
        study.enqueue_trial(params)
    rows = 0.0
    for _ in range(TRIALS):
        trial = study.ask(proposals.distributions(space))
        for mark, loss in curve(trial.params).items():
            trial.report(loss, round(100 * mark))
            if mark < 1 and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, loss)
        rows += mark * rows_of(trial.params)
    return Found(study.best_value, rows, rows, len(study.get_trials(states=[TrialState.COMPLETE])))


def searches(way: str, space: SearchSpace, landscape: Landscape, count: int) -> list[Found]:
    """So many searches in one way, or of the peer; the trainings' noise is drawn anew for each."""
    experiment = Experiment.from_yaml(ROOT / "experiments/support.yaml")
    own = {name: overrides.get(experiment, name) for name in space.params}
    found = []
    for seed in range(count):
        rng = np.random.default_rng([seed, way == "peer"])
        queue = [{**own, **point} for point in proposals.grid(space)]

        def curve(params: Mapping[str, Any], rng: np.random.Generator = rng) -> dict[float, float]:
            return landscape.curve(params, rng)

        if way == "peer":
            found.append(peer(space, seed, curve, queue))
        else:
            there = space.model_copy(update={"halving": WAYS[way]})
            found.append(Sweep(there, seed, curve, queue).run())
    return found


def described(found: list[Found], peers: list[Found]) -> dict[str, float]:
    """What many searches in one way came to, against the peer's."""
    best = [search.best for search in found]
    pairs = [one.best <= WITHIN * other.best for one in found for other in peers if one is not other]
    return {
        "best": statistics.median(best),
        "best_low": float(np.quantile(best, 0.1)),
        "best_high": float(np.quantile(best, 0.9)),
        "within": sum(pairs) / len(pairs),
        "complete": statistics.mean(search.complete for search in found),
        "rows": statistics.median(search.rows for search in found),
        "in_turn": statistics.median(search.in_turn for search in found),
    }


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """The results as Markdown."""
    head = "| rungs | best loss, median (10% to 90%) | within 1% of a peer's best | complete | rows trained | in turn |"
    lines = [
        f"| {way} | {r['best']:.3f} ({r['best_low']:.3f} to {r['best_high']:.3f}) | {r['within']:.2f} "
        f"| {r['complete']:.1f} | {r['rows']:.0f} | {r['in_turn']:.0f} |"
        for way, r in results.items()
    ]
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|", *lines]) + "\n"


def main() -> None:
    """Search in every way, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=100)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recorded = json.loads((RESULTS / "2026-11-26-rungs.json").read_text(encoding="utf-8"))["curves"]
    landscape = Landscape(recorded)
    space = SearchSpace.from_yaml(ROOT / "search_spaces/sft.yaml")
    peers = searches("peer", space, landscape, options.searches)
    results = {"peer": described(peers, peers)}
    for way in WAYS:
        results[way] = described(searches(way, space, landscape, options.searches), peers)
    values = {**machine(), "searches": options.searches, "unseen_error": landscape.unseen_error(), "ways": results}
    values["noise"] = [float(value) for value in np.sqrt(np.diag(landscape.noise))]
    write(f"{values['date'][:10]}-rungs-replayed", table(results), values)


if __name__ == "__main__":
    main()
