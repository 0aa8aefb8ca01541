"""Count how often sweeps without a true improvement get promoted, and how often those with one.

    python benchmarks/promotion_errors.py [--sweeps 200]

Simulated: each item has its own difficulty, drawn once for all models (Beta(3, 2), mean 0.6), so that
models err together as real ones do; a model answers an item right with that chance, raised (up to 1)
by what the model is better. A sweep tries 30 models on 132 tune items and sends its best to a holdout of 300
items, where the gate `beats_champion` at 95% decides, by the same code that promotes real models. The
naive rule promotes when the best tune score is above the champion's tune score.
"""

import argparse
import datetime
import json
import pathlib

import numpy as np

from tunesmith.config.policy import Policy, Superiority
from tunesmith.gate.decide import Evidence, decide
from tunesmith.records import Decision, Scores

TRIALS, TUNE_ITEMS, HOLDOUT_ITEMS = 30, 132, 300
POLICY = Policy(model="bot", gates=[Superiority(rule="beats_champion", metric="holdout/intent/exact_match")])


def answers(rng: np.random.Generator, difficulty: np.ndarray, better: float) -> np.ndarray:
    """Right (1) or wrong (0) by item, of a model that is truly better by `better` on average."""
    return (rng.random(len(difficulty)) < np.clip(difficulty + better, 0, 1)).astype(float)


def scores(values: np.ndarray) -> Scores:
    """Answers as the record that a gate judges."""
    items = {f"i{n}": {"exact_match": float(value)} for n, value in enumerate(values)}
    return Scores({}, {"intent": items}, {item: item for item in items}, "same")


def sweep(rng: np.random.Generator, better: float) -> tuple[bool, bool]:
    """One sweep over equally good trials: whether the gate promotes its winner, and whether the naive rule does."""
    tune, holdout = rng.beta(3, 2, TUNE_ITEMS), rng.beta(3, 2, HOLDOUT_ITEMS)
    best = max(answers(rng, tune, better).mean() for _ in range(TRIALS))
    naive = bool(best > answers(rng, tune, 0.0).mean())
    winner, champion = scores(answers(rng, holdout, better)), scores(answers(rng, holdout, 0.0))
    verdict = decide(POLICY, Evidence({}, winner, champion, champion))
    return verdict.decision is Decision.PASS, naive


def simulate(sweeps: int, better: float, seed: int) -> dict[str, float]:
    """Shares of sweeps that each rule promotes."""
    rng = np.random.default_rng(seed)
    outcomes = np.array([sweep(rng, better) for _ in range(sweeps)])
    gate, naive = outcomes.mean(axis=0)
    return {"sweeps": sweeps, "true improvement": better, "gate promotes": float(gate), "naive promotes": float(naive)}


def main() -> None:
    """Simulate both cases and write the dated result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20_261_125)
    arguments = parser.parse_args()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    cases = {
        "no true difference": simulate(arguments.sweeps, 0.0, arguments.seed),
        "truly 10 points better": simulate(arguments.sweeps, 0.1, arguments.seed + 1),
    }
    result = {"date": today, "seed": arguments.seed, "trials": TRIALS, "holdout items": HOLDOUT_ITEMS, **cases}
    path = pathlib.Path(__file__).parent / "results" / f"{today}-promotion-errors.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
