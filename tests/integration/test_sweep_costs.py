"""A sweep that weighs costs and has limits: trials beyond them end at once, and the report shows the compromises."""

import json
import pathlib

import pytest
import yaml

from tunesmith.config import Experiment, SearchSpace, overrides
from tunesmith.errors import ConfigError
from tunesmith.sweep import costs
from tunesmith.tracking import runs
from tunesmith.tracking.store import client

SPACE = "search_spaces/smoke.yaml"


def write_space(project, **changes):
    path = pathlib.Path(project, "search_spaces/costs.yaml")
    tree = yaml.safe_load(pathlib.Path(project, SPACE).read_text())
    path.write_text(yaml.safe_dump({**tree, **changes}))
    return str(path)


def test_cmaes_cannot_weigh_costs(project):
    path = write_space(project, costs=["train/tokens"], sampler={"kind": "cmaes"})
    with pytest.raises(ConfigError, match="cmaes knows one objective; with costs use tpe, gp or random"):
        SearchSpace.from_yaml(path)


def test_latency_needs_a_task_with_replies(project):
    space = SearchSpace.from_yaml(write_space(project, costs=["latency"]))
    experiment = Experiment.from_yaml(project / "experiments/smoke.yaml")
    costs.check(space, experiment)
    silent = {"evaluation.tasks": ["quiz"], "evaluation.primary": "tune/quiz/acc"}
    with pytest.raises(
        ConfigError, match="is measured while replies are generated, which none of the tasks quiz needs"
    ):
        costs.check(space, overrides.apply(experiment, silent))


def test_trials_beyond_a_limit_are_infeasible_and_the_front_is_reported(project, invoke):
    space = write_space(
        project,
        costs=["train/tokens", "adapter/parameters", "latency"],
        limits={"memory_mb": 10.0},
        coarse={"sampler": "grid", "params": {"adapter.rank": [4, 512]}},
        params={
            "adapter.rank": {"kind": "int", "low": 2, "high": 512, "log": True},
            "method.learning_rate": {"kind": "float", "low": 1.0e-4, "high": 1.0e-1, "log": True},
        },
    )
    done = invoke(
        "sweep",
        "experiments/smoke.yaml",
        "--space",
        space,
        "--policy",
        "registry/smoke.yaml",
        "--trials",
        "3",
        "--json",
    )
    assert done.exit_code == 0, done.stderr
    parent = runs.attach(json.loads(done.stdout)["sweep_run"])
    children = client().search_runs([client().get_run(parent.id).info.experiment_id])
    ranks = {run.data.params.get("adapter.rank"): run for run in children if run.data.tags.get("tunesmith.trial")}
    large = ranks["512"]
    assert large.info.status == "FAILED"
    assert "limits.memory_mb is 10" in large.data.tags["tunesmith.reason"]
    assert "train/loss" not in large.data.metrics
    page = parent.download("report/search.html", project / "shown").read_text()
    assert "Loss against cost" in page
    assert "Pareto front" in page
    assert "seconds for a token of a reply, measured" in page
    whole = [run for run in ranks.values() if run.data.tags.get("tunesmith.status") == "FINISHED"]
    assert whole
    assert all(run.data.metrics["latency"] > 0 for run in whole)
