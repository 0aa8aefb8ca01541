"""What was changed in experiment and space since a sweep began, key by key."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import optuna

from tunesmith.config.experiment import Experiment
from tunesmith.config.space import SearchSpace

PREFIXES = {"experiment_tree": "", "space_tree": "space"}
"""By the attribute under which a tree is kept: what its keys are shown below."""

MOST_CHARACTERS = 60_000  # of a tree; MySQL holds 65,535 in the column of an attribute
SHOWN, LONGEST = 4, 40  # changes, and characters of a value
ABSENT = object()


def remember(study: optuna.Study, experiment: Experiment, space: SearchSpace) -> None:
    """Keep what the sweep is made from in its study."""
    for name, tree in _trees(experiment, space).items():
        study.set_user_attr(name, tree if len(json.dumps(tree)) <= MOST_CHARACTERS else None)


def describe(study: optuna.Study, experiment: Experiment, space: SearchSpace) -> str:
    """The first changes since `remember`, in brackets after a space; empty if there are none, or nothing is kept."""
    kept, trees = study.user_attrs, _trees(experiment, space)
    pairs = [(kept[name], tree, PREFIXES[name]) for name, tree in trees.items() if kept.get(name)]
    changes = [change for pair in pairs for change in _changes(*pair)]
    more = [f"and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
    return f" ({'; '.join(changes[:SHOWN] + more)})" if changes else ""


def _trees(experiment: Experiment, space: SearchSpace) -> dict[str, Any]:
    return {"experiment_tree": experiment.tree(), "space_tree": space.tree()}


def _changes(old: Any, new: Any, key: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**old, **new}:
            yield from _changes(old.get(name, ABSENT), new.get(name, ABSENT), f"{key}.{name}".lstrip("."))
    elif old != new:
        yield f"{key} was {_text(old)}, is {_text(new)}"


def _text(value: Any) -> str:
    if value is ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
