"""Where the installed lm-eval harness defines its tasks, groups and tags: told from the text of its files.

lm-eval's own index reads all 14,000 files as YAML, which takes nine times as long.
"""

import difflib
import functools
import importlib.util
import os
import pathlib
import re
from dataclasses import dataclass

TASK = re.compile(r"""^["']?task["']?[ \t]*:[ \t]*["']?([^\s"'#\[]+)""", re.MULTILINE)
GROUP = re.compile(r"""^["']?group["']?[ \t]*:[ \t]*["']?([^\s"'#\[]+)""", re.MULTILINE)
TAG = re.compile(r"""^["']?tag["']?[ \t]*:(.*(?:\n[ \t]*-.*)*)""", re.MULTILINE)
INCLUDE = re.compile(r"""^["']?include["']?[ \t]*:(.*(?:\n[ \t]*-.*)*)""", re.MULTILINE)
WORD = re.compile(r"""[^\s"',\[\]]*[A-Za-z0-9][^\s"',\[\]]*""")


@dataclass(frozen=True)
class Said:
    """What a file says of itself."""

    task: str | None
    """The task that it defines."""
    group: str | None
    """The group, if it defines no task."""
    tags: frozenset[str] | None
    """None where it says nothing of tags, and so has those of what it includes."""
    includes: tuple[pathlib.Path, ...]


@functools.cache
def index() -> dict[pathlib.Path, Said]:
    """Every file of tasks of the installed harness, and what these include."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None  # noqa: S101 - it is a requirement of this package
    assert spec.origin is not None  # noqa: S101 - it is no namespace
    files = sorted((pathlib.Path(spec.origin).parent / "tasks").rglob("*"), key=pathlib.Path.as_posix)
    return {path: read(path) for path in files if path.suffix in {".yaml", ""} and path.is_file()}


def read(path: pathlib.Path) -> Said:
    """What one file says."""
    text = path.read_text(encoding="utf-8", errors="replace")
    task, group = TASK.search(text), GROUP.search(text)
    tags, included = TAG.search(text), INCLUDE.search(text)
    return Said(
        task=task.group(1) if task else None,
        group=group.group(1) if group and not task else None,
        tags=frozenset(WORD.findall(tags.group(1))) if tags else None,
        includes=tuple(
            pathlib.Path(os.path.normpath(path.parent / word))
            for word in (WORD.findall(included.group(1)) if included else ())
        ),
    )


@functools.cache
def by_name() -> dict[str, pathlib.Path]:
    """The file of each task and group; of several the first, as in lm-eval."""
    found: dict[str, pathlib.Path] = {}
    for path, said in index().items():
        name = said.task or said.group
        if name is not None and path.suffix == ".yaml":
            found.setdefault(name, path)
    return found


def tagged(tag: str) -> list[str]:
    """The names of the tasks that bear a tag, their own or one that they include."""
    return [name for name, path in by_name().items() if index()[path].task and tag in tags_of(path)]


def tags_of(path: pathlib.Path) -> frozenset[str]:
    """The tags of a file."""
    said = index().get(path, Said(None, None, None, ()))
    return said.tags if said.tags is not None else frozenset().union(*map(tags_of, said.includes))


def nearest(name: str) -> str:
    """`; did you mean X?` for the nearest name that there is."""
    found = difflib.get_close_matches(name, by_name(), n=1)
    return f"; did you mean {found[0]}?" if found else "; `lm_eval ls tasks` lists them"
