"""The part of a sweep's report that weighs loss against costs. Pure."""

import plotly.graph_objects as go

from tunesmith.pages.markup import Drawing, amount, heads, note, number, row, section, table, word
from tunesmith.progress import describe
from tunesmith.sweep.figures import ACCENT, GREY, styled
from tunesmith.sweep.results import SweepRecord, front, weighed

UNITS = {
    "train/tokens": "tokens of the whole training",
    "adapter/parameters": "trained weights",
    "latency": "seconds for a token of a reply, measured",
}


def compromises(record: SweepRecord, draw: Drawing) -> str:
    """The Pareto front of loss and costs; nothing where costs were not weighed."""
    best = front(record)
    if not record.costs or not best:
        return ""
    header = [*heads("trial"), *heads("tune loss", *record.costs, "primary", numbers=True), *heads("parameters")]
    rows = []
    for trial in best:
        costs = [written(trial.costs[name]) for name in record.costs]
        cells = [amount(trial.last_loss), *costs, amount(trial.primary)]
        parameters = word(describe(trial.params))
        kind = "best" if trial.number == record.winner else ""
        rows.append(row(word(trial.number), *map(number, cells), parameters, kind=kind))
    text = (
        "Trials trained in full that no other beats in tune loss and in every cost (the Pareto front): to lower one of "
        "these numbers is to raise another."
    )
    drawn = "".join(draw(against(record, name)) for name in record.costs)
    layout = "pair" if len(record.costs) == 2 else "one"
    return section("Loss against cost", note(text), f'<div class="{layout}">{drawn}</div>', table(header, rows))


def written(cost: float) -> str:
    """A cost as text: whole numbers in full, parts of a second to three digits."""
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"


def against(record: SweepRecord, name: str) -> go.Figure:
    """Tune loss of the trials trained in full over one cost, the front among them joined."""
    best = sorted(front(record), key=lambda trial: trial.costs[name])
    numbers = {trial.number for trial in best}
    others = [trial for trial in weighed(record) if trial.number not in numbers]
    hover = "trial %{customdata[0]}: %{y:.3f} at %{customdata[1]}<extra></extra>"
    figure = go.Figure()
    for trials, label, colour, mode in (
        (others, "beaten", GREY, "markers"),
        (best, "Pareto front", ACCENT, "lines+markers" if len(record.costs) == 1 else "markers"),
    ):
        x, y = [trial.costs[name] for trial in trials], [trial.last_loss for trial in trials]
        shape = {"color": colour, "shape": "hv", "width": 1.5}
        told = [[trial.number, written(trial.costs[name])] for trial in trials]
        given = {"customdata": told, "mode": mode, "hovertemplate": hover}
        figure.add_trace(go.Scatter(x=x, y=y, name=label, marker={"color": colour, "size": 9}, line=shape, **given))
    figure.update_xaxes(title=UNITS[name], rangemode="tozero")
    figure.update_yaxes(title="tune loss")
    return styled(figure, height=360)
