"""How the peers of `benchmarks.peers` search: Optuna around TRL, and the record that each side writes as it goes.

    python -m benchmarks.peers.search SIDE.json

Runs the strong peer's side, one process for all its trials.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from benchmarks.bench import ROOT
from benchmarks.peers.trl import FLAGS, Loaded, Rows, Training, finite, quiet, tuned
from tunesmith.config import Experiment, SearchSpace, overrides
from tunesmith.data.dataset import load_dataset, training_rows
from tunesmith.data.split import stratified
from tunesmith.models.device import fix_threads, keep_memory, place
from tunesmith.models.loading import load_base, load_tokenizer
from tunesmith.models.references import resolve
from tunesmith.sweep.proposals import distributions, grid
from tunesmith.train.encode import encode_rows

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""At which shares of a training the strong peer reports tune loss to its pruner."""
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class Side:
    """One side with one seed: what is searched, how long at most, and where its record lies.

    `experiment`, `space` and `policy` are files of the project; `minutes` None is no limit.
    """

    name: str
    seed: int
    folder: str
    experiment: str
    space: str
    policy: str
    trials: int
    rows: int
    minutes: float | None = None
    flags: str = "recipe"

    @property
    def path(self) -> pathlib.Path:
        """The folder of all sides' records."""
        return pathlib.Path(self.folder)

    @property
    def key(self) -> str:
        """Its name and seed."""
        return f"{self.name}-{self.seed}"

    @property
    def rows_file(self) -> pathlib.Path:
        """Where the encoded rows lie; all sides with this seed share them."""
        return self.path / f"rows-{self.seed}.json"

    def changes(self) -> dict[str, Any]:
        """What differs from the experiment's file."""
        return {"seed": self.seed, "data.search_rows": self.rows}

    def config(self, values: dict[str, Any] | None = None) -> Experiment:
        """The experiment as a search sees it, with a trial's values."""
        own = Experiment.from_yaml(ROOT / self.experiment)
        return overrides.apply(own, {**self.changes(), "data.train_rows": self.rows, **(values or {})})

    def search_space(self) -> SearchSpace:
        """The space."""
        return SearchSpace.from_yaml(ROOT / self.space)

    def training(self, number: int, values: dict[str, Any], *, seed: int | None = None) -> Training:
        """A trial as a training."""
        experiment = self.config(values)
        return Training(
            method=experiment.method.model_dump(),
            adapter=experiment.adapter.model_dump(),
            seed=self.seed if seed is None else seed,
            folder=str(self.path / "adapters" / self.key / f"{number:03d}"),
            eval_batch=experiment.evaluation.batch_size,
        )

    def load(self) -> Loaded:
        """The base in memory, as our own workers load it, and the rows."""
        keep_memory()
        fix_threads()
        experiment = self.config()
        model = resolve(experiment.model.base)
        base = load_base(model, place(experiment.model))
        return Loaded(base, load_tokenizer(model), Rows.read(self.rows_file), FLAGS[self.flags])


def encode(side: Side) -> None:
    """Write the encoded rows of a side: those that our sweep trains on and measures tune loss on."""
    experiment = side.config()
    tokenizer = load_tokenizer(resolve(experiment.model.base))
    dataset = load_dataset(experiment)
    every = dataset.tune.rows
    tune = stratified(every, experiment.evaluation.trial_items // 2, by=experiment.data.stratify_by)
    parts = [
        encode_rows(rows, tokenizer, max_length=experiment.model.max_length)
        for rows in (training_rows(dataset, experiment.data).rows, tune, every)
    ]
    Rows(*parts, pad=int(tokenizer.pad_token_id)).write(side.rows_file)


@dataclass
class Log:
    """What a side has done so far, a JSON line for each piece of news; later lines add to earlier ones."""

    path: pathlib.Path
    trials: dict[int, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, side: Side) -> "Log":
        """The record of a side, as far as it got."""
        log = cls(side.path / f"{side.key}.jsonl")
        if log.path.is_file():
            for line in log.path.read_text(encoding="utf-8").splitlines():
                log._take(json.loads(line))
        return log

    def add(self, **values: Any) -> None:
        """Note something about a trial (by its `number`) or about the side, on disk at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        self._take(values)

    def _take(self, values: dict[str, Any]) -> None:
        if "number" in values:
            self.trials.setdefault(values["number"], {}).update(values)
        else:
            self.facts.update(values)

    @property
    def seconds(self) -> float:
        """How long the side has worked, by its own clock."""
        return max([self.facts.get("seconds", 0.0), *(trial["at"] for trial in self.trials.values())])


def search(side: Side, log: Log, train: Callable[[Trial, Training], dict[str, Any]], *, began: float) -> None:
    """Ask, train, tell, until the trials are made or the time is spent; goes on from what the log holds.

    `began` is the UNIX time at which the side would have begun, had it never been interrupted.
    """
    space = side.search_space()
    study = study_of(side, space, log)
    limit = None if side.minutes is None else side.minutes * 60
    while len(log.trials) < side.trials and (limit is None or time.time() - began < limit):
        trial = study.ask(distributions(space))
        number = len(log.trials)
        start = time.time() - began
        found = train(trial, side.training(number, trial.params))
        study.tell(trial, found["loss"] if found["state"] == "complete" else None, state=STATES[found["state"]])
        log.add(number=number, params=trial.params, start=start, at=time.time() - began, **found)
        print(f"{side.key} trial {number}: {found['state']} {found['loss']} at {time.time() - began:.0f} s", flush=True)
    log.add(seconds=time.time() - began, cut=len(log.trials) < side.trials)


def study_of(side: Side, space: SearchSpace, log: Log) -> optuna.Study:
    """A study in memory that knows the trials so far; first comes the space's coarse grid, as in our sweep."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=side.seed + len(log.trials)),
        pruner=optuna.pruners.MedianPruner(),
    )
    for _, known in sorted(log.trials.items()):
        study.add_trial(
            optuna.trial.create_trial(
                state=STATES[known["state"]],
                value=known["loss"] if known["state"] == "complete" else None,
                params=known["params"],
                distributions=distributions(space),
                intermediate_values={int(step): loss for step, loss in known.get("values", {}).items()},
            )
        )
    own = {name: overrides.get(side.config(), name) for name in space.params}
    for point in grid(space)[len(log.trials) :]:
        study.enqueue_trial({**own, **point})
    return study


def by_defaults(side: Side) -> None:
    """The first peer: a process for each trial, TRL's defaults."""
    log = Log.of(side)
    experiment = side.config()
    base = str(resolve(experiment.model.base).path)

    def train(trial: Trial, training: Training) -> dict[str, Any]:
        job = {"base": base, "rows": str(side.rows_file), "max_length": experiment.model.max_length}
        job["training"] = dataclasses.asdict(training)
        path = side.path / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.peers.trl", str(path)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        loss = json.loads(done.stdout.splitlines()[-1])["loss"]
        return {"loss": loss, "state": "failed" if loss is None else "complete"}

    search(side, log, train, began=time.time() - log.seconds)


def strong(side: Side, *, started: float) -> None:
    """The second peer: one process, one loaded base, tuned flags, a pruner; `started` is its start in UNIX time.

    An interrupted one loads its base again; that is not counted.
    """
    log = Log.of(side)
    loaded = side.load()

    def train(trial: Trial, training: Training) -> dict[str, Any]:
        def prune(share: float, loss: float) -> bool:
            trial.report(loss, step=round(100 * share))
            return bool(trial.should_prune())

        with quiet():
            reports = tuned(training, loaded, shares=SHARES, prune=prune)
        values = {str(round(100 * share)): loss for share, loss in reports.values.items()}
        last = finite(list(reports.values.values())[-1])
        ended = "pruned" if reports.pruned else "complete"
        return {"loss": last, "state": "failed" if last is None else ended, "values": values}

    search(side, log, train, began=time.time() - log.seconds if log.trials else started)


def main() -> None:
    """Run the strong peer's side that a file describes."""
    described = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    started = described.pop("started")
    strong(Side(**described), started=started)


if __name__ == "__main__":
    main()
