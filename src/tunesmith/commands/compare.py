"""`tunesmith compare`: which model is better, by scores that both have."""

import pathlib
from typing import TYPE_CHECKING, Any

import click

from tunesmith import summary
from tunesmith.commands.options import json_option

if TYPE_CHECKING:
    from tunesmith.comparison.analysis import Comparison, Result


@click.command()
@click.argument("a")
@click.argument("b")
@click.argument("others", nargs=-1)
@click.option(
    "--split",
    default="any",
    type=click.Choice(["any", "tune", "bench", "holdout"]),
    help="Rows to compare on; any: holdout, bench or tune, the first on which all were scored.",
)
@click.option("--metrics", default="", help="Only these, as TASK/NAME,TASK/NAME; fewer metrics share the error.")
@click.option(
    "--judge", default="", help="Also ask the LLM that this file names; the replies are sent to its endpoint."
)
@click.option("--html", default="", help="Also write the page to this file.")
@click.option("--no-log", is_flag=True, help="Log no run to MLflow.")
@json_option
def compare(a: str, b: str, others: tuple[str, ...], *, html: str, no_log: bool, **options: str) -> tuple[Any, str]:
    """Compare B (and OTHERS) with A, item by item, by the scores that they have already.

    Each is a run id (of a sweep: its winner), `models:/NAME@ALIAS`, `models:/NAME/NUMBER`, or `base`. Scores of other
    tasks, items or settings are refused. The run that this logs holds the page with the items that changed.
    """
    from tunesmith.comparison import desk
    from tunesmith.comparison.page import page
    from tunesmith.config.judge import JudgeConfig
    from tunesmith.pages.saving import write_page

    named = (a, b, *others)
    metrics = tuple(filter(None, options["metrics"].split(",")))
    judge = JudgeConfig.from_yaml(options["judge"]) if options["judge"] else None
    compared = desk.compare(named, split=options["split"], metrics=metrics, judge=judge)
    if html:
        write_page(pathlib.Path(html), page(compared))
    run_id = "" if no_log else desk.log(named, compared)
    return {**desk.value(compared), "run_id": run_id}, compared_text(compared, run_id)


def compared_text(compared: "Comparison", run_id: str) -> str:
    """The tables, what they come to, and where the page is."""
    lines = [f"{compared.items} items in {compared.groups} groups of {compared.split}, paired", ""]
    for rival in range(1, len(compared.names)):
        header = ("metric", compared.names[0], compared.names[rival], "change", "95% interval", "p", "p, Holm")
        rows = [result_cells(result) for result in compared.of(rival)]
        lines += [summary.table((*header, "detectable", "verdict"), rows), "", compared.sentence(rival), ""]
    for test in dict.fromkeys(result.effect.test for result in compared.results):
        named = dict.fromkeys(result.metric for result in compared.results if result.effect.test == test)
        lines.append(f"{test}: {', '.join(named)}")
    undecided = [result for result in compared.results if result.outcome == "inconclusive" and result.needed]
    if undecided:
        nearest = min(undecided, key=lambda result: result.needed)
        lines.append(
            f"{nearest.metric}: this difference would be told by about {nearest.needed:,} items; here are "
            f"{nearest.effect.items:,}"
        )
    lines += compared.notes
    return "\n".join([*lines, f"run {run_id}, with the items that changed"] if run_id else lines).rstrip()


def result_cells(result: "Result") -> tuple[str, ...]:
    """A metric as the cells of a line."""
    from tunesmith.comparison.page import interval, p_text, verdict

    found = result.effect
    return (
        f"{result.metric}{' (less is better)' if result.lower_is_better else ''}",
        f"{found.first:.3f}",
        f"{found.second:.3f}",
        f"{found.difference:+.3f}",
        interval(result),
        p_text(found.p_value),
        p_text(result.adjusted),
        f"±{result.detectable:.3f}",
        verdict(result),
    )
