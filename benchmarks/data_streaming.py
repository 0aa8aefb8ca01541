"""How much time and memory a million rows take to read, and whether memory grows with them.

    python benchmarks/data_streaming.py [--rows 1000000] [--repeats 3]

Generates files of short rows in a temporary folder and streams each through `stream_rows` (converted, with id,
group and provenance), then through `distinct` (repeated ids found) and `data diff` of the file with itself, each
in a process of its own. Prints a Markdown table: seconds and CPU seconds (median and range over the repeats), and
the peak of resident memory above that of a process that only imported the code (`VmHWM`, so on Linux alone).
"""

import argparse
import json
import multiprocessing
import pathlib
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from tunesmith.data.rows import distinct, placed_rows, stream_rows
from tunesmith.data.versions import DataReference, diff

WORDS = ["water", "power", "meter", "bill", "leak", "outage", "plan", "solar", "rate", "call", "repair", "notice"]


def generate(path: pathlib.Path, count: int) -> None:
    """Write so many prompt-and-completion rows of some 200 bytes, as the kind of file that the path ends in."""
    chance = random.Random(7)
    rows = (
        {"prompt": f"{n} {' '.join(chance.choices(WORDS, k=15))}?", "completion": " ".join(chance.choices(WORDS, k=15))}
        for n in range(count)
    )
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        schema = pyarrow.schema([("prompt", pyarrow.string()), ("completion", pyarrow.string())])
        with parquet.ParquetWriter(path, schema) as writer:
            while batch := [row for _, row in zip(range(50_000), rows, strict=False)]:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
        return
    start, between, end = ("[", ",\n", "]") if path.suffix == ".json" else ("", "\n", "\n")
    if path.suffix == ".csv":
        start = "prompt,completion\n"
    with path.open("w", encoding="utf-8") as file:
        file.write(start)
        for n, row in enumerate(rows):
            file.write(between if n else "")
            file.write(",".join(row.values()) if path.suffix == ".csv" else json.dumps(row))
        file.write(end)


def stream(path: pathlib.Path) -> int:
    """Rows one at a time, forgotten at once."""
    return sum(1 for _ in stream_rows(path))


def unique(path: pathlib.Path) -> int:
    """Rows one at a time, with repeated ids found."""
    return sum(1 for _ in distinct(placed_rows(path)))


def compared(path: pathlib.Path) -> int:
    """The file against itself: ids and digests of both sides."""
    return len(diff(DataReference(path), DataReference(path)).after.rows)


WORK: dict[str, Callable[[pathlib.Path], int]] = {"stream": stream, "distinct": unique, "diff": compared}


def peak() -> float:
    """Peak of this process's resident memory so far, in MiB."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(name: str, path: str, rows: int, pipe: "multiprocessing.connection.Connection") -> None:
    """Send the seconds, the CPU seconds and the growth of peak memory, in MiB, that a piece of work takes here."""
    if path.endswith(".parquet"):
        import pyarrow.parquet  # noqa: F401  # its own memory is not the rows'
    before = peak()
    start, cpu = time.perf_counter(), time.process_time()
    count = WORK[name](pathlib.Path(path))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    if count != rows:
        raise SystemExit(f"{name}: {count} rows, not {rows}")
    pipe.send((seconds, cpu, peak() - before))


def run(name: str, path: pathlib.Path, rows: int) -> tuple[float, float, float]:
    """`measure` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=measure, args=(name, str(path), rows, theirs))
    process.start()
    theirs.close()
    value: tuple[float, float, float] = ours.recv()
    process.join()
    return value


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {platform.machine()}, {platform.system()}; {options.repeats} repeats\n")
    print("| file | work | rows | seconds, median (range) | CPU seconds | peak memory above the start, MiB |")
    print("|---|---|---:|---:|---:|---:|")
    jobs = [("jsonl", "stream"), ("json", "stream"), ("csv", "stream"), ("parquet", "stream")]
    jobs += [("jsonl", "distinct"), ("jsonl", "diff")]
    with tempfile.TemporaryDirectory() as folder:
        for count in (options.rows // 10, options.rows):
            for ending in ("jsonl", "json", "csv", "parquet"):
                generate(pathlib.Path(folder) / f"{count}.{ending}", count)
            for ending, name in jobs:
                path = pathlib.Path(folder) / f"{count}.{ending}"
                taken = [run(name, path, count) for _ in range(options.repeats)]
                *times, memory = zip(*taken, strict=True)
                spreads = [f"{statistics.median(t):.1f} ({min(t):.1f} to {max(t):.1f})" for t in times]
                print(f"| {ending} | {name} | {count:,} | {' | '.join(spreads)} | {max(memory):.0f} |")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
