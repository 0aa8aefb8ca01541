"""The wall time that a sweep takes, over all the processes that have run it."""

import time

import optuna

KEY = "wall_seconds"


class Clock:
    """Counts from its making on, beyond the seconds that earlier processes noted in the study."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self.before: float = study.user_attrs.get(KEY, 0.0)
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time so far; it stands still while no process runs the sweep."""
        return self.before + time.monotonic() - self.began

    def note(self) -> None:
        """Keep what was counted so far."""
        self.study.set_user_attr(KEY, self.seconds)
