"""`tunesmith labels`: rows out to Label Studio or Prodigy, and judgements back in."""

import pathlib
from typing import TYPE_CHECKING, Any

import click

from tunesmith.commands.data import some
from tunesmith.commands.options import json_option
from tunesmith.config.experiment import SPLITS
from tunesmith.errors import ConfigError

if TYPE_CHECKING:
    from tunesmith.data.labels.transfer import Choice, Labelled

TOOLS = click.Choice(["label-studio", "prodigy"])
FILE = click.Path(dir_okay=False, path_type=pathlib.Path)


@click.group("labels")
def labels() -> None:
    """Have humans judge rows in Label Studio or Prodigy, and take their judgements back."""


@labels.command("export")
@click.argument("experiment")
@click.option("--to", "tool", type=TOOLS, required=True, help="Tool that will show the tasks.")
@click.option("--out", type=FILE, required=True, help="File to write the tasks to.")
@click.option("--count", default=50, type=click.IntRange(min=1), help="Most rows to export.")
@click.option("--pairwise", is_flag=True, help="The rows are preference pairs: ask which answer is better.")
@click.option("--split", default="train", type=click.Choice([*SPLITS, "all"]), help="Split of an experiment.")
@click.option("--scores", help="JSON file, or runs:/RUN_ID/ARTIFACT, from row id to number; the highest go out.")
@click.option("--near", type=float, help="With --scores: those nearest to this value go out, as to a gate's margin.")
@json_option
def export_command(experiment: str, tool: str, out: pathlib.Path, **options: Any) -> tuple[Any, str]:
    """Write the rows of EXPERIMENT (or of a data file) that are most worth a human's minute.

    Without --scores these are the rows whose label looks least certain: conversations whose answer is
    unlike the answers to the most similar prompts, and pairs whose answers are most alike.
    """
    from tunesmith.data.labels.transfer import config_path, export_labels
    from tunesmith.data.versions import DataReference

    rows = export_labels(DataReference.parse(experiment), choice_of(options), tool=tool, out=out)
    ids = [row["id"] for row in rows]
    value = {"out": str(out), "rows": len(ids), "ids": ids}
    text = f"{out}: {len(ids)} tasks{some(ids)}"
    if tool == "label-studio":
        value["config"] = str(config_path(out))
        text += f"\n{config_path(out)}: the labelling configuration; paste it into the project's settings"
    return value, text


def choice_of(options: dict[str, Any]) -> "Choice":
    """What the options ask for, with the scores read."""
    from tunesmith.data.labels.selection import checked_scores, read_scores
    from tunesmith.data.labels.transfer import Choice

    where = options.pop("scores")
    if where is None:
        if options["near"] is not None:
            raise ConfigError("--near: needs --scores, whose values it is compared with")
        return Choice(**options)
    if not where.startswith("runs:/"):
        return Choice(**options, scores=read_scores(pathlib.Path(where)))
    run_id, _, artifact = where.removeprefix("runs:/").partition("/")
    if not artifact:
        raise ConfigError(f"--scores {where}: write runs:/RUN_ID/ARTIFACT")
    return Choice(**options, scores=checked_scores(read_artifact(run_id, artifact), where=where))


def read_artifact(run_id: str, name: str) -> Any:
    """The JSON value of a run's artifact; raises `ConfigError` if it has none of that name."""
    from mlflow.exceptions import MlflowException

    from tunesmith.tracking import runs

    run = runs.attach(run_id)
    try:
        return run.read_json(name)
    except (MlflowException, OSError, ValueError):
        raise ConfigError(f"--scores runs:/{run_id}/{name}: the run has no such JSON artifact") from None


@labels.command("import")
@click.argument("file", type=FILE)
@click.option("--from", "tool", type=TOOLS, required=True, help="Tool that wrote FILE.")
@click.option("--out", type=FILE, required=True, help="JSONL file to write the rows to.")
@json_option
def import_command(file: pathlib.Path, tool: str, out: pathlib.Path) -> tuple[Any, str]:
    """Make rows of an annotated export: Label Studio's JSON or JSON-MIN, or Prodigy's JSONL.

    Rows that more than half of their annotators keep, fix alike or prefer one answer of are written;
    dropped, tied and disputed ones are counted and left out. Reads FILE alone and opens no connection.
    """
    from tunesmith.data.labels.transfer import import_labels

    found = import_labels(file, tool=tool, out=out)
    conflicts = {verdict.row_id: verdict.conflict for verdict in found.conflicts}
    value = {"out": str(out), "sha256": found.digest, "alpha": found.alpha, **found.counts, "conflicting": conflicts}
    return value, import_text(found, out)


def import_text(found: "Labelled", out: pathlib.Path) -> str:
    """What came back, what of it was used, and how well the annotators agree."""
    n = found.counts
    undefined = "undefined (needs two annotators on a row, and two verdicts)"
    alpha = undefined if found.alpha is None else f"{found.alpha:.3f}"
    listed = [f"{verdict.row_id} ({verdict.conflict})" for verdict in found.conflicts]
    return "\n".join(
        [
            f"tasks        {n['exported']} exported, {n['returned']} returned, {n['missing']} missing, "
            f"{n['unannotated']} unannotated",
            f"annotations  {n['annotations']}: {n['judged']} judged, {n['cancelled']} cancelled, "
            f"{n['skipped']} skipped, {n['empty']} empty, {n['unfinished']} unfinished",
            f"rows         {n['annotated_rows']}: {n['written']} written, {n['dropped']} dropped, {n['tied']} tied, "
            f"{n['conflicts']} in conflict{some(listed)}",
            f"agreement    Krippendorff's alpha {alpha}",
            f"{out}: {len(found.rows)} rows, SHA-256 {found.digest[:16]}",
        ]
    )
