"""How a sweep begins: a new parent run and study, or those of an interrupted one."""

import enum

from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.config.space import SearchSpace
from tunesmith.errors import ConfigError
from tunesmith.models.references import resolve
from tunesmith.progress import Progress, describe
from tunesmith.records import AuditReport
from tunesmith.sweep import costs, earlier, storage
from tunesmith.sweep import study as studies
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.collection import FINISHED
from tunesmith.sweep.status import SEARCHING
from tunesmith.sweep.study import SweepStudy
from tunesmith.sweep.trial_runs import ends
from tunesmith.tracking import resuming, runs, store
from tunesmith.tracking.runs import EXTENDS, Run


class Resume(enum.Enum):
    """Whether a sweep goes on with an interrupted one, and whether that may differ in what it was made from."""

    NO = "no"
    YES = "yes"
    DESPITE_DRIFT = "despite drift"


def open_sweep(
    experiment: Experiment, space: SearchSpace, report: AuditReport, *, resume: Resume, budget: Budget | None = None
) -> tuple[Run, SweepStudy]:
    """The sweep's parent run and study, new or taken up again.

    A sweep that has chosen its winner may choose another where `budget` allows more trials, or where something has
    changed. It goes on in another parent run: the winner's parameters stand on the first, and MLflow lets none change.
    """
    storage.open_known()  # refused, if it must be, before there is a run that nothing would end
    prints = studies.fingerprint(experiment, space, data=report.data_digest)
    if resume is Resume.NO:
        parent = runs.adopt_or_create(experiment.name, f"{experiment.name}-sweep", kind="sweep")
        name = f"{experiment.name}-{parent.id}"
        parent.tags({"study": name})
        return parent, studies.create(experiment, space, name=name, prints=prints, parent_run=parent.id)
    study = studies.load(experiment, space, prints=prints, allow_drift=resume is Resume.DESPITE_DRIFT)
    parent = runs.attach(study.study.user_attrs["parent_run"])
    study.study.set_user_attr(FINISHED, False)
    more = budget is not None and study.begun() < budget.trials + study.added() and not study.reached(budget.target)
    if (more or resume is Resume.DESPITE_DRIFT) and earlier.has_winner(parent):
        return _extension(experiment, study, parent), study
    resuming.reopen(parent, ends(study.trials()))
    resuming.link_resumption(parent)
    return parent, study


def _extension(experiment: Experiment, study: SweepStudy, ended: Run) -> Run:
    """A new parent run for a sweep that had chosen its winner; one that was cut off after that ends."""
    if store.client().get_run(ended.id).info.status == "RUNNING":
        resuming.reopen(ended, ends(study.trials()))
        ended.finish("KILLED", reason="its sweep was interrupted")
    parent = runs.adopt_or_create(experiment.name, f"{experiment.name}-sweep", kind="sweep")
    parent.tags({"study": study.study.study_name, EXTENDS: ended.id})
    study.study.set_user_attr("parent_run", parent.id)
    study.study.set_user_attr("phase", SEARCHING)
    return parent


def going_on(study: SweepStudy, parent: Run) -> str:
    """What is told of a sweep that is taken up again."""
    ended = parent.tag(EXTENDS)
    told = f"going on with the sweep begun at {study.created:%Y-%m-%d %H:%M} UTC, run {parent.id}"
    return f"{told}, after run {ended}" if ended else told


def begin_with_earlier(
    study: SweepStudy, experiment: Experiment, report: AuditReport, progress: Progress, *, most: int
) -> None:
    """Queue the winners of earlier sweeps on the same base, and name them."""
    base = resolve(experiment.model.base, revision=experiment.model.revision).sha256
    own = {name: overrides.get(experiment, name) for name in study.space.params}
    found = earlier.winners(study.space, own, base=base, data=report.data_digest, most=most)
    study.begin_with(found)
    for one in found:
        data = "the same data" if one.same_data else "other data"
        progress.note(f"also trying what won sweep {one.run_id} on {data}: {describe(one.params)}")
    if not found:
        progress.note("--warm-start: no earlier sweep on this base has a winner inside the search space")


def check_sweepable(experiment: Experiment, space: SearchSpace) -> None:
    """Refuse a space that does not fit the experiment, and a method whose trainings no rung can foresee the end of."""
    if experiment.method.kind == "rlhf":
        where = experiment.where("method", "kind")
        raise ConfigError(
            f"{where}: rlhf is not swept; sweep sft and reward, and run `tunesmith rlhf` on their winners"
        )
    space.check_against(experiment)
    costs.check(space, experiment)
