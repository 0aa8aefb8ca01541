"""How fast multiple-choice questions are scored: this project's harness against lm-eval's own model and command line.

    python -m benchmarks.multiple_choice warm [--rounds 3]
    python -m benchmarks.multiple_choice adapters [--rounds 1]

`warm`: 200 questions of the demo (policy and general) on a loaded float32 base. Ours is `evaluate.harness.score`.
Theirs is what the `lm_eval` command line runs once it has started: the same questions, rendered beforehand, as a
task file over a local JSON file, scored by lm-eval's `HFLM` over the same network, with the same threads. Each of
its batch sizes is tried once, then the best and ours take turns. Start-up, loading and the index of tasks are not
counted. Accuracy must agree, log-likelihoods to 1e-4. Both sides are asked once more in float64: whose rounding is it?

`adapters`: 10 adapters (rank 16, random) on the demo's 120 policy questions of the holdout, from the start of the
first process to the end of the last: ten `lm_eval` command lines at the best batch size of `warm`, each with all
cores, against the workers of a sweep (`benchmarks.scored_by_crew`), on a CPU two of one thread each.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import torch
from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks import scored_by_crew
from benchmarks.bench import ROOT, interleave, machine, timed, write
from benchmarks.rounding import in_float64, rounding
from tunesmith.config.experiment import AdapterConfig, ModelConfig
from tunesmith.config.task import Task
from tunesmith.data.dataset import load_rows
from tunesmith.data.formats import check_question
from tunesmith.evaluate.harness import score
from tunesmith.evaluate.prompts import make_doc
from tunesmith.models.device import fix_threads, keep_memory, place
from tunesmith.models.loading import attach_fresh, detach, load_base, load_tokenizer
from tunesmith.models.references import resolve
from tunesmith.records import Row

BASE = "bundled:smollm2-135m-instruct"
ITEMS, ADAPTERS = 200, 10
BATCH_SIZES = (1, 4, 8, 16, 32)
OUR_BATCH_SIZE = 16
THEIR_TASK = """task: questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def questions(count: int) -> list[Row]:
    """The demo's questions, of either file in turn."""
    files = [
        load_rows(ROOT / "experiments/support" / name, check_question) for name in ("policy.jsonl", "general.jsonl")
    ]
    mixed = [row for pair in zip(*files, strict=False) for row in pair]
    rest = [row for rows in files for row in rows[len(mixed) // 2 :]]
    return [*mixed, *rest][:count]


def our_task() -> Task:
    """The demo's task over its policy questions; where rows come from does not matter here."""
    return Task.from_yaml(ROOT / "experiments/support/tasks/policy.yaml")


def write_task(folder: pathlib.Path, rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> None:
    """The same questions as an lm-eval task file with its data."""
    data = folder / "questions.jsonl"
    with data.open("w", encoding="utf-8") as file:
        for row in rows:
            doc = make_doc(row, our_task(), tokenizer)
            choices = [doc["delimiter"] + choice for choice in doc["choices"]]
            file.write(json.dumps({"prompt": doc["prompt"], "choices": choices, "answer": doc["answer"]}) + "\n")
    (folder / "questions.yaml").write_text(THEIR_TASK.format(data=data), encoding="utf-8")


def loaded() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base in float32 and its tokenizer."""
    keep_memory()
    fix_threads()
    model = resolve(BASE)
    return load_base(model, place(ModelConfig(base=BASE, dtype="float32"))), load_tokenizer(model)


class Sides:
    """The two ways to score the same questions with one network; each keeps its last result."""

    def __init__(self, folder: pathlib.Path, rows: list[Row]) -> None:
        self.model, self.tokenizer = loaded()
        self.rows, self.folder = rows, folder
        write_task(folder, rows, self.tokenizer)
        self.results: dict[str, tuple[float, list[float]]] = {}
        self.by_batch_size: dict[int, list[float]] = {}

    def ours(self) -> None:
        """Score by `evaluate.harness`."""
        scores = score(
            self.model,
            self.tokenizer,
            {"policy": our_task()},
            {"policy": self.rows},
            split="bench",
            batch_size=OUR_BATCH_SIZE,
        )
        self.results["ours"] = scores.metrics["bench/policy/acc"], likelihoods(scores.samples)

    def theirs(self, batch_size: int) -> None:
        """What the command line does after its start."""
        lm = HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size)
        tasks = TaskManager(include_defaults=False, include_path=str(self.folder)).load("questions")
        results: Any = evaluate(lm=lm, task_dict=tasks, bootstrap_iters=0, log_samples=True)
        acc = results["results"]["questions"]["acc,none"]
        self.results["theirs"] = acc, likelihoods(results["samples"]["questions"])
        self.by_batch_size[batch_size] = self.results["theirs"][1]

    def rounding(self, batch_size: int) -> dict[str, float]:
        """Largest differences of the last results, and of both sides from themselves in float64."""
        float32, asked = {name: values for name, (_, values) in self.results.items()}, dict(self.by_batch_size)
        self.model = in_float64(self.model)
        self.ours()
        self.theirs(batch_size)
        return rounding(float32, {name: values for name, (_, values) in self.results.items()}, asked)


def likelihoods(samples: Any) -> list[float]:
    """The log-likelihood of every choice, item after item."""
    return [float(value[0]) for sample in samples for value in sample["filtered_resps"]]


def warm(rounds: int, *, items: int) -> dict[str, Any]:
    """Seconds of both sides on a loaded model."""
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(pathlib.Path(folder), questions(items))
        sides.ours()
        tried = {size: timed(functools.partial(sides.theirs, size)) for size in BATCH_SIZES}
        best = min(tried, key=tried.__getitem__)
        seconds = interleave(
            {"ours": lambda: timed(sides.ours), "theirs": lambda: timed(lambda: sides.theirs(best))}, rounds=rounds
        )
        accuracy = {name: acc for name, (acc, _) in sides.results.items()}
        differences = sides.rounding(best)
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    return {
        "items": items,
        "batch_sizes_tried": tried,
        "best_batch_size": best,
        "our_batch_size": OUR_BATCH_SIZE,
        "seconds": seconds,
        "ratio": spread(ratios),
        "accuracy": accuracy,
        "largest_differences_of_log_likelihoods": differences,
        "log_likelihoods": len(sides.results["ours"][1]),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest, highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def adapters(rounds: int, *, batch_size: int) -> dict[str, Any]:
    """Seconds of ten command lines, and of a sweep's workers for the same adapters."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        base, tokenizer = loaded()
        asked = scored_by_crew.questions()
        write_task(folder, asked, tokenizer)
        for seed in range(ADAPTERS):
            model = attach_fresh(base, AdapterConfig(), seed=seed)
            torch.manual_seed(seed)
            for key, weight in model.named_parameters():
                if "lora_B" in key:
                    torch.nn.init.normal_(weight, std=0.02)
            model.save_pretrained(folder / str(seed))
            base = detach(model)
        found: dict[str, list[float]] = {"ours": [], "theirs": []}

        def run_ours() -> None:
            paths = [str(folder / str(seed)) for seed in range(ADAPTERS)]
            command = [sys.executable, "-m", "benchmarks.scored_by_crew", *paths]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            found["ours"] = json.loads(done.stdout)

        def run_theirs() -> None:
            found["theirs"] = [command_line(folder, seed, batch_size) for seed in range(ADAPTERS)]

        seconds = interleave({"ours": lambda: timed(run_ours), "theirs": lambda: timed(run_theirs)}, rounds=rounds)
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    return {
        "adapters": ADAPTERS,
        "items": len(asked),
        "our_batch_size": scored_by_crew.experiment().evaluation.batch_size,
        "batch_size_of_lm_eval": batch_size,
        "seconds": seconds,
        "ratio": spread(ratios),
        "accuracy": found,
    }


def command_line(folder: pathlib.Path, seed: int, batch_size: int) -> float:
    """Run `lm_eval` on an adapter; returns the accuracy."""
    out = folder / f"out-{seed}"
    model = f"pretrained={resolve(BASE).path},peft={folder / str(seed)},dtype=float32"
    command = [
        str(pathlib.Path(sys.executable).parent / "lm_eval"),
        "run",
        "--model",
        "hf",
        "--model_args",
        model,
        "--tasks",
        str(folder / "questions.yaml"),
        "--batch_size",
        str(batch_size),
        "--device",
        "cpu",
        "--output_path",
        str(out),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    result = next(out.rglob("results_*.json"))
    return float(json.loads(result.read_text(encoding="utf-8"))["results"]["questions"]["acc,none"])


def report(part: str, result: dict[str, Any], on: dict[str, Any]) -> str:
    """The result as Markdown."""
    seconds, ratio = result["seconds"], result["ratio"]
    theirs = result.get("best_batch_size", result.get("batch_size_of_lm_eval"))
    lines = [
        f"# Multiple choice, {part}: {result['items']} questions, {BASE}, float32",
        "",
        f"{on['cpu']}, {on['cores']} cores, {on['threads']} threads, load before {on['load_before']}, {on['date']}.",
        "",
        f"| side | batch size | seconds (median of {len(seconds['ours'])}) | lowest | highest |",
        "|---|---|---|---|---|",
    ]
    for name, size in (("ours", result["our_batch_size"]), ("theirs", theirs)):
        found = spread(seconds[name])
        lines.append(f"| {name} | {size} | {found['median']:.2f} | {found['low']:.2f} | {found['high']:.2f} |")
    lines += ["", f"lm-eval / ours, round by round: {ratio['median']:.2f} [{ratio['low']:.2f} to {ratio['high']:.2f}]."]
    for key in ("accuracy", "batch_sizes_tried"):
        lines += ["", f"{key}: {result[key]}"] if key in result else []
    if "log_likelihoods" in result:
        lines += ["", f"| largest difference of {result['log_likelihoods']} log-likelihoods | nats |", "|---|---|"]
        found = result["largest_differences_of_log_likelihoods"]
        lines += [f"| {name} | {value:.1e} |" for name, value in found.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("warm", "adapters"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=ITEMS, help="questions, in `warm`")
    parser.add_argument("--batch-size", type=int, default=8, help="of the command lines, in `adapters`")
    options = parser.parse_args()
    if options.part == "warm":
        result = warm(options.rounds, items=options.items)
    else:
        result = adapters(options.rounds, batch_size=options.batch_size)
    on = machine()
    write(f"{on['date'][:10]}-multiple-choice-{options.part}", report(options.part, result, on), {**result, **on})


if __name__ == "__main__":
    main()
