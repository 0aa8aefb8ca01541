"""How a sweep ends: what it found is logged, what nothing needs any more is removed."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from tunesmith.records import Scores
from tunesmith.sweep import collection, report
from tunesmith.sweep.account import account
from tunesmith.sweep.confirmation import Candidate
from tunesmith.sweep.coordinator import Coordinator, name_of
from tunesmith.sweep.earlier import BEST
from tunesmith.sweep.importance import importances
from tunesmith.sweep.trials import last_value

REPORT = "report/search.html"


def log_search(coordinator: Coordinator, placement: str, candidates: Sequence[Candidate]) -> None:
    """Log what search and confirmation found: best parameters, importances, the report."""
    parent, best = coordinator.parent, coordinator.study.ranking()[0]
    parent.tags({"best_params": best.params, "best_trial": best.number})
    parent.metrics({"best/tune_loss": last_value(best)})
    record = account(coordinator, placement, candidates)
    parent.metrics({f"importance/{name}": value for name, value in importances(record).items()})
    parent.text(report.page(record), REPORT)


def log_winner(coordinator: Coordinator, winner: Candidate, scores: Scores) -> None:
    """Log the confirmed winner on the parent run, and how much worse it was on fresh seeds than in the search."""
    parent, first = coordinator.parent, coordinator.study.trials()[winner.trial]
    parent.params({f"{BEST}{name}": value for name, value in winner.params.items()})
    parent.tags({"winner_trial": winner.trial, "winner_run": winner.runs[0]})
    sign = scores.sign(coordinator.experiment.evaluation.primary)
    confirmed = {"confirmed/loss": winner.loss, "confirmed/primary": sign * winner.score}
    parent.metrics({**scores.metrics, **confirmed, **shrinkage(first, winner, sign=sign)})


def shrinkage(first: FrozenTrial, winner: Candidate, *, sign: int) -> dict[str, float]:
    """By how much loss rose and the primary score (`sign` is -1 where less of it is better) fell since the search.

    Only a trial that was trained in full tells: a halved one was judged before its end.
    """
    if first.state != TrialState.COMPLETE:
        return {}
    found = {"confirmed/loss_shrinkage": winner.loss - last_value(first)}
    if "primary" in first.user_attrs:
        found["confirmed/primary_shrinkage"] = sign * first.user_attrs["primary"] - winner.score
    return found


def finish(coordinator: Coordinator) -> None:
    """Mark the sweep as finished, and keep of its checkpoints those of the best trials only."""
    study = coordinator.study
    study.study.set_user_attr(collection.FINISHED, True)
    best = study.ranking()[: coordinator.space.confirm.top]
    collection.collect(coordinator.folder, keep={name_of(trial.number) for trial in best})
