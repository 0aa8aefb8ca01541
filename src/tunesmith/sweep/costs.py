"""What a trial would cost, told before it is trained, and what the search space does not allow."""

from tunesmith.config.experiment import Experiment
from tunesmith.config.space import SearchSpace
from tunesmith.errors import ConfigError

MEMORY, LATENCY = "memory_mb", "latency"
GENERATING = ("extract", "extractive", "generation", "rouge", "adversarial")  # measures that need a reply


def check(space: SearchSpace, experiment: Experiment) -> None:
    """Raise `ConfigError` where latency is to be weighed and no task of the trials has replies to time."""
    from tunesmith.data.tasks import load_tasks

    if LATENCY not in space.costs:
        return
    tasks = load_tasks(experiment)
    measures = {tasks[name].measure for name in experiment.evaluation.names}
    if not measures & {*GENERATING, "lm_eval"}:
        raise ConfigError(
            f"{space.where('costs')}: {LATENCY} is measured while replies are generated, which none of the tasks "
            f"{', '.join(experiment.evaluation.names) or '(none)'} needs; add such a task or leave {LATENCY} out"
        )


def wanted(space: SearchSpace) -> bool:
    """Whether the search has to know what a trial would cost."""
    return bool(space.costs) or space.limits.memory_mb is not None


def quote(experiment: Experiment) -> dict[str, float]:
    """Costs of a whole training by name, and `memory_mb`, the estimate of its peak.

    Latency is no part of it: that is measured when the trained model is scored.
    """
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
