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
        devices=1,
        placement="cpu, bfloat16",
        seconds=1800.0,
        watts=20.0,
        distributions=SPACE,
    )
    return dataclasses.replace(record, **changes)


def plausible(count, *, points=60, seed=1):
    """A sweep as one could have gone: the rate decides, a large one diverges, a third goes on at each rung."""
    draw = random.Random(seed)
    drawn = [draw_params(draw) for _ in range(count)]
    curves = [loss_of(params, draw.uniform(0, 0.15)) for params in drawn]
    going = [n for n in range(count) if drawn[n]["method.learning_rate"] < 4e-3]
    reach = dict.fromkeys(going, 0.2)
    for rung, before in ((0.6, 0.2), (1.0, 0.6)):
        going = sorted(going, key=lambda n: curves[n](before))[: -(-len(going) // 3)]
        reach |= dict.fromkeys(going, rung)
    trials = []
    for n, (params, loss) in enumerate(zip(drawn, curves, strict=True)):
        steps, full = 160 * params["method.epochs"] // params["method.batch_size"], 21_000 * params["method.epochs"]
        share = reach.get(n, 0.1)
        last = max(2, round(points * share))
        found = trial(
            n,
            params=params,
            state="complete" if share == 1 else "halved",
            reason="" if share == 1 else "halved: other trials were better at this point",
            losses={round(100 * rung): loss(rung) for rung in (0.2, 0.6, 1.0) if rung <= share},
            steps=steps,
            curve=tuple((max(1, k * steps // points), loss(k / points) + draw.gauss(0, 0.12)) for k in range(1, last)),
            tokens=round(full * share),
            full_tokens=full,
            seconds=full * share / 900,
            primary=round(max(0.1, 1.4 - 0.5 * loss(1.0)), 3) if share == 1 else None,
            run_id=f"{draw.getrandbits(128):032x}",
            source="grid" if n < 3 else "tpe",
        )
        if n not in reach:
            reason = "the loss is not finite at step 7; lower method.learning_rate"
            found = dataclasses.replace(found, state="infeasible", reason=reason, losses={})
        trials.append(found)
    return sweep(*trials)


def draw_params(draw):
    return {
        "method.learning_rate": 10 ** draw.uniform(-5, -2.3),
        "method.batch_size": draw.choice([4, 8, 16]),
        "method.epochs": draw.randint(1, 3),
        "method.weight_decay": draw.uniform(0, 0.1),
        "method.scheduler": draw.choice(["linear", "cosine", "constant"]),
    }


def loss_of(params, luck):
    """Loss over the share of the training."""
    off = abs(math.log10(params["method.learning_rate"]) + 3.0)
    floor = 1.2 + 0.45 * off + 0.005 * params["method.batch_size"] + luck
    return lambda share: floor + 2.0 * math.exp(-4.0 / (1 + off) * share)
