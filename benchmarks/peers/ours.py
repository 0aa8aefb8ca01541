"""Our side of `benchmarks.peers`: `tunesmith sweep`, and what its study says about when each trial ended."""

import os
import shutil
import subprocess
import sys
import threading
import time
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmarks.bench import machine, project
from benchmarks.peers.search import Log, Side
from tunesmith.models.bundled import cache_folder


class Sweep:
    """Our side: the command in a project of its own; its adapters are kept before the sweep clears them away.

    One that was cut off begins anew, so that its clock is that of one command.
    """

    def __init__(self, side: Side) -> None:
        self.side, self.folder = side, side.path / f"project-{side.seed}"
        for left in (self.folder, side.path / "adapters" / side.key):
            shutil.rmtree(left, ignore_errors=True)
        Log.of(side).path.unlink(missing_ok=True)
        self.folder.mkdir()
        self.variables = project(self.folder)
        self.ended = threading.Event()

    def run(self) -> None:
        """Run it to its end and write down when each trial ended; raises `SystemExit` when it fails."""
        side, slots = self.side, cache_folder() / "slots.json"
        before = slots.read_bytes() if slots.is_file() else b""
        changes = [f"--set={name}={value}" for name, value in side.changes().items()]
        limit = [] if side.minutes is None else ["--max-hours", str(side.minutes / 60)]
        command = [sys.executable, "-m", "tunesmith", "sweep", side.experiment, "--space", side.space]
        command += ["--policy", side.policy, "--trials", str(side.trials), *changes, *limit]
        found = machine()
        keeper = threading.Thread(target=self._keep_adapters)
        keeper.start()
        began = time.time()
        try:
            done = subprocess.run(command, cwd=self.folder, env=self.variables, stderr=subprocess.PIPE, check=False)
        finally:
            whole = time.time() - began
            self.ended.set()
            keeper.join()
        if done.returncode:
            raise SystemExit(f"tunesmith sweep failed: {done.stderr.decode()[-2000:]}")
        calibrated = (slots.read_bytes() if slots.is_file() else b"") != before
        self._write_down(began, machine=found, whole_s=whole, calibrated=calibrated)

    def _keep_adapters(self) -> None:
        while not self.ended.wait(1.0):
            for found in self.folder.glob(".tunesmith/sweeps/*/trial-*/adapter"):
                number = found.parent.name.rpartition("-")[2]
                target = self.side.path / "adapters" / self.side.key / number / "adapter"
                if not target.exists():
                    shutil.copytree(found, target, copy_function=os.link)

    def _write_down(self, began: float, **facts: Any) -> None:
        log, storage = Log.of(self.side), f"sqlite:///{self.folder / 'optuna.db'}"
        study = optuna.load_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage)
        log.add(**facts)
        for trial in study.get_trials(deepcopy=False):
            if trial.datetime_complete is not None:  # else it waited in the queue when the time was spent
                log.add(**_record(trial, began))
        log.add(seconds=log.seconds, cut=len(log.trials) < self.side.trials)


def _record(trial: FrozenTrial, began: float) -> dict[str, Any]:
    """A trial of our study, in seconds since the command began."""
    failed = "infeasible" in trial.user_attrs
    state = "failed" if failed else "complete" if trial.state == TrialState.COMPLETE else "pruned"
    assert trial.datetime_start is not None and trial.datetime_complete is not None  # noqa: S101, PT018 - it ended
    return {
        "number": trial.number,
        "params": trial.params,
        "state": state,
        "loss": trial.value,
        "values": {str(step): loss for step, loss in trial.intermediate_values.items()},
        "start": trial.datetime_start.timestamp() - began,
        "at": trial.datetime_complete.timestamp() - began,
    }
