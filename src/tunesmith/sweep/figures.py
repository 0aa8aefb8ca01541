"""The figures of a sweep's report. Pure.

Colours and lines are readable on white and on near-black; texts take their colour from the page's style.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence

import optuna
import plotly.graph_objects as go
from optuna.trial import TrialState
from plotly.colors import sample_colorscale

from tunesmith.pages.curves import thinned
from tunesmith.sweep.importance import first_loss
from tunesmith.sweep.results import SweepRecord, TrialRecord, overfitting_point

IN_FULL = "trained in full"
COLOURS = {IN_FULL: "#2da16b", "infeasible": "#d1495b", "failed": "#a8763e"}
HALVED = ("#93a1b0", "#4a8fd9", "#8e6fd1", "#c9549f")  # by rung, the first rung first
ACCENT = "#4a8fd9"
SOURCES = (ACCENT, "#2da16b", "#c58b2b", "#8e6fd1")
GREY = "#808a98"
LOSSES = ["#2da16b", "#4a8fd9", "#93a1b0"]  # from the lowest to the highest
ORDER = ["#aab4bf", "#2f7de0"]  # from the first trial to the last
FAINT = "rgba(128,138,152,0.22)"
NONE = "rgba(0,0,0,0)"


def group(trial: TrialRecord) -> str:
    """How a trial ended, in words: in full, halved at which rung, infeasible or failed."""
    if trial.state == "complete":
        return IN_FULL
    if trial.state == "halved" and trial.judged:
        return f"halved at {max(trial.judged)}%"
    return trial.state


def groups(record: SweepRecord) -> dict[str, str]:
    """The groups that occur, with their colours: those that got further later, faults last."""
    occurring = {group(trial) for trial in record.trials}
    named = {f"halved at {percent}%": HALVED[min(n, len(HALVED) - 1)] for n, percent in enumerate(record.percents)}
    ordered = {**named, **dict.fromkeys(sorted(occurring - named.keys() - COLOURS.keys()), HALVED[0]), **COLOURS}
    return {name: colour for name, colour in ordered.items() if name in occurring}


def members(record: SweepRecord, name: str) -> list[TrialRecord]:
    """The trials of a group."""
    return [trial for trial in record.trials if group(trial) == name]


def ceiling(losses: Iterable[float]) -> float | None:
    """The loss above which a value would squash all others: the upper quartile and 1.5 interquartile ranges (Tukey).

    None where no loss is above it, or there are fewer than 4.
    """
    values = sorted(losses)
    if len(values) < 4:
        return None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    fence = high + 1.5 * (high - low)
    return fence if high > low and values[-1] > fence else None


def capped(figure: go.Figure, losses: Sequence[float], *, least: float = 0.0) -> go.Figure:
    """The figure with its loss axis ending at the ceiling, but not below `least`."""
    top = ceiling(losses)
    if top is not None and max(top, least) < max(losses):
        top = max(top, least)
        figure.update_yaxes(range=[min(losses) - 0.06 * (top - min(losses)), top])
    return figure


def tune_curves(record: SweepRecord) -> go.Figure:
    """Tune loss of every trial over the share of its training, coloured by how far it got."""
    figure = go.Figure()
    for name, colour in groups(record).items():
        lines = {t.number: list(t.judged.items()) for t in members(record, name) if t.judged}
        if lines:
            figure.add_trace(joined(lines, name, colour, mode="lines+markers"))
    best = record.best
    if best is not None and best.judged:
        colour = groups(record)[group(best)]
        trace = joined({best.number: list(best.judged.items())}, f"trial {best.number}", colour, mode="lines")
        figure.add_trace(trace.update(line_width=4, showlegend=False))
    points = {trial.number: point for trial in record.trials if (point := overfitting_point(trial)) is not None}
    if points:
        figure.add_trace(overfitting_marks(points))
    if record.base_loss is not None:
        figure.add_hline(record.base_loss, line={"color": GREY, "dash": "dot"}, annotation_text="base")
    losses = [loss for trial in record.trials for loss in trial.judged.values()]
    capped(figure, losses, least=record.base_loss or 0.0)
    return over_training(figure, record, "tune loss")


def overfitting_marks(points: Mapping[int, tuple[float, float]]) -> go.Scatter:
    """A cross where each of these trials begins to overfit."""
    return go.Scatter(
        x=[percent for percent, _ in points.values()],
        y=[loss for _, loss in points.values()],
        customdata=list(points),
        mode="markers",
        name="overfits from here",
        marker={"symbol": "x", "size": 9, "color": COLOURS["infeasible"]},
        hovertemplate="trial %{customdata} overfits from %{x:.0f}%: tune loss %{y:.3f}<extra></extra>",
    )


def train_curves(record: SweepRecord) -> go.Figure:
    """Train loss of every trial over the share of its training, coloured by how far it got."""
    curves = {
        trial.number: [(100 * step / trial.steps, loss) for step, loss in thinned(trial.curve)]
        for trial in record.trials
        if trial.steps
    }
    figure = go.Figure()
    for name, colour in groups(record).items():
        lines = {t.number: curves[t.number] for t in members(record, name) if curves.get(t.number)}
        if lines:
            figure.add_trace(joined(lines, name, colour, mode="lines"))
    figure.update_traces(line_width=1.2, opacity=0.8)
    starts = [points[0][1] for points in curves.values() if points]
    losses = [loss for points in curves.values() for _, loss in points]
    capped(figure, losses, least=1.05 * statistics.median(starts or [0.0]))
    return over_training(figure, record, "train loss")


def joined(lines: Mapping[int, Sequence[tuple[float, float]]], name: str, colour: str, *, mode: str) -> go.Scatter:
    """Lines of trials as one trace with gaps between them: a page with a trace for each would be slow."""
    x: list[float | None] = []
    y: list[float | None] = []
    numbers: list[int] = []
    for number, points in lines.items():
        x += [*(at for at, _ in points), None]
        y += [*(loss for _, loss in points), None]
        numbers += [number] * (len(points) + 1)
    hover = "trial %{customdata}, at %{x:.0f}%: %{y:.3f}<extra></extra>"
    line = {"color": colour, "width": 1.5}
    return go.Scatter(x=x, y=y, customdata=numbers, mode=mode, name=name, line=line, hovertemplate=hover)


def over_training(figure: go.Figure, record: SweepRecord, loss: str) -> go.Figure:
    """A figure of losses over the share of the training, with a line at every rung."""
    for percent in record.percents[:-1]:
        figure.add_vline(percent, line={"color": FAINT, "width": 2})
    figure.update_xaxes(title="share of the trial's training", range=[-2, 102], tickvals=(0, *record.percents))
    figure.update_xaxes(ticksuffix="%")
    figure.update_yaxes(title=loss)
    return styled(figure, height=420)


def ladder(record: SweepRecord) -> go.Figure:
    """One bar a trial: the tokens it trained, where it was judged, and what halving left out."""
    names = [f"trial {trial.number}" for trial in record.trials]
    figure = go.Figure()
    for name, colour in groups(record).items():
        mine = members(record, name)
        figure.add_trace(
            go.Bar(
                x=[trial.tokens for trial in mine],
                y=[f"trial {trial.number}" for trial in mine],
                name=name,
                marker={"color": colour},
                orientation="h",
                hovertemplate="%{y}: %{x:,} tokens<extra>" + name + "</extra>",
            )
        )
    halved = [trial for trial in record.trials if trial.state == "halved"]
    figure.add_trace(
        go.Bar(
            x=[max(0, trial.full_tokens - trial.tokens) for trial in halved],
            y=[f"trial {trial.number}" for trial in halved],
            name="not trained",
            marker={"color": FAINT},
            orientation="h",
            hovertemplate="%{y}: %{x:,} tokens saved<extra></extra>",
        )
    )
    figure.add_trace(rung_marks(record))
    figure.update_layout(barmode="stack", bargap=0.25)
    figure.update_xaxes(title="tokens", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed", showgrid=False)
    return styled(figure, height=min(1600, 150 + 22 * len(names)))


def rung_marks(record: SweepRecord) -> go.Scatter:
    """A mark in every bar where the trial was judged and went on."""
    marks = [
        (trial.full_tokens * percent / 100, trial.number, percent, loss)
        for trial in record.trials
        for percent, loss in list(trial.judged.items())[:-1]
        if percent in record.percents
    ]
    return go.Scatter(
        x=[at for at, *_ in marks],
        y=[f"trial {number}" for _, number, *_ in marks],
        customdata=[[percent, loss] for *_, percent, loss in marks],
        mode="markers",
        name="went on",
        marker={"symbol": "line-ns-open", "size": 12 if len(record.trials) < 60 else 5, "color": "#ffffff"},
        hovertemplate="%{y} went on at %{customdata[0]}%: tune loss %{customdata[1]:.3f}<extra></extra>",
        showlegend=False,
    )


def history(record: SweepRecord) -> go.Figure:
    """First-rung loss of every trial in the order of asking, by what proposed it, and the best so far."""
    known = [(t.number, loss, t.source) for t in record.trials if (loss := first_loss(record, t)) is not None]
    figure = go.Figure()
    for n, source in enumerate(dict.fromkeys(source for *_, source in known)):
        mine = [(number, loss) for number, loss, by in known if by == source]
        marker = {"color": SOURCES[n % len(SOURCES)], "size": 8}
        hover = "trial %{x}: %{y:.3f}<extra></extra>"
        x, y = [number for number, _ in mine], [loss for _, loss in mine]
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", name=source, marker=marker, hovertemplate=hover))
    losses = [loss for _, loss, _ in known]
    best = [min(losses[: n + 1]) for n in range(len(losses))]
    line = {"color": GREY, "shape": "hv", "width": 1.5}
    x = [number for number, *_ in known]
    figure.add_trace(go.Scatter(x=x, y=best, mode="lines", name="best so far", line=line, hoverinfo="skip"))
    figure.update_xaxes(title="trial", tickformat="d", dtick=1 if len(known) <= 12 else None)
    figure.update_yaxes(title=loss_at_first_rung(record))
    return styled(capped(figure, losses), height=320)


def loss_at_first_rung(record: SweepRecord) -> str:
    """The name of the axis that compares trials."""
    return f"tune loss at {record.percents[0]}%" if len(record.percents) > 1 else "tune loss"


def importance_bars(importances: Mapping[str, float]) -> go.Figure:
    """One bar a parameter, the most important on top."""
    shares, names = list(importances.values()), list(importances)
    text = [f"{share:.0%}" for share in shares]
    bars = go.Bar(x=shares, y=names, orientation="h", marker={"color": ACCENT}, text=text, textposition="outside")
    figure = go.Figure(bars.update(cliponaxis=False, hoverinfo="skip"))
    figure.update_xaxes(tickformat=".0%", range=[0, 1.1 * max(shares)])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return styled(figure, height=90 + 32 * len(names))


def parallel(study: optuna.Study, *, loss: str) -> go.Figure:
    """Optuna's parallel coordinates; losses above the ceiling are drawn at it."""
    from optuna.visualization import plot_parallel_coordinate  # loads matplotlib, which nothing else here needs

    top = _ceiling_of(study)
    figure = plot_parallel_coordinate(study, target=lambda trial: min(trial.value, top), target_name=loss)
    lines = sorted((trace for trace in figure.data if trace.mode == "lines"), key=lambda trace: -trace.y[0])
    for trace, colour in zip(lines, sample_colorscale(LOSSES, [trace.y[0] for trace in lines]), strict=True):
        trace.update(line={"color": colour, "width": 1.6}, opacity=0.8)
    figure.data = (*lines, *(trace for trace in figure.data if trace.mode != "lines"))  # the best on top
    figure.update_traces(marker={"colorscale": LOSSES, "reversescale": False}, selector={"mode": "markers"})
    figure.update_layout(title=None)
    return styled(figure, height=420).update_layout(margin={"l": 40, "r": 40, "b": 60})


def slices(study: optuna.Study, *, loss: str, names: Sequence[str]) -> list[go.Figure]:
    """Optuna's slice plot of each parameter; losses above the ceiling are drawn at it."""
    from optuna.visualization import plot_slice  # loads matplotlib, which nothing else here needs

    top = _ceiling_of(study)
    figures = []
    for name in names:
        figure = plot_slice(study, params=[name], target=lambda trial: min(trial.value, top), target_name=loss)
        figure.update_layout(title=None)
        figure.update_traces(marker={"showscale": False, "size": 9, "colorscale": ORDER, "line": {"width": 0}})
        if figure.layout.xaxis.type == "log":
            wide = max(figure.data[0].x) >= 10 * min(figure.data[0].x)
            figure.update_xaxes(dtick=1 if wide else None, exponentformat="e")
        figures.append(styled(figure, height=300))
    return figures


def searched(study: optuna.Study) -> list[str]:
    """The parameters that have more than one possible value in some complete trial."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted({name for trial in trials for name, d in trial.distributions.items() if not d.single()})


def _ceiling_of(study: optuna.Study) -> float:
    losses = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    return ceiling(losses) or float("inf")


def styled(figure: go.Figure, *, height: int) -> go.Figure:
    """A figure in the page's style."""
    figure.update_layout(
        template="plotly_white",
        paper_bgcolor=NONE,
        plot_bgcolor=NONE,
        height=height,
        width=None,
        margin={"l": 10, "r": 10, "t": 34, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure
