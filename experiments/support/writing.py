"""What both builders do with what they assembled: say what is wrong, or write the data files beside the sources."""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

HERE = pathlib.Path(__file__).parent
Rows = list[dict[str, Any]]


def build(assemble: Callable[[], tuple[Mapping[str, Rows], list[str]]], description: str | None) -> int:
    """Check the sources and, unless asked only to check, write the rows of each file; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="check the sources and write nothing")
    only_check = parser.parse_args().check
    files, problems = assemble()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return 1
    for name, rows in files.items():
        print(f"{name}: {len(rows)} rows")
        if not only_check:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            (HERE / name).write_text("".join(lines), encoding="utf-8")
    return 0
