"""Tasks of the lm-eval harness by name, and files in its format: found, approved, their items as rows.

lm-eval runs what such a file says: templates unsandboxed, functions from the modules it names. The files of the
installed harness are part of it; a person's own is not loaded before its digest stands in `evaluation.approved`.
"""

import difflib
import functools
import importlib.util
import json
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import yaml

from tunesmith.config.experiment import Experiment
from tunesmith.config.task import HARNESS, HarnessTask, is_file
from tunesmith.data.digest import digest_of, sha256
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Row


class Function(str):
    """The name of a Python function in a task's file: `MODULE.NAME`."""

    __slots__ = ()


class Loader(yaml.SafeLoader):
    """Safe YAML in which `!function NAME` is that name, and nothing is imported."""


Loader.add_constructor("!function", lambda _, node: Function(node.value))


def find_task(experiment: Experiment, reference: str) -> HarnessTask:
    """The task that `lm_eval:NAME` or `lm_eval:FILE.yaml` names; runs nothing of it.

    Raises `ConfigError` where there is none, where it is a group, and for a file that nobody has approved.
    """
    evaluation = experiment.evaluation
    where = f"{experiment.where('evaluation', 'suites' if reference in evaluation.suites else 'tasks')}: {reference}"
    named, own = reference.removeprefix(HARNESS), is_file(reference)
    path = experiment.resolve(evaluation.tasks_dir) / named if own else stock_file(named)
    if path is None:
        raise ConfigError(f"{where}: lm-eval {version('lm-eval')} has no task of this name{nearest(named)}")
    try:
        file = TaskFile(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: {path} cannot be read: {first_line(error)}") from None
    if "group" in file.config:
        members = ", ".join(name for name in file.config.get("task") or () if isinstance(name, str))
        raise ConfigError(f"{where}: is a group of tasks; name those that you want: {members}")
    if own and file.sha256 not in evaluation.approved:
        files = ", ".join(file.contents)
        raise ConfigError(f"{where}: may run code; read {files} and add to evaluation.approved: {file.sha256}")
    data = file.config.get("dataset_path")
    known = {"reference": reference, "place": where, "sha256": file.sha256}
    tree = {**known, "data": data if isinstance(data, str) else None}
    return HarnessTask.from_tree(tree, path=path)


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


def stock_files() -> list[pathlib.Path]:
    """Every task file of the installed harness; some 14,000, of which none is read."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None  # noqa: S101 - it is a requirement of this package
    assert spec.origin is not None  # noqa: S101 - it is no namespace
    return sorted((pathlib.Path(spec.origin).parent / "tasks").rglob("*.yaml"))


@functools.lru_cache(maxsize=64)
def stock_file(name: str) -> pathlib.Path | None:
    """The harness's file that says `task: NAME` or `group: NAME`; files that are called so are looked into first."""
    says = re.compile(rf"""^["']?(task|group)["']?\s*:\s*["']?{re.escape(name)}["']?\s*(#.*)?$""", re.MULTILINE)
    files = sorted(stock_files(), key=lambda path: (path.stem != name, path.stem not in name))
    return next((path for path in files if says.search(path.read_text(encoding="utf-8", errors="replace"))), None)


def nearest(name: str) -> str:
    """`; did you mean X?`, by the names of the files."""
    found = difflib.get_close_matches(name, [path.stem for path in stock_files()], n=1)
    return f"; did you mean {found[0]}?" if found else "; `lm_eval ls tasks` lists them"


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


def load_task(task: HarnessTask) -> Any:
    """lm-eval's task object; raises `DataError` where its data is not at hand or it cannot be scored here."""
    try:
        loaded = harness_task(task.path, task.sha256)
    except Exception as error:  # noqa: BLE001 - whatever its file, functions and data set may raise
        raise DataError(f"{task.place}: {remedy(task, error)}") from None
    if getattr(loaded, "UNSAFE_CODE", False) or getattr(loaded, "MULTIMODAL", False):
        raise DataError(f"{task.place}: needs code of the model to be run, or a model that sees images; leave it out")
    return loaded


def remedy(task: HarnessTask, error: Exception) -> str:
    """What went wrong on loading a task, and what helps."""
    said = f"{type(error).__name__}: {first_line(error)}"
    missing = isinstance(error, ConnectionError | FileNotFoundError) or "cache" in str(error)
    if task.data is None or not missing:
        return f"lm-eval cannot load it ({said})"
    return (
        f"its data set {task.data} is not at hand ({said}); load it once with a network, put a copy that `datasets` "
        f"can read into the folder {task.data} here, or leave the task out"
    )


def first_line(error: Exception) -> str:
    """The first line of an error's message; the reason where a file could not be read."""
    return getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0]


@functools.lru_cache(maxsize=32)
def rows_of(task: HarnessTask) -> tuple[Row, ...]:
    """The task's items: `id` and `group` `NAME-INDEX`, the question as `text`, and a digest of the whole item.

    The index is lm-eval's own. Raises `DataError` where the items cannot be had.
    """
    loaded = load_task(task)
    try:
        return tuple(make_row(task.name, index, loaded, item) for index, item in enumerate(loaded.eval_docs))
    except Exception as error:  # noqa: BLE001 - templates and functions of the task
        raise DataError(f"{task.place}: {remedy(task, error)}") from None


def make_row(name: str, index: int, loaded: Any, item: Any) -> Row:
    """An item of lm-eval's task as a row."""
    asked = loaded.doc_to_text(item)
    if isinstance(asked, int):  # of such a task the choices are contexts, and this is the right one
        asked = loaded.doc_to_choice(item)[asked]
    place = f"{name}-{index}"
    said = sha256(json.dumps(item, sort_keys=True, default=str))
    return {"id": place, "group": place, "index": index, "text": str(asked), "item_sha256": said}
