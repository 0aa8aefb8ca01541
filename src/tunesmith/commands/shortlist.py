"""`tunesmith shortlist`: which base model to tune."""

import pathlib
from typing import TYPE_CHECKING, Any

import click

from tunesmith import summary
from tunesmith.commands.options import OVERRIDABLE, experiment_argument, json_option
from tunesmith.config import Experiment
from tunesmith.progress import Progress

if TYPE_CHECKING:
    from tunesmith.shortlist.table import Shortlist


@click.command(context_settings=OVERRIDABLE)
@experiment_argument()
@click.option("--models", default="", help="Candidates as A,B,C instead of shortlist.candidates.")
@click.option("--html", default="", help="Also write the page to this file.")
@click.option("--no-log", is_flag=True, help="Log no run to MLflow.")
@json_option
def shortlist(experiment: Experiment, models: str, html: str, no_log: bool) -> tuple[Any, str]:
    """Compare base models on the sanity set of EXPERIMENT, and recommend one to tune.

    Scores with and without examples, size, context window, licence, tokens of the data, memory and speed here. The
    experiment's own base is always among the candidates. Trains nothing.
    """
    from tunesmith.pages.saving import write_page
    from tunesmith.shortlist import desk
    from tunesmith.shortlist.page import page

    named = tuple(filter(None, (name.strip() for name in models.split(","))))
    with Progress() as progress:
        found, run_id = desk.shortlist(experiment, progress, models=named, log=not no_log)
    if html:
        write_page(pathlib.Path(html), page(found))
    return {**desk.value(found), "run_id": run_id}, shortlist_text(found, run_id)


def shortlist_text(found: "Shortlist", run_id: str) -> str:
    """The table, one column for each candidate, and the recommendation."""
    from tunesmith.shortlist.table import fact_lines, remarks, score_lines

    header = ("", *(entry.reference for entry in found.entries))
    rows = [(name, *cells) for name, cells in (*score_lines(found), *fact_lines(found))]
    lines = [found.source, "", summary.table(header, rows), "", *remarks(found), ""]
    lines.append(f"recommended: {found.choice.reference or 'none'}: {found.choice.reason}")
    return "\n".join([*lines, f"run {run_id}, with the page"] if run_id else lines)
