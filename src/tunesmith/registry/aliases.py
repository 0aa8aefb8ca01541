"""Moving the champion's alias, and moving it back."""

import json
import time
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from tunesmith.errors import RegistryError
from tunesmith.registry.versions import by_alias, set_alias
from tunesmith.tracking import store
from tunesmith.tracking.runs import TAG

CHAMPION, CANDIDATE = "champion", "candidate"
HISTORY = f"{TAG}champions"


@dataclass(frozen=True)
class Reign:
    """A version that became champion, when (seconds since 1970) and why."""

    version: str
    at: float
    reason: str


def history(name: str) -> list[Reign]:
    """The champions of a model up to the present one, oldest first; a rollback removes the last."""
    try:
        tags = store.client().get_registered_model(name).tags
    except MlflowException:
        raise RegistryError(f"{name}: is not in the registry of {store.tracking_uri()}") from None
    return [Reign(**entry) for entry in json.loads(tags.get(HISTORY, "[]"))]


def promote(name: str, version: str, *, reason: str) -> None:
    """Make a version champion."""
    _move(name, [*history(name), Reign(version, time.time(), reason)])


def rollback(name: str) -> tuple[str, str]:
    """Give the previous champion its alias back; returns the numbers of the deposed and the restored version."""
    reigns = history(name)
    current = by_alias(name, CHAMPION)
    if current is None or not reigns:
        raise RegistryError(f"{name}: has no champion; there is nothing to roll back")
    if len(reigns) < 2:
        raise RegistryError(f"{name}: version {current.version} is its first champion; there is nothing to return to")
    _move(name, reigns[:-1])
    return reigns[-1].version, reigns[-2].version


def _move(name: str, reigns: list[Reign]) -> None:
    set_alias(name, CHAMPION, reigns[-1].version)
    entries = json.dumps([vars(reign) for reign in reigns])
    store.client().set_registered_model_tag(name, HISTORY, entries)
