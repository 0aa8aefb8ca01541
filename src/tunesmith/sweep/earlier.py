"""What earlier sweeps found on the same base, to begin with."""

from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run

from tunesmith.config import overrides
from tunesmith.config.space import SearchSpace
from tunesmith.tracking import runs, store
from tunesmith.tracking.runs import EXTENDS, TAG

BEST = "best."


@dataclass(frozen=True)
class Earlier:
    """The winner of an earlier sweep: its parameters in this search space, and whether the data were the same."""

    run_id: str
    params: dict[str, Any]
    same_data: bool


def winners(space: SearchSpace, own: dict[str, Any], *, base: str, data: str, most: int) -> list[Earlier]:
    """Winners of finished sweeps on the base with this SHA-256: those on the same data first, then the newest.

    Fields that an earlier sweep did not vary take the value in `own`; winners outside the space's ranges are
    left out, and so are those that say the same as another.
    """
    client = store.client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.`{TAG}kind` = 'sweep' and tags.`{TAG}status` = 'FINISHED' and tags.`{TAG}base_sha256` = '{base}'"
    found = client.search_runs(experiments, query, order_by=["attributes.start_time DESC"])
    extended = {run.data.tags.get(f"{TAG}{EXTENDS}") for run in found}
    found = [run for run in found if run.info.run_id not in extended]
    chosen: list[Earlier] = []
    for run in sorted(found, key=lambda run: run.data.tags.get(f"{TAG}data_sha256") != data):
        params = {**own, **_params(run, space)}
        fits = all(bounds.holds(params[name]) for name, bounds in space.params.items())
        if fits and _params(run, space) and all(params != other.params for other in chosen):
            chosen.append(Earlier(run.info.run_id, params, run.data.tags.get(f"{TAG}data_sha256") == data))
    return chosen[:most]


def has_winner(sweep: runs.Run) -> bool:
    """Whether a sweep's run names its winner."""
    return any(name.startswith(BEST) for name in store.client().get_run(sweep.id).data.params)


def _params(run: Run, space: SearchSpace) -> dict[str, Any]:
    named = {name.removeprefix(BEST): text for name, text in run.data.params.items() if name.startswith(BEST)}
    return {name: overrides.parse_value(text) for name, text in named.items() if name in space.params}
