"""How long a full audit of many short rows takes, and how much memory.

    python benchmarks/audit_speed.py [--rows 100000 200000] [--out RESULT.json]

Generates conversations of some 30 words from a seeded generator, one row in fifty a copy and one in
fifty a near copy, and audits each size in a process of its own, all checks but those that need the base
model. Reports seconds from reading the file to the finished report, and the peak of resident memory.
"""

import argparse
import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parent.parent
SECONDS, MIB, RATIO = 90.0, 1536.0, 2.2
EXPERIMENT = """name: speed
data:
  source: rows.jsonl
  sanity: sanity.jsonl
  audit: {max_duplicate_rate: 1.0, max_near_duplicate_rate: 1.0, max_holdout_overlap: 1.0, max_contradiction_rate: 1.0}
model: {base: "bundled:tiny-llama", max_length: 256}
evaluation: {tasks: [reply], tasks_dir: tasks, primary: tune/reply/rouge_l}
"""


def rows(count: int) -> Iterator[dict[str, object]]:
    """Conversations of words drawn by Zipf's law from 20,000 invented ones."""
    rng = random.Random(3)
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in ("a", "e", "i", "o", "u", "ai", "ou")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(20_000)]
    weights = [1 / (n + 10) for n in range(len(words))]
    total = list(_running(weights))
    previous: tuple[str, str] = ("", "")
    for n in range(count):
        question = " ".join(rng.choices(words, cum_weights=total, k=rng.randint(8, 20)))
        answer = " ".join(rng.choices(words, cum_weights=total, k=rng.randint(8, 20)))
        if n % 50 == 1:
            question, answer = previous
        if n % 50 == 2:
            question, answer = f"hello {previous[0]}", previous[1]
        previous = (question, answer)
        messages = [{"role": "user", "content": f"{question}?"}, {"role": "assistant", "content": f"{answer}."}]
        yield {"id": f"row-{n}", "group": f"group-{n}", "intent": words[n % 12], "messages": messages}


def _running(weights: list[float]) -> Iterator[float]:
    total = 0.0
    for weight in weights:
        total += weight
        yield total


def measure(count: int) -> dict[str, float]:
    """Audit `count` rows in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "tasks").mkdir()
        (folder / "tasks" / "reply.yaml").write_text("measure: rouge\n", encoding="utf-8")
        (folder / "speed.yaml").write_text(EXPERIMENT, encoding="utf-8")
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows(count))
        sanity = [{**row, "id": f"sanity-{n}"} for n, row in enumerate(rows(400)) if n % 7 == 3]
        text = "".join(json.dumps(row) + "\n" for row in sanity)
        (folder / "sanity.jsonl").write_text(text, encoding="utf-8")
        command = [sys.executable, __file__, "--child", str(folder / "speed.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def child(path: str) -> None:
    """Audit one experiment and print seconds and peak memory."""
    from tunesmith.audit.checks import audit_experiment
    from tunesmith.config import Experiment

    began, at, marks = time.perf_counter(), "reading", {}
    clock = began

    def told(name: str) -> None:
        nonlocal clock, at
        now = time.perf_counter()
        marks[at], clock, at = round(now - clock, 2), now, name

    report = audit_experiment(Experiment.from_yaml(path), told=told)
    told("")
    seconds = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak, cpu = usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime
    counts = {finding.check: finding.count for finding in report.findings}
    slowest = dict(sorted(marks.items(), key=lambda mark: -mark[1])[:8])
    print(
        json.dumps(
            {
                "seconds": round(seconds, 1),
                "cpu_seconds": round(cpu, 1),
                "mib": round(peak),
                "counts": counts,
                "slowest": slowest,
            }
        )
    )


def main() -> int:
    """Measure each size; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 200_000])
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return 0
    results = {count: measure(count) for count in arguments.rows}
    for count, result in results.items():
        took = f"{result['seconds']} s ({result['cpu_seconds']} s of processor)"
        print(f"{count} rows: {took}, peak {result['mib']} MiB; slowest {result['slowest']}")
    load = os.getloadavg()
    if arguments.out:
        out = {"cores": os.cpu_count(), "load_at_end": load, "results": results}
        arguments.out.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    first, last = min(results), max(results)
    ratio = results[last]["seconds"] / results[first]["seconds"]
    print(f"{last / first:g} times the rows take {ratio:.2f} times as long; load average {load[0]:.1f}")
    return int(results[first]["seconds"] > SECONDS or results[first]["mib"] > MIB or ratio > RATIO * last / first / 2)


if __name__ == "__main__":
    sys.exit(main())
