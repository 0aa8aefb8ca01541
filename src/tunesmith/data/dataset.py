"""From an experiment's source file to its splits."""

import functools
from collections.abc import Callable, Sequence

from tunesmith.config.experiment import SPLITS, DataConfig, Experiment
from tunesmith.data.digest import digest_rows
from tunesmith.data.formats import check_for
from tunesmith.data.rows import distinct, placed_rows
from tunesmith.data.sources import Source, find_source
from tunesmith.data.split import split_of, stratified
from tunesmith.errors import DataError
from tunesmith.records import Dataset, Row, Split


def load_dataset(experiment: Experiment) -> Dataset:
    """Read the rows of an experiment and deal them out to its splits.

    Raises `DataError` naming file and line of the first row that the method cannot train on, and when a
    split that training needs stays empty.
    """
    source = source_of(experiment)
    data = experiment.data
    rows = load_rows(source, check_for(experiment.method.kind), format=data.format, group_by=data.split.by)
    dealt = deal(rows, data)
    for name in ("train", "tune"):
        if not dealt[name].rows:
            raise DataError(f"{source}: no group fell into {name}; add rows or change data.split")
    return Dataset(source=str(source), digest=digest_rows(rows), **dealt)


def source_of(experiment: Experiment) -> Source:
    """The file, folder or hub data set that an experiment's rows come from."""
    return find_source(experiment.data.source, folder=experiment.path.parent)


@functools.lru_cache(maxsize=8)
def load_rows(
    source: Source, check: Callable[..., None], *, format: str = "auto", group_by: str = "group"
) -> tuple[Row, ...]:
    """All canonical rows of a source, with unique ids, a group, and the shape that `check` demands."""
    rows = placed_rows(source, check, format=format, group_by=group_by)
    return tuple(row for _, row in distinct(rows))


def deal(rows: Sequence[Row], config: DataConfig) -> dict[str, Split]:
    """Deal rows out to the splits by their group."""
    shares = config.split.shares()
    dealt: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        dealt[split_of(row["group"], shares)].append(row)
    return {name: make_split(name, dealt[name]) for name in SPLITS}


def make_split(name: str, rows: Sequence[Row]) -> Split:
    """A split with its digest."""
    return Split(name=name, rows=tuple(rows), digest=digest_rows(rows))


def training_rows(dataset: Dataset, config: DataConfig) -> Split:
    """The rows that a run trains on: all of train, or a stratified subset of `train_rows`."""
    if config.train_rows is None or config.train_rows >= len(dataset.train.rows):
        return dataset.train
    return make_split("train", stratified(dataset.train.rows, config.train_rows, by=config.stratify_by))
