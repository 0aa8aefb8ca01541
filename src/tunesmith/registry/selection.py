"""How much the winner of a search shrank when it was trained again, beside what chance alone would do."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean, stdev

from tunesmith.stats.selection import expected_maximum, pooled_deviation
from tunesmith.tracking import store
from tunesmith.tracking.runs import TAG

LOSS = "tune/loss"


@dataclass(frozen=True)
class Shrinkage:
    """Tune loss of the confirmations minus that of the search's best trial.

    `expected` is what a search over equally good trials would show: the expected best of `trials`
    results that differ by the noise between seeds alone.
    """

    observed: float
    expected: float
    trials: int
    noise: str

    def describe(self) -> str:
        """One line for people."""
        return (
            f"winner's curse: tune loss changed by {self.observed:+.3f} on fresh seeds; the best of {self.trials} "
            f"equally good trials would show {self.expected:+.3f} (from the spread {self.noise})"
        )


def kind(run_id: str) -> str:
    """What a run is: `trial`, `confirmation`, `sft`, ..."""
    return str(store.client().get_run(run_id).data.tags.get(f"{TAG}kind", ""))


def shrinkage(run_id: str) -> Shrinkage | None:
    """The shrinkage of a confirmed winner, from its sweep's runs; None for a run that no search has chosen."""
    client = store.client()
    tags = client.get_run(run_id).data.tags
    parent, winner = tags.get("mlflow.parentRunId"), tags.get(f"{TAG}trial")
    if parent is None or winner is None:
        return None
    experiment = client.get_run(parent).info.experiment_id
    searched: dict[str, float] = {}
    confirmed: dict[str, list[float]] = defaultdict(list)
    for run in client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=10_000):
        trial, loss = run.data.tags.get(f"{TAG}trial"), run.data.metrics.get(LOSS)
        if trial is None or loss is None:
            continue
        if run.data.tags.get(f"{TAG}kind") == "trial":
            searched[trial] = loss
        elif run.info.status == "FINISHED":
            confirmed[trial].append(loss)
    if winner not in searched or winner not in confirmed:
        return None
    noise, source = pooled_deviation(list(confirmed.values())), "between seeds"
    if noise is None:
        source = "between trials, an upper bound, since no seed was repeated"
        noise = stdev(searched.values()) if len(searched) > 1 else 0.0
    observed = fmean(confirmed[winner]) - searched[winner]
    return Shrinkage(observed, noise * expected_maximum(len(searched)), len(searched), source)
