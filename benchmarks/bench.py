"""What the benchmarks share: real rows, the bundled model, interleaved timing, results as files."""

import datetime
import json
import multiprocessing
import os
import pathlib
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.config import Experiment, overrides
from tunesmith.data.dataset import load_dataset, training_rows
from tunesmith.models.architecture import architecture_of
from tunesmith.models.device import fix_threads, keep_memory, place
from tunesmith.models.loading import load_base, load_tokenizer
from tunesmith.models.references import resolve
from tunesmith.stats.paired import Difference
from tunesmith.train.method import method_of

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Bench:
    """An experiment of the demo, its base model, tokenizer and encoded training rows."""

    experiment: Experiment
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: list[Any]


def load(
    name: str = "support.yaml", *, changes: Mapping[str, Any] = MappingProxyType({}), malloc: bool = True
) -> Bench:
    """An experiment of the demo with all cores; `malloc` keeps freed memory, as a worker does."""
    if malloc:
        keep_memory()
    fix_threads()
    experiment = overrides.apply(Experiment.from_yaml(ROOT / "experiments" / name), changes)
    model = resolve(experiment.model.base)
    tokenizer = load_tokenizer(model)
    base = load_base(model, place(experiment.model))
    rows = training_rows(load_dataset(experiment), experiment.data).rows
    encode = method_of(experiment, architecture_of(base.config)).encode
    return Bench(experiment, base, tokenizer, list(encode(rows, tokenizer, max_length=experiment.model.max_length)))


def interleave(sides: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds that each side took in each round; the side that begins changes from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            seconds[name].append(sides[name]())
    return seconds


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_fresh_process(work: Callable[..., None], *arguments: Any) -> Any:
    """What `work` sends by the pipe that is its last argument, called in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(*arguments, theirs))
    process.start()
    theirs.close()
    sent = ours.recv()
    process.join()
    return sent


@dataclass(frozen=True)
class Ratio:
    """Median, lowest and highest of the per-round ratios of two sides."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f} to {self.high:.2f}]"


def ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """Ours over theirs, round by round."""
    values = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(values), min(values), max(values))


def change_table(before: str, after: str, rows: Mapping[str, tuple[float, float, Difference]]) -> str:
    """What a training changed, a line each: the value before and after, and the paired difference with its interval."""
    lines = [f"| | {before} | {after} | change, 95% interval |", "|---|---:|---:|---:|"]
    for name, (first, second, found) in rows.items():
        interval = f"{found.mean:+.3f}, {found.low:+.3f} to {found.high:+.3f}"
        lines.append(f"| {name} ({found.items}) | {first:.3f} | {second:.3f} | {interval} |")
    return "\n".join(lines) + "\n"


def plain(found: Difference) -> dict[str, float]:
    """A difference as values for JSON."""
    return {"mean": found.mean, "low": found.low, "high": found.high, "items": found.items, "groups": found.groups}


def machine() -> dict[str, Any]:
    """On what the figures were measured."""
    model = platform.processor() or platform.machine()
    lines = pathlib.Path("/proc/cpuinfo")
    if lines.is_file():
        names = [line.split(":", 1)[1].strip() for line in lines.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        **{name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }


def project(folder: pathlib.Path) -> dict[str, str]:
    """Make a folder a project like this one, with stores of its own; the environment to run commands in it."""
    for name in ("experiments", "search_spaces", "registry"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("MLproject", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    own = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "TUNESMITH_STUDY_STORAGE")
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return {**kept, "PYTHONPATH": str(ROOT / "src")}


def write(name: str, text: str, values: Mapping[str, Any]) -> None:
    """Write a result as Markdown and JSON, and print it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    plain = json.dumps(values, indent=1, default=asdict)
    (RESULTS / f"{name}.json").write_text(plain + "\n", encoding="utf-8")
    print(text)
