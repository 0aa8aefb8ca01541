"""Rows and experiments that every method of training is tested on, with the tiny model."""

import json
import pathlib
import random
from typing import Any

from tunesmith.config import Experiment

WORDS = ("bill", "meter", "leak", "move", "plan", "tree", "panel", "lamp", "pump", "gate")
TASK = "measure: extract\nanswer: intent\npattern: 'Route: ([a-z]+)\\s*$'\nmax_tokens: 4\n"
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"learning_rate": 2e-2, "epochs": 3},
    "dpo": {"learning_rate": 1e-2, "epochs": 2},
    "kto": {"learning_rate": 1e-2, "epochs": 2},
    "reward": {"learning_rate": 1e-2, "epochs": 4},
    "rlhf": {"learning_rate": 3e-2, "epochs": 2, "replies": 8, "max_reply": 4, "beta": 1e-3, "warmup": 0.0},
}
"""Settings by which each method learns something from few rows."""


def pairs(count: int = 30) -> list[dict[str, Any]]:
    """Preference pairs: the wanted reply is all a, the other one is not."""
    draw = random.Random(1)
    rows = []
    for n in range(count):
        question = {"role": "user", "content": f"{draw.choice(WORDS)} {n}?"}
        wrong = "".join(draw.choice("uvwxyz") for _ in range(6))
        replies = {
            key: [{"role": "assistant", "content": text}] for key, text in (("chosen", "a" * 6), ("rejected", wrong))
        }
        rows.append(
            {"id": f"p{n}", "group": f"g{n}", "intent": ("billing", "leaks")[n % 2], "prompt": [question], **replies}
        )
    return rows


def conversations(count: int = 30) -> list[dict[str, Any]]:
    """The same as conversations that end with the wanted reply."""
    return [
        {**{key: row[key] for key in ("id", "group", "intent")}, "messages": [*row["prompt"], *row["chosen"]]}
        for row in pairs(count)
    ]


def experiment(
    folder: pathlib.Path,
    kind: str,
    *,
    method: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None,
    dtype: str = "float32",
    **data: Any,
) -> Experiment:
    """An experiment of a method in a folder, its rows beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.yaml").write_text(TASK)
    rows = rows or (conversations() if kind in {"sft", "rlhf"} else pairs())
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    own = {"reward": "pairs/accuracy", "rlhf": "replies/reward"}.get(kind, "task/exact_match")
    tree = {
        "name": kind,
        "seed": 5,
        "data": {
            "source": "rows.jsonl",
            "split": {"train": 0.6, "tune": 0.3, "holdout": 0.1, "bench": 0.0},
            "audit": {"min_rows": 10, "max_near_duplicate_rate": 1.0, "max_duplicate_rate": 1.0},
        },
        "model": {"base": "bundled:tiny-llama", "max_length": 128, "dtype": dtype},
        "adapter": {"rank": 4, "alpha": 8.0},
        "method": {"kind": kind, "batch_size": 4, **METHODS[kind], **(method or {})},
        "evaluation": {"tasks": [] if kind == "reward" else ["task"], "tasks_dir": ".", "primary": f"tune/{own}"},
    }
    return Experiment.from_tree(tree, path=folder / "experiment.yaml")
