"""How much of the known damage in `raw.jsonl` curation finds, and how much of what it takes was sound.

    python benchmarks/audit_recall.py [--embeddings minilm|tfidf] [--out RESULT.json]

Curates `experiments/raw.yaml` in memory and compares what was dropped or edited with
`raw.damage.jsonl`, which curation does not read. A damaged row counts as found when it was dropped or
edited, for whatever reason; `named` counts those that the check made for their damage caught.
Precision is the share of damaged rows among all that were dropped or edited.
"""

import argparse
import collections
import json
import pathlib
import sys
import time
from typing import Any

from tunesmith.audit.curate import Curated, curate
from tunesmith.audit.material import load_material
from tunesmith.config import Experiment, overrides

ROOT = pathlib.Path(__file__).parent.parent
TARGETS = {"copy": 0.95, "leak": 0.95, "broken": 0.95, "pii": 0.95, "near-copy": 0.85, "off-topic": 0.85, "wrong": 0.6}
PRECISION = 0.9
NAMED = {
    "copy": {"duplicates"},
    "near-copy": {"near duplicates", "duplicates"},
    "off-topic": {"off topic"},
    "wrong": {"unsupported numbers", "unfitting labels", "unfitting answers"},
    "pii": {"personal data", "secrets"},
    "broken": {"turns", "empty turns", "encoding", "markup", "answer format"},
}


def main() -> int:
    """Print the table, write it where asked; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", default="auto", choices=["auto", "minilm", "tfidf"])
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    experiment = Experiment.from_yaml(ROOT / "experiments" / "raw.yaml")
    experiment = overrides.apply(experiment, {"data.audit.meaning.embeddings": arguments.embeddings})
    began = time.perf_counter()
    curated = curate(load_material(experiment))
    seconds = time.perf_counter() - began
    path = ROOT / "experiments" / "support" / "raw.damage.jsonl"
    record = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    result = measure(curated, {line["id"]: line for line in record})
    result |= {"embeddings": arguments.embeddings, "seconds": round(seconds, 1), "passes": curated.passes}
    print(table(result))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    missed = [kind for kind, target in TARGETS.items() if result["recall"][kind]["recall"] < target]
    return 1 if missed or result["precision"] < PRECISION else 0


def measure(curated: Curated, damage: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Recall by kind and by detail, and precision."""
    touched = {str(fate.row["id"]): fate for fate in curated.fates.values()}
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    for name, line in damage.items():
        reasons = {reason.partition(":")[0] for reason in touched[name].reasons} if name in touched else set()
        named = bool(reasons & NAMED.get(line["kind"], set()))
        named = named or (line["kind"] == "leak" and any(reason.endswith("in train") for reason in reasons))
        for key in (line["kind"], f"{line['kind']}: {line['detail']}"):
            counts[key] = [a + b for a, b in zip(counts[key], (1, bool(reasons), named), strict=True)]
    recall = {
        key: {"rows": rows, "found": found, "recall": round(found / rows, 4), "named": round(named / rows, 4)}
        for key, (rows, found, named) in sorted(counts.items())
    }
    sound = sorted(set(touched) - set(damage))
    return {
        "rows": len(curated.source),
        "kept": len(curated.kept),
        "recall": recall,
        "precision": round(1 - len(sound) / max(1, len(touched)), 4),
        "sound_rows": len(curated.source) - len(damage),
        "sound_rows_touched": sound,
        "by_check": curated.counts(),
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| damage | rows | found | recall | wanted | by its own check |", "|---|---|---|---|---|---|"]
    for key, counted in result["recall"].items():
        wanted = TARGETS.get(key, "")
        values = (key, counted["rows"], counted["found"], f"{counted['recall']:.3f}", wanted, f"{counted['named']:.3f}")
        lines.append("| " + " | ".join(map(str, values)) + " |")
    lines += [
        "",
        f"precision {result['precision']:.3f}: {len(result['sound_rows_touched'])} of {result['sound_rows']} sound "
        f"rows were taken; kept {result['kept']} of {result['rows']} in {result['passes']} passes, "
        f"{result['seconds']} s, embeddings {result['embeddings']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
