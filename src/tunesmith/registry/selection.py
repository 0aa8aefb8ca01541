"""How much the winner of a search shrank when it was trained again, beside what chance alone would do."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, stdev

from mlflow.entities import Run

from tunesmith.stats.selection import expected_maximum, pooled_deviation
from tunesmith.tracking import store
from tunesmith.tracking.runs import TAG

LOSS = "tune/loss"


@dataclass(frozen=True)
class Shrinkage:
    """Tune loss of the confirmations minus that of the winning trial at its end.

    `expected` is what a search over equally good trials would show: the expected best of `trials`
    results that differ by the noise between seeds alone; None where nothing tells that noise.
    """

    observed: float
    expected: float | None
    trials: int
    noise: str = ""

    def describe(self) -> str:
        """One line for people."""
        found = f"winner's curse: tune loss changed by {self.observed:+.3f} on fresh seeds"
        if self.expected is None:
            return f"{found}; one seed and one trial trained in full cannot tell what chance alone would show"
        return (
            f"{found}; the best of {self.trials} equally good trials would show {self.expected:+.3f} "
            f"(from the spread {self.noise})"
        )


def kind(run_id: str) -> str:
    """What a run is: `trial`, `confirmation`, `sft`, ..."""
    return str(store.client().get_run(run_id).data.tags.get(f"{TAG}kind", ""))


def shrinkage(run_id: str) -> Shrinkage | None:
    """The shrinkage of a confirmed winner, from its sweep's runs.

    None for a run that no search has chosen, and for a winner that the search did not train in full.
    """
    client = store.client()
    tags = client.get_run(run_id).data.tags
    parent, winner = tags.get("mlflow.parentRunId"), tags.get(f"{TAG}trial")
    if parent is None or winner is None:
        return None
    judged, whole = 0, dict[str, float]()
    confirmed: dict[str, list[float]] = defaultdict(list)
    for run in _runs_of_sweep(parent):
        trial, loss = run.data.tags.get(f"{TAG}trial"), run.data.metrics.get(LOSS)
        if trial is None or loss is None:
            continue
        if run.data.tags.get(f"{TAG}kind") == "trial":
            judged += 1
            if run.info.status == "FINISHED":
                whole[trial] = loss
        elif run.info.status == "FINISHED":
            confirmed[trial].append(loss)
    if winner not in whole or winner not in confirmed:
        return None
    observed = fmean(confirmed[winner]) - whole[winner]
    noise, source = pooled_deviation(list(confirmed.values())), "between seeds"
    if noise is None and len(whole) > 1:
        noise, source = stdev(whole.values()), "between trials, an upper bound, since no seed was repeated"
    if noise is None:
        return Shrinkage(observed, None, judged)
    return Shrinkage(observed, noise * expected_maximum(judged), judged, source)


def _runs_of_sweep(parent: str) -> Iterator[Run]:
    """The children of a sweep's run, and of those that it adds trials to or that add trials to it: one study, all."""
    client = store.client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    study = client.get_run(parent).data.tags.get(f"{TAG}study")
    others = client.search_runs(experiments, f"tags.`{TAG}study` = '{study}'") if study else []
    for run_id in {parent, *(run.info.run_id for run in others)}:
        yield from client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{run_id}'", max_results=10_000)
