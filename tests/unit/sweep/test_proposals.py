"""What is tried next: samplers learn from trials that wait, fail or cost."""

import math

import pytest
from optuna.trial import TrialState
from tests.studies import make

from tunesmith.config.space import Sampler
from tunesmith.sweep import proposals


@pytest.mark.parametrize("kind", ["tpe", "gp", "cmaes"])
def test_proposals_learn_from_trials_that_wait(experiment, space, kind):
    """Two searches that differ only in what waiting trials reached propose differently, and each repeats itself."""
    space = space.model_copy(update={"sampler": Sampler(kind=kind)})

    def proposal(better, name):
        sweep = make(experiment, space, name)
        for rate in (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 5e-2, 2e-5, 4e-2, 5e-4, 2e-3, 2e-2):
            sweep.add({"method.learning_rate": rate, "method.batch_size": 4, "method.epochs": 1})
        for _ in range(14):  # two are the grid's
            number = sweep.ask().number
            rate = sweep.trials()[number].params["method.learning_rate"]
            sweep.report(number, abs(math.log(rate / better)), fraction=0.2)
        trials = sweep.trials()
        assert {trial.state for trial in trials} == {TrialState.RUNNING}
        twice = [[proposals.propose(trials, space, seed=seed) for seed in range(6)] for _ in range(2)]
        assert twice[0] == twice[1]
        return sorted(params["method.learning_rate"] for params in twice[0])

    high, low = proposal(5e-2, "high"), proposal(1e-5, "low")
    assert high[3] > 5 * low[3]


@pytest.mark.parametrize("began_well", [False, True])
def test_parameters_that_made_a_training_fail_count_as_poor(experiment, space, began_well):
    sweep = make(experiment, space)
    for _ in range(12):
        number = sweep.ask().number
        if sweep.trials()[number].params["method.learning_rate"] > 2e-3:
            if began_well:
                sweep.report(number, 0.1, fraction=0.2)
            sweep.remember(number, infeasible="loss nan")
            sweep.prune(number)
        else:
            sweep.report(number, 1.0, fraction=0.2)
    rates = [proposals.propose(sweep.trials(), space, seed=seed)["method.learning_rate"] for seed in range(20)]
    assert sorted(rates)[15] < 2e-3


def test_a_latency_that_was_not_measured_counts_as_the_usual_one(experiment, space):
    sweep = make(experiment, space)
    names = ["train/tokens", "latency"]
    for latency in (None, 0.01, 0.02, 0.04):
        number = sweep.ask().number
        sweep.remember(number, costs={"train/tokens": 100.0, **({"latency": latency} if latency else {})})
        sweep.report(number, 1.0, fraction=0.2)
    seen = proposals._at_first_rung(sweep.trials(), names)
    assert [trial.values for trial in seen] == [[1.0, 100.0, value] for value in (0.02, 0.01, 0.02, 0.04)]
    first = proposals._at_first_rung(sweep.trials()[:1], names)
    assert [trial.values for trial in first] == [[1.0, 100.0, 0.0]]


def test_a_search_that_weighs_costs_tries_cheaper_trials(experiment, space):
    """Loss does not depend on the epochs here, so with costs the cheapest are proposed, and without them any."""
    sweep = make(experiment, space)
    for n in range(14):
        trial = sweep.ask()
        sweep.remember(trial.number, costs={"train/tokens": 1000 * trial.params["method.epochs"]})
        sweep.report(trial.number, 1.0 + 0.001 * (n % 3), fraction=0.2)
    weighed = space.model_copy(update={"costs": ["train/tokens"]})

    def epochs(space):
        return [proposals.propose(sweep.trials(), space, seed=seed)["method.epochs"] for seed in range(8)]

    assert sum(epochs(weighed)) < sum(epochs(space))
    by_gp = weighed.model_copy(update={"sampler": Sampler(kind="gp")})
    assert proposals.propose(sweep.trials(), by_gp, seed=1) == proposals.propose(sweep.trials(), by_gp, seed=1)
