"""Racing: the scoring of a hopeless trial ends early, it never wins, and whom it was raced against is recorded."""

import pathlib
import random

import pytest
from benchmarks.orchestration import Idle
from optuna.trial import TrialState
from tests.conftest import ROOT

from tunesmith.audit.checks import require_clean
from tunesmith.config import Experiment, SearchSpace, overrides
from tunesmith.config.space import Sampler
from tunesmith.errors import ConfigError
from tunesmith.progress import Progress
from tunesmith.records import Scores
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.coordinator import Coordinator
from tunesmith.sweep.opening import Resume, open_sweep
from tunesmith.sweep.protocol import Done, Ended, Job, Paused, Rival
from tunesmith.sweep.racing import race
from tunesmith.sweep.search import Search
from tunesmith.sweep.workbench import Workbench
from tunesmith.tracking.store import client

PRIMARY = "tune/reply/perplexity"
MORE_TUNE = {"train": 0.35, "tune": 0.45, "holdout": 0.1, "bench": 0.1}
RACING = {
    **{f"data.split.{name}": share for name, share in MORE_TUNE.items()},
    "evaluation.trial_items": 96,
    "evaluation.racing": True,
    "evaluation.primary": PRIMARY,
}


class Silent:
    """A reporter that tells nobody."""

    def begin(self, steps, *, step=0):
        """A training begins."""

    def metrics(self, values, *, step):
        """A step is done."""

    def rung(self, fraction, *, step, tune_loss):
        """A share is done."""


def test_scoring_stops_where_a_trial_is_hopeless_and_is_else_the_same(tmp_path):
    experiment = overrides.apply(Experiment.from_yaml(ROOT / "experiments/smoke.yaml"), RACING)
    bench = Workbench(experiment)

    def done(name, rival):
        job = Job(experiment, "trial", str(tmp_path / name), loss_rows=4, slots=True, rival=rival)
        return bench.execute(job, Silent())

    whole = done("whole", None)
    assert whole.beaten is None
    assert whole.latency > 0
    values = whole.scores.values("reply", "perplexity")
    assert len(values) > 16
    equal = done("equal", Rival(0, values))
    assert equal.beaten is None
    assert equal.scores.digest == whole.scores.digest
    assert equal.scores.metrics == pytest.approx(whole.scores.metrics, rel=1e-4)
    assert {task: list(items) for task, items in equal.scores.items.items()} == {
        task: list(items) for task, items in whole.scores.items.items()
    }
    far_ahead = done("ahead", Rival(0, {item: value / 2 for item, value in values.items()}))
    assert far_ahead.beaten.seen == 16
    assert far_ahead.beaten.items == len(values)
    assert list(far_ahead.scores.items) == ["reply"]
    assert done("elsewhere", Rival(0, {"another": 0.0})).beaten is None


class Clerk(Idle):
    """A worker that trains nothing, and scores a trial on 40 items: the better, the larger its learning rate."""

    rivals: list

    def ended(self, segment, listener):
        """The end of a segment; at the end of a training it is raced as a real worker would do it."""
        ended = super().ended(segment, listener)
        if isinstance(ended.outcome, Paused):
            return ended
        rival, rng = segment.job.rival, random.Random(segment.key)
        self.rivals.append(rival and rival.trial)
        rate = segment.job.experiment.method.learning_rate
        rows = [{"id": f"item-{n}", "perplexity": 1 / rate * (1 + rng.random() / 10)} for n in range(40)]

        def score(rows):
            items = {row["id"]: {"perplexity": row["perplexity"]} for row in rows}
            mean = sum(row["perplexity"] for row in rows) / len(rows)
            own = {item: item for item in items}
            return Scores({PRIMARY: mean}, {"reply": items}, own, "d", lower_is_better=("reply/perplexity",))

        lost = race(score, rows, rival, PRIMARY) if rival else None
        scores, beaten = lost or (score(rows), None)
        return Ended(segment.key, Done(scores, ended.outcome.trained, beaten=beaten))


@pytest.fixture
def searched(store, monkeypatch):
    """A search of ten trials that are all trained to their end, and what its worker was told."""
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{store / 'optuna.db'}")
    experiment = overrides.apply(Experiment.from_yaml(store / "experiments/smoke.yaml"), RACING)
    space = SearchSpace.from_yaml(store / "search_spaces/smoke.yaml")
    space = space.model_copy(update={"halving": None, "sampler": Sampler(kind="random")})
    parent, study = open_sweep(experiment, space, require_clean(experiment), resume=Resume.NO)
    with Progress() as progress, Coordinator(experiment, space, study, parent, progress) as coordinator:
        clerk = Clerk([])
        clerk.rivals = []
        coordinator.crew.workers = [clerk]
        Search(coordinator, Budget(10)).run()
        yield coordinator, clerk


def test_a_trial_that_lost_a_race_counts_but_never_wins(searched):
    coordinator, clerk = searched
    study = coordinator.study
    trials = study.trials()
    assert len(trials) == 10
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    lost = [trial for trial in trials if "raced" in trial.user_attrs]
    assert 0 < len(lost) < 10
    assert {trial.number for trial in study.ranking()} == {trial.number for trial in trials} - {t.number for t in lost}
    best = None
    for trial, told in zip(trials, clerk.rivals, strict=True):
        rate = trial.params["method.learning_rate"]
        assert trial.user_attrs["rival"] == told == (None if best is None else best.number)
        assert ("raced" in trial.user_attrs) == (best is not None and rate < best.params["method.learning_rate"])
        if "raced" not in trial.user_attrs:
            best = trial
    run = client().get_run(lost[0].user_attrs["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["tunesmith.raced"].startswith("beyond doubt worse than trial 0 on 16 of 40 items (")
    assert run.data.metrics["racing/items"] == 16
    assert PRIMARY not in run.data.metrics


def test_whom_a_trial_was_raced_against_is_not_chosen_anew(searched):
    """Cut off and sent again, it meets the trial that was best when it was first sent."""
    coordinator, _ = searched
    search = Search(coordinator, Budget(10))
    second = coordinator.study.trials()[1]
    assert second.user_attrs["rival"] == 0
    again = search._segment(second, 1)
    assert again.job.rival == Rival(0, coordinator.study.trials()[0].user_attrs["scored"]["values"])


def test_racing_needs_items_to_race_on(tmp_path):
    text = pathlib.Path(ROOT, "experiments/smoke.yaml").read_text()
    text = text.replace("kind: sft", "kind: reward").replace("tune/intent/exact_match", "tune/pairs/ranked_right")
    path = tmp_path / "reward.yaml"
    path.write_text(text + "  racing: true\n")
    with pytest.raises(ConfigError, match="racing needs a task file of your own for tune/pairs/ranked_right"):
        Experiment.from_yaml(path)
