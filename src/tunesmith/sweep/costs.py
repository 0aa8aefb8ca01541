"""What a trial would cost, told before it is trained, and what the search space does not allow."""

from tunesmith.config.experiment import Experiment
from tunesmith.config.space import SearchSpace

MEMORY = "memory_mb"


def wanted(space: SearchSpace) -> bool:
    """Whether the search has to know what a trial would cost."""
    return bool(space.costs) or space.limits.memory_mb is not None


def quote(experiment: Experiment) -> dict[str, float]:
    """Costs of a whole training by name, and `memory_mb`, the estimate of its peak."""
    from tunesmith.train.plan import make_plan

    plan = make_plan(experiment)
    tokens = plan.tokens * experiment.method.epochs
    return {"train/tokens": tokens, "adapter/parameters": plan.trainable, MEMORY: plan.memory_mb}


def too_large(space: SearchSpace, quoted: dict[str, float]) -> str:
    """Why a trial of these costs is not trained; empty if it may be."""
    most = space.limits.memory_mb
    if most is None or quoted[MEMORY] <= most:
        return ""
    return f"would need some {quoted[MEMORY]:.0f} MiB; limits.memory_mb is {most:g}"


def too_slow(space: SearchSpace, seconds: float, *, fraction: float) -> str:
    """Why a trial that took so long for a share of its training does not go on; empty if it may."""
    most, whole = space.limits.seconds, seconds / fraction
    if most is None or whole <= most:
        return ""
    return f"would train for some {whole:.0f} s; limits.seconds is {most:g}"
