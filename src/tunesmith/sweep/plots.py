"""The sweep's plots on one page that opens without a network.

Optuna's own plots leave pruned trials out; here every trial stands with the last value it reported.
"""

import html
from collections.abc import Callable

import optuna
import plotly.graph_objects as go
from optuna.trial import TrialState
from optuna.visualization import (
    plot_optimization_history,
    plot_parallel_coordinate,
    plot_param_importances,
    plot_slice,
)

from tunesmith.config.overrides import short_name
from tunesmith.sweep.study import SweepStudy, last_value

PLOTS: dict[str, Callable[..., go.Figure]] = {
    "History": plot_optimization_history,
    "Importances": plot_param_importances,
    "Parallel coordinates": plot_parallel_coordinate,
    "Slices": plot_slice,
}

WIDTH = 1060  # pixels; Optuna draws slices wider than a page

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem}}</style>
</head><body><h1>{title}</h1><p>{note}</p>{figures}</body></html>
"""


def with_all_trials(study: SweepStudy) -> optuna.Study:
    """A copy in memory in which every trial that reported a value is complete with its last one."""
    copy = optuna.create_study(direction="minimize")
    for trial in study.ended():
        if trial.intermediate_values:
            copy.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE,
                    params={short_name(name): value for name, value in trial.params.items()},
                    distributions={short_name(name): d for name, d in trial.distributions.items()},
                    value=last_value(trial),
                )
            )
    return copy


def importances(study: SweepStudy) -> dict[str, float]:
    """How much of the spread in tune loss each parameter explains (PED-ANOVA); empty below 4 trials."""
    copy = with_all_trials(study)
    if len(copy.trials) < 4:
        return {}
    try:
        return dict(optuna.importance.get_param_importances(copy))
    except (RuntimeError, ValueError):
        return {}


def page(study: SweepStudy, *, title: str) -> str:
    """The plots as one HTML page; a plot that too few trials allow is left out."""
    copy = with_all_trials(study)
    figures: list[str] = []
    for name, plot in PLOTS.items():
        if name == "Importances" and not importances(study):
            continue
        figure = plot(copy, target_name="tune/loss") if name != "Importances" else plot(copy)
        figure.update_layout(title=name, template="plotly_white", width=WIDTH)
        figures.append(figure.to_html(full_html=False, include_plotlyjs=not figures))
    note = "Every trial is shown with the last tune loss it reported; halved trials reported it before their end."
    return PAGE.format(title=html.escape(title), note=note, figures="".join(figures))
