"""`tunesmith study`: a sweep that runs, from another terminal."""

from typing import TYPE_CHECKING, Any

import click

from tunesmith import summary
from tunesmith.commands.options import EXPERIMENT, json_option
from tunesmith.config import Experiment
from tunesmith.config.overrides import parse_assignments
from tunesmith.errors import StudyError

if TYPE_CHECKING:
    from tunesmith.sweep.status import SweepStatus


@click.group("study")
def study() -> None:
    """Look at a running sweep, stop, pause or extend it, from another terminal."""


experiment_option = click.option("--experiment", default=EXPERIMENT, help="Experiment whose newest sweep is meant.")


@study.command("status")
@experiment_option
@json_option
def status_command(experiment: str) -> tuple[Any, str]:
    """Show the trials, how far each has got, and who runs the sweep."""
    from tunesmith.sweep import status

    found = status.status(Experiment.from_yaml(experiment))
    return status_value(found), status_text(found)


@study.command("stop")
@experiment_option
@json_option
def stop_command(experiment: str) -> tuple[Any, str]:
    """Let the sweep finish its steps, save every training, and end; --resume goes on."""
    name = _ask(experiment, "stop")
    return {"study": name, "asked": "stop"}, f"{name}: will stop after this step; go on with sweep --resume"


@study.command("pause")
@experiment_option
@json_option
def pause_command(experiment: str) -> tuple[Any, str]:
    """Let the sweep save every training and wait, its models loaded, until it is told to go on."""
    name = _ask(experiment, "pause")
    return {"study": name, "asked": "pause"}, f"{name}: will pause after this step; go on with study resume"


@study.command("resume")
@experiment_option
@json_option
def resume_command(experiment: str) -> tuple[Any, str]:
    """Let a paused sweep go on."""
    name = _ask(experiment, "resume")
    return {"study": name, "asked": "resume"}, f"{name}: goes on"


@study.command("add-trial")
@experiment_option
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="A swept field's value; repeatable.")
@click.option("--clone", type=int, default=None, help="Take the other fields from this trial, not the experiment.")
@click.option("--warm", is_flag=True, help="With --clone: begin with that trial's weights, as last saved.")
@json_option
def add_command(experiment: str, assignments: tuple[str, ...], clone: int | None, warm: bool) -> tuple[Any, str]:
    """Add a trial to those that are asked for; it comes after the grid, before the sampler's next one.

    It runs as long as the search goes on, also where --max-hours or --target lets no other trial begin.
    """
    from tunesmith.sweep import status

    if warm and clone is None:
        raise StudyError("--warm: needs --clone, the trial whose weights to begin with")
    loaded = Experiment.from_yaml(experiment)
    name, params = status.add_trial(loaded, parse_assignments(assignments), clone=clone, warm=warm)
    shown = ", ".join(f"{key}={value}" for key, value in params.items())
    return {"study": name, "params": params}, f"{name}: will try {shown}"


@study.command("gc")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@click.option("--unknown", is_flag=True, help="Also remove folders of sweeps that this store does not know.")
@json_option
def gc_command(dry_run: bool, unknown: bool) -> tuple[Any, str]:
    """Remove checkpoints and adapters that finished sweeps have left; resumable sweeps keep theirs."""
    from tunesmith.sweep import collection

    found = collection.leftovers()
    going = [leftover for leftover in found if leftover.known or unknown]
    kept = [leftover for leftover in found if leftover not in going]
    if not dry_run:
        collection.remove(going)
    lines = [f"{leftover.path}  {leftover.size / 2**20:.1f} MiB" for leftover in going]
    total = sum(leftover.size for leftover in going) / 2**20
    lines.append(f"{'would free' if dry_run else 'freed'} {total:.1f} MiB")
    if kept:
        lines.append("kept, as this store knows no such sweep; add --unknown if no other store does:")
        lines += [f"{leftover.path}  {leftover.size / 2**20:.1f} MiB" for leftover in kept]
    sizes = [{str(leftover.path): leftover.size for leftover in some} for some in (going, kept)]
    return {"removed": not dry_run, "folders": sizes[0], "unknown": sizes[1]}, "\n".join(lines)


def _ask(experiment: str, kind: Any) -> str:
    from tunesmith.sweep import control, status

    found = status.newest(Experiment.from_yaml(experiment))
    control.ask(found, kind)
    return str(found.study_name)


def status_value(found: "SweepStatus") -> dict[str, Any]:
    """A sweep's state for machines."""
    trials = [vars(trial) for trial in found.trials]
    return {"study": found.name, "state": found.state, "parent_run": found.parent, "trials": trials}


def status_text(found: "SweepStatus") -> str:
    """A sweep's state as a table of its trials, the furthest and best first."""
    rows = [
        (str(t.number), t.state, f"{t.reached}%", f"{t.loss:.3f}" if t.loss is not None else "", t.described)
        for t in found.trials
    ]
    table = summary.table(("trial", "state", "reached", "tune/loss", "parameters"), rows)
    return f"{found.name}: {found.state}\n\n{table}"
