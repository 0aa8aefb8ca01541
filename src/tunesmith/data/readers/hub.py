"""Data sets of the `datasets` library: on the hub, or saved in a folder."""

import pathlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from tunesmith.data.readers.place import Place
from tunesmith.data.readers.tables import plain_row
from tunesmith.errors import DataError

REFERENCE = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<subset>[\w.-]+))?(?::(?P<split>[\w.\[\]%-]+))?(?:@(?P<revision>[\w./-]+))?"
)


@dataclass(frozen=True)
class HubSource:
    """A data set on the hub, written `OWNER/NAME[/SUBSET][:SPLIT][@REVISION]`; the split is train unless named."""

    name: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None

    @classmethod
    def parse(cls, reference: str) -> Self | None:
        """The data set that a reference names, if it has that form."""
        found = REFERENCE.fullmatch(reference)
        return cls(**{key: value for key, value in found.groupdict().items() if value}) if found else None

    def __str__(self) -> str:
        subset, revision = f"/{self.subset}" if self.subset else "", f"@{self.revision}" if self.revision else ""
        return f"hub:{self.name}{subset}:{self.split}{revision}"


def read_hub(source: HubSource) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield place and object of each row as it arrives; raises `DataError` when the hub has no answer."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        rows = datasets.load_dataset(
            source.name, source.subset, split=source.split, revision=source.revision, streaming=True
        )
        yield from _numbered(rows, str(source))
    except (OSError, ValueError, DatasetsError) as error:
        if isinstance(error, DataError):
            raise
        problem = str(error).splitlines()[0][:200] if isinstance(error, ValueError) else type(error).__name__
        raise DataError(f"{source}: neither a file here nor a data set that the hub gives ({problem})") from None


def read_saved(folder: pathlib.Path, split: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield place and object of each row of a data set written by `save_to_disk`; it stays on disk."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: not a data set written by save_to_disk ({type(error).__name__})") from None
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise DataError(f"{folder}: has no split {split}; name one of {', '.join(saved)} as {folder}:SPLIT")
        saved = saved[split]
    yield from _numbered(saved, str(folder))


def files_of(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
    """The files of a folder that the `datasets` library takes for a split, in its order."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        files = datasets.load_dataset_builder(str(folder)).config.data_files
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(f"{folder}: no data files that can be read ({type(error).__name__})") from None
    if split not in files:
        raise DataError(f"{folder}: has no split {split}; name one of {', '.join(map(str, files))} as {folder}:SPLIT")
    return [pathlib.Path(file) for file in files[split]]


def _numbered(rows: Any, name: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    number = 0
    for number, row in enumerate(rows, 1):
        where = Place(name, number, "row")
        yield where, plain_row(dict(row), where=where)
    if number == 0:
        raise DataError(f"{name}: is empty; it needs at least one row")
