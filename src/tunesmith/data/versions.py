"""Versions of a data set: a digest for each row, a root over all and over each split, and what changed between two."""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tunesmith.config.experiment import Experiment, SplitConfig
from tunesmith.data.dataset import source_of
from tunesmith.data.digest import UNVERSIONED, Root, row_digest
from tunesmith.data.rows import Check, distinct, placed_rows
from tunesmith.data.sources import Source, find_source
from tunesmith.data.split import split_of
from tunesmith.records import Row

Watch = Callable[[str, Iterable[Row]], Iterable[Row]]


@dataclass(frozen=True)
class DataReference:
    """What a command was given: an experiment's data, or a file, folder or hub data set on its own."""

    source: Source
    format: str = "auto"
    split: SplitConfig | None = None

    @classmethod
    def parse(cls, text: str) -> "DataReference":
        """An experiment if it ends in `.yaml` or `.yml`, else a source relative to the working directory."""
        if text.endswith((".yaml", ".yml")):
            experiment = Experiment.from_yaml(text)
            return cls(source_of(experiment), experiment.data.format, experiment.data.split)
        return cls(find_source(text, folder=pathlib.Path.cwd()))

    def rows(self, *, group_by: str | None = None, check: Check | None = None) -> Iterable[Row]:
        """Canonical rows with distinct ids, as a stream, each checked by `check` if one is given."""
        by = group_by or (self.split.by if self.split else "group")
        return (row for _, row in distinct(placed_rows(self.source, check, format=self.format, group_by=by)))


@dataclass(frozen=True)
class Version:
    """One state of a data set.

    `rows` maps each id to the row's digest and split; `roots` maps a split, or `all`, to the SHA-256
    over the digests of its rows in their order. Without shares, no row has a split.
    """

    name: str
    rows: Mapping[str, tuple[bytes, str]]
    roots: Mapping[str, str]

    def count(self, split: str) -> int:
        """Number of rows in a split."""
        return sum(1 for _, name in self.rows.values() if name == split)


def version_of(name: str, rows: Iterable[Row], split: SplitConfig | None = None) -> Version:
    """The version that a stream of rows with distinct ids makes up; keeps ids and digests only."""
    shares = split.shares() if split else {}
    roots = {"all": Root(), **{name: Root() for name in shares}}
    index: dict[str, tuple[bytes, str]] = {}
    for row in rows:
        digest, part = row_digest(row), split_of(row["group"], shares) if shares else ""
        index[row["id"]] = digest, part
        roots["all"].add(digest)
        if part:
            roots[part].add(digest)
    return Version(name, index, {name: root.hex() for name, root in roots.items()})


@dataclass(frozen=True)
class DataDiff:
    """What changed from `before` to `after`: ids, in the order of their files.

    `edited` maps an id to the names of the fields that differ; `moved` maps an id to its old and new split.
    """

    before: Version
    after: Version
    added: tuple[str, ...]
    removed: tuple[str, ...]
    edited: Mapping[str, tuple[str, ...]]
    moved: Mapping[str, tuple[str, str]]

    @property
    def same(self) -> bool:
        """Whether both hold the same rows, perhaps in another order."""
        return not (self.added or self.removed or self.edited)


def _unwatched(_: str, rows: Iterable[Row]) -> Iterable[Row]:
    return rows


def diff(a: DataReference, b: DataReference, *, watch: Watch = _unwatched) -> DataDiff:
    """Compare two data sets row by row, matched by id; `watch` is shown each name and stream, and passes it on.

    Both are grouped and split as the first of them that is an experiment says. Rows without a given
    id are known by their content, so an edited one counts as removed and added.
    """
    split = a.split or b.split
    by = split.by if split else "group"
    names = [str(it.source) for it in (a, b)]
    streams = (watch(name, it.rows(group_by=by)) for name, it in zip(names, (a, b), strict=True))
    before, after = (version_of(name, rows, split) for name, rows in zip(names, streams, strict=True))
    both = [key for key in before.rows if key in after.rows]
    changed = [key for key in both if before.rows[key][0] != after.rows[key][0]]
    return DataDiff(
        before,
        after,
        added=tuple(key for key in after.rows if key not in before.rows),
        removed=tuple(key for key in before.rows if key not in after.rows),
        edited=_changed_fields(a, b, changed, by),
        moved={k: (before.rows[k][1], after.rows[k][1]) for k in both if before.rows[k][1] != after.rows[k][1]},
    )


def _changed_fields(a: DataReference, b: DataReference, ids: list[str], by: str) -> dict[str, tuple[str, ...]]:
    """The fields that differ in each row of `ids`, from a second reading that keeps these rows alone."""
    wanted = set(ids)
    if not wanted:
        return {}
    old, new = ({row["id"]: row for row in it.rows(group_by=by) if row["id"] in wanted} for it in (a, b))
    return {key: differing_fields(old[key], new[key]) for key in ids}


def differing_fields(old: Row, new: Row) -> tuple[str, ...]:
    """Names of the fields of two rows that differ, provenance aside."""
    keys = sorted({*old, *new} - {UNVERSIONED})
    return tuple(key for key in keys if key not in old or key not in new or old[key] != new[key])
