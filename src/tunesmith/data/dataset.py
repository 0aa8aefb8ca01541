"""From an experiment's source file to its splits."""

import functools
import pathlib
from collections.abc import Callable, Sequence

from tunesmith.config.experiment import SPLITS, DataConfig, Experiment
from tunesmith.data.digest import digest_rows
from tunesmith.data.formats import check_conversation, check_row
from tunesmith.data.jsonl import read_jsonl
from tunesmith.data.split import split_of, stratified
from tunesmith.errors import DataError
from tunesmith.records import Dataset, Row, Split


def load_dataset(experiment: Experiment) -> Dataset:
    """Read the conversations of an experiment and deal them out to its splits.

    Raises `DataError` naming file and line of the first row that is not a conversation, and when a
    split that training needs stays empty.
    """
    path = experiment.resolve(experiment.data.source)
    rows = load_rows(path, check_conversation)
    dealt = deal(rows, experiment.data)
    for name in ("train", "tune"):
        if not dealt[name].rows:
            raise DataError(f"{path}: no group fell into {name}; add rows or change data.split")
    return Dataset(source=str(path), digest=digest_rows(rows), **dealt)


@functools.lru_cache(maxsize=8)
def load_rows(path: pathlib.Path, check: Callable[..., None]) -> tuple[Row, ...]:
    """Read a JSONL file whose rows have unique ids, a group, and the shape that `check` demands."""
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        check_row(row, where=where)
        check(row, where=where)
        if row["id"] in seen:
            raise DataError(f"{where}: id: already used on line {seen[row['id']]}; ids must be unique")
        seen[row["id"]] = number
        rows.append(row)
    return tuple(rows)


def deal(rows: Sequence[Row], config: DataConfig) -> dict[str, Split]:
    """Deal rows out to the splits by their group."""
    shares = config.split.shares()
    dealt: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        dealt[split_of(row[config.split.by], shares)].append(row)
    return {name: make_split(name, dealt[name]) for name in SPLITS}


def make_split(name: str, rows: Sequence[Row]) -> Split:
    """A split with its digest."""
    return Split(name=name, rows=tuple(rows), digest=digest_rows(rows))


def training_rows(dataset: Dataset, config: DataConfig) -> Split:
    """The rows that a run trains on: all of train, or a stratified subset of `train_rows`."""
    if config.train_rows is None or config.train_rows >= len(dataset.train.rows):
        return dataset.train
    return make_split("train", stratified(dataset.train.rows, config.train_rows, by=config.stratify_by))
