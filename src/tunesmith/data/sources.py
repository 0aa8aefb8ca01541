"""Where rows come from: a file, a folder, or a data set on the hub."""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.data.readers.arrays import read_json
from tunesmith.data.readers.hub import HubSource, files_of, read_hub, read_saved
from tunesmith.data.readers.lines import read_jsonl
from tunesmith.data.readers.place import Place
from tunesmith.data.readers.tables import read_csv, read_parquet
from tunesmith.errors import DataError

Rows = Iterator[tuple[Place, dict[str, Any]]]


@dataclass(frozen=True)
class FolderSource:
    """A folder that the `datasets` library understands, and the split of it that is read."""

    path: pathlib.Path
    split: str = "train"

    def __str__(self) -> str:
        return str(self.path)


Source = pathlib.Path | FolderSource | HubSource

READERS: Mapping[str, Callable[[pathlib.Path], Rows]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}


def find_source(reference: str, *, folder: pathlib.Path) -> Source:
    """What a reference names: a file or folder (below `folder` unless absolute), else a hub data set.

    `hub:OWNER/NAME[/SUBSET][:SPLIT][@REVISION]` always means the hub; without `hub:` it does if no
    such path exists and it does not end like a data file. `FOLDER:SPLIT` names a split of a folder.
    """
    if reference.startswith("hub:"):
        source = HubSource.parse(reference.removeprefix("hub:"))
        if source is None:
            raise DataError(f"{reference}: a hub data set is named hub:OWNER/NAME[/SUBSET][:SPLIT][@REVISION]")
        return source
    path = (folder / reference).resolve()
    if path.is_dir():
        return FolderSource(path)
    parent, colon, split = reference.rpartition(":")
    if colon and (folder / parent).is_dir():
        return FolderSource((folder / parent).resolve(), split)
    if path.exists() or path.suffix in READERS:
        return path
    return HubSource.parse(reference) or path


def read_source(source: Source) -> Rows:
    """Yield place and object of each row, in order; memory does not grow with the source.

    Raises `DataError` naming file and line (or row) of the first row that cannot be read.
    """
    if isinstance(source, HubSource):
        yield from read_hub(source)
    elif isinstance(source, FolderSource):
        yield from _read_folder(source)
    else:
        yield from _reader(source)(source)


def _reader(path: pathlib.Path) -> Callable[[pathlib.Path], Rows]:
    if path.suffix not in READERS:
        raise DataError(f"{path}: unknown kind of file; its name must end in one of {', '.join(READERS)}")
    return READERS[path.suffix]


def _read_folder(source: FolderSource) -> Rows:
    names = {path.name for path in source.path.iterdir()}
    if names & {"dataset_info.json", "state.json", "dataset_dict.json"}:
        yield from read_saved(source.path, source.split)
        return
    for path in files_of(source.path, source.split):
        yield from _reader(path)(path)
