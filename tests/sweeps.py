"""Records of sweeps for tests of their report."""

import dataclasses
import math
import random

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tunesmith.sweep.results import SweepRecord, TrialRecord

SPACE = {
    "method.learning_rate": FloatDistribution(1e-5, 5e-3, log=True),
    "method.batch_size": CategoricalDistribution([4, 8, 16]),
    "method.epochs": IntDistribution(1, 3),
    "method.weight_decay": FloatDistribution(0.0, 0.1),
    "method.scheduler": CategoricalDistribution(["linear", "cosine", "constant"]),
}
PARAMS = {
    "method.learning_rate": 5e-4,
    "method.batch_size": 8,
    "method.epochs": 2,
    "method.weight_decay": 0.0,
    "method.scheduler": "cosine",
}


def trial(number, **changes):
    """A trial that was trained in full."""
    whole = TrialRecord(
        number=number,
        params=PARAMS,
        state="complete",
        reason="",
        losses={20: 2.5, 60: 2.0, 100: 1.5 + number / 100},
        steps=10,
        curve=tuple((step, 3.0 - step / 10) for step in range(1, 11)),
        tokens=1000,
        full_tokens=1000,
        seconds=10.0,
        primary=0.5,
        run_id=f"{number:032x}",
        source="tpe",
    )
    return dataclasses.replace(whole, **changes)


def halved(number, **changes):
    given = {"state": "halved", "losses": {20: 2.6}, "tokens": 200, "seconds": 4.0, "primary": None}
    return trial(number, **{**given, **changes})


def infeasible(number, **changes):
    given = {"state": "infeasible", "reason": "loss is not finite", "losses": {20: math.nan}, "tokens": 100}
    return trial(number, **{**given, "seconds": 1.0, "primary": None, **changes})


def failed(number, **changes):
    given = {"state": "failed", "reason": "the worker died", "losses": {}, "curve": (), "tokens": 50}
    return trial(number, **{**given, "seconds": 0.5, "primary": None, **changes})


def sweep(*trials, **changes):
    record = SweepRecord(
        experiment="support",
        run_id="f" * 32,
        primary_metric="tune/intent/exact_match",
        base_primary=0.125,
        base_loss=3.25,
        trials=trials,
        confirmations=(),
        rungs=(0.2, 0.6000000000000001, 1.0),
        workers=2,
        placement="cpu, bfloat16",
        seconds=1800.0,
        watts=20.0,
        distributions=SPACE,
    )
    return dataclasses.replace(record, **changes)


def plausible(count, *, points=60, seed=1):
    """A sweep as one could have gone: the rate decides, a large one diverges, a third goes on at each rung."""
    draw = random.Random(seed)
    trials = []
    for number in range(count):
        params = {
            "method.learning_rate": 10 ** draw.uniform(-5, -2.3),
            "method.batch_size": draw.choice([4, 8, 16]),
            "method.epochs": draw.randint(1, 3),
            "method.weight_decay": draw.uniform(0, 0.1),
            "method.scheduler": draw.choice(["linear", "cosine", "constant"]),
        }
        off = abs(math.log10(params["method.learning_rate"]) + 3.0)
        floor = 1.2 + 0.45 * off + 0.02 * params["method.batch_size"] / 4 + draw.uniform(0, 0.05)
        rate = 4.0 / (1 + off)

        def loss(share, floor=floor, rate=rate):
            return floor + 2.0 * math.exp(-rate * share)

        reach = 1.0 if draw.random() < 0.15 else 0.6 if draw.random() < 0.25 else 0.2
        steps, full = 160 * params["method.epochs"] // params["method.batch_size"], 21_000 * params["method.epochs"]
        last = max(1, round(points * reach))
        found = trial(
            number,
            params=params,
            state="complete" if reach == 1 else "halved",
            reason="" if reach == 1 else "halved: other trials were better at this point",
            losses={round(100 * share): loss(share) for share in (0.2, 0.6, 1.0) if share <= reach},
            steps=steps,
            curve=tuple((max(1, n * steps // points), loss(n / points) + draw.gauss(0, 0.12)) for n in range(1, last)),
            tokens=round(full * reach),
            full_tokens=full,
            seconds=full * reach / 900,
            primary=round(0.9 - 0.25 * off - draw.uniform(0, 0.1), 3) if reach == 1 else None,
            run_id=f"{draw.getrandbits(128):032x}",
            source="grid" if number < 3 else "tpe",
        )
        if params["method.learning_rate"] > 4e-3:
            reason = "the loss is not finite at step 7; lower method.learning_rate"
            found = dataclasses.replace(found, state="infeasible", reason=reason, losses={}, tokens=1500, primary=None)
        trials.append(found)
    return sweep(*trials)
