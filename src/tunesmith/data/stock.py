"""Tasks of the lm-eval harness by name, and files in its format: found, approved, their items as rows.

lm-eval runs what such a file says: templates unsandboxed, functions from the modules it names. The files of the
installed harness are part of it; a person's own is not loaded before its digest stands in `evaluation.approved`.
"""

import functools
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import yaml

from tunesmith.config.experiment import Experiment
from tunesmith.config.task import HARNESS, HarnessTask, Part, is_file, task_name
from tunesmith.data.digest import digest_of, sha256
from tunesmith.data.stock_index import by_name, nearest, tagged
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Row


class Function(str):
    """The name of a Python function in a task's file: `MODULE.NAME`."""

    __slots__ = ()


class Loader(yaml.SafeLoader):
    """Safe YAML in which `!function NAME` is that name, and nothing is imported."""


Loader.add_constructor("!function", lambda _, node: Function(node.value))


def find_task(experiment: Experiment, reference: str) -> HarnessTask:
    """The task, or tasks of a group, that `lm_eval:NAME` or `lm_eval:FILE.yaml` names; runs nothing of it.

    Raises `ConfigError` where there is none, where a group cannot be taken as one, and for a file that nobody has
    approved.
    """
    evaluation = experiment.evaluation
    where = f"{experiment.where('evaluation', 'suites' if reference in evaluation.suites else 'tasks')}: {reference}"
    named = reference.removeprefix(HARNESS)
    path = experiment.resolve(evaluation.tasks_dir) / named if is_file(reference) else None
    try:
        parts = named_parts(named) if path is None else (approved_part(path, reference, evaluation.approved),)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: {first_line(error)}") from None
    tree = {"reference": reference, "place": where, "parts": parts}
    return HarnessTask.from_tree(tree, path=path or pathlib.Path(parts[0].file))


def approved_part(path: pathlib.Path, reference: str, approved: Sequence[str]) -> Part:
    """A person's own file; raises `ValueError` unless its digest is approved, `OSError` where there is none."""
    try:
        file = TaskFile(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if file.sha256 not in approved:
        files = ", ".join(file.contents)
        raise ValueError(f"may run code; read {files} and add to evaluation.approved: {file.sha256}")
    if not isinstance(file.config.get("task"), str):
        raise ValueError("is no task but a group of them; name its tasks one by one")
    return make_part(task_name(reference), path, file)


def make_part(name: str, path: pathlib.Path, file: "TaskFile") -> Part:
    """A task of lm-eval by its file."""
    data = file.config.get("dataset_path")
    return Part(name=name, file=str(path), sha256=file.sha256, data=data if isinstance(data, str) else None)


@functools.lru_cache(maxsize=64)
def named_parts(name: str) -> tuple[Part, ...]:
    """The tasks that a name of the harness stands for: one, or those of a group or tag, each once.

    Raises `ValueError` where there is none, and where a group changes its tasks' settings or aggregates otherwise
    than by the mean over all items.
    """
    path = by_name().get(name)
    if path is None:
        members = tagged(name)
        if not members:
            raise ValueError(f"lm-eval {version('lm-eval')} has no task of this name{nearest(name)}")
        return tuple(part for member in members for part in named_parts(member))
    file = TaskFile(path)
    if isinstance(file.config.get("task"), str):
        return (make_part(task_name(f"{HARNESS}{name}"), path, file),)
    members = file.config.get("task") or []
    if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
        raise ValueError(f"the group {name} changes the settings of its tasks; name tasks one by one")
    return tuple({part.file: part for member in members for part in named_parts(member)}.values())


class TaskFile:
    """What a task's file says, together with what it includes."""

    def __init__(self, path: pathlib.Path) -> None:
        self.folder = path.resolve().parent
        self.contents: dict[str, str] = {}
        """The SHA-256 of every file read, and of the Python files that they name, by path from its folder."""
        self.config = self._read(path)

    @property
    def sha256(self) -> str:
        """Over the names and contents of all these files."""
        return digest_of(self.contents)

    def _read(self, path: pathlib.Path) -> dict[str, Any]:
        path = path.resolve()  # as lm-eval does before it looks for modules beside it
        place = os.path.relpath(path, self.folder)
        if place in self.contents:
            raise ValueError(f"{place} includes itself")
        text = path.read_text(encoding="utf-8")
        self.contents[place] = sha256(text)
        config = yaml.load(text, Loader)  # noqa: S506 - a kind of SafeLoader
        if not isinstance(config, dict):
            raise ValueError(f"{place} is no mapping of keys to values")
        for name in functions_in(config):
            module = path.parent / f"{name.rpartition('.')[0].replace('.', '/')}.py"
            if module.is_file():
                self.contents[os.path.relpath(module, self.folder)] = sha256(module.read_text(encoding="utf-8"))
        included = config.pop("include", [])
        merged: dict[str, Any] = {}
        for other in included if isinstance(included, list) else [included]:
            merged |= self._read(path.parent / other)
        return merged | config


def functions_in(value: Any) -> Iterator[Function]:
    """The functions that a part of a task's file names."""
    if isinstance(value, Function):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from functions_in(part)


@functools.lru_cache(maxsize=32)
def harness_task(path: pathlib.Path, sha256: str) -> Any:
    """lm-eval's own task object with its data; `sha256` is that of the file which was approved."""
    from lm_eval.tasks import TaskManager

    file = TaskFile(path)
    if file.sha256 != sha256:
        raise ValueError("its file was changed meanwhile")
    refresh(file.config)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tasks = TaskManager(include_defaults=False).load(str(path))["tasks"]
    return next(iter(tasks.values()))


def refresh(config: Mapping[str, Any]) -> None:
    """Read a data set that is a folder anew: `datasets` would go on giving what it has read there before."""
    from datasets import load_dataset

    place = config.get("dataset_path")
    if isinstance(place, str) and pathlib.Path(place).is_dir():
        given = {
            key: value for key, value in (config.get("dataset_kwargs") or {}).items() if key != "trust_remote_code"
        }
        load_dataset(place, config.get("dataset_name"), download_mode="force_redownload", **given)


def load_part(task: HarnessTask, part: Part) -> Any:
    """lm-eval's task object; raises `DataError` where its data is not at hand or it cannot be scored here."""
    try:
        loaded = harness_task(pathlib.Path(part.file), part.sha256)
    except Exception as error:  # noqa: BLE001 - whatever its file, functions and data set may raise
        raise DataError(f"{task.place}: {remedy(part, error)}") from None
    if getattr(loaded, "UNSAFE_CODE", False) or getattr(loaded, "MULTIMODAL", False):
        raise DataError(f"{task.place}: needs code of the model to be run, or a model that sees images; leave it out")
    return loaded


def remedy(part: Part, error: Exception) -> str:
    """What went wrong on loading a task, and what helps."""
    said = f"{type(error).__name__}: {first_line(error)}"
    missing = isinstance(error, ConnectionError | FileNotFoundError) or "cache" in str(error)
    if part.data is None or not missing:
        return f"lm-eval cannot load {part.name} ({said})"
    return (
        f"its data set {part.data} is not at hand ({said}); load it once with a network, put a copy that `datasets` "
        f"can read into the folder {part.data} here, or leave the task out"
    )


def first_line(error: Exception) -> str:
    """The first line of an error's message; the reason where a file could not be read."""
    return getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0]


@functools.lru_cache(maxsize=32)
def rows_of(task: HarnessTask) -> tuple[Row, ...]:
    """The task's items: `id` and `group` `PART-INDEX`, the question as `text`, and a digest of the whole item.

    The index is lm-eval's own. Raises `DataError` where the items cannot be had.
    """
    rows: list[Row] = []
    for part in task.parts:
        loaded = load_part(task, part)
        try:
            rows += [make_row(part, index, loaded, item) for index, item in enumerate(loaded.eval_docs)]
        except Exception as error:  # noqa: BLE001 - templates and functions of the task
            raise DataError(f"{task.place}: {remedy(part, error)}") from None
    return tuple(rows)


def make_row(part: Part, index: int, loaded: Any, item: Any) -> Row:
    """An item of lm-eval's task as a row."""
    asked = loaded.doc_to_text(item)
    if isinstance(asked, int):  # of such a task the choices are contexts, and this is the right one
        asked = loaded.doc_to_choice(item)[asked]
    place = f"{part.name}-{index}"
    said = sha256(json.dumps(item, sort_keys=True, default=str))
    known = {"id": place, "group": place, "part": part.name, "index": index}
    return {**known, "text": str(asked), "item_sha256": said}
