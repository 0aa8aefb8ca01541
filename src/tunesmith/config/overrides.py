"""Overriding fields of an experiment by their dotted names."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from tunesmith.config.experiment import Experiment
from tunesmith.config.strict import NUMBER_LIKE, Section, suggestion, variants
from tunesmith.errors import ConfigError

SHORT_SECTIONS = ("method", "adapter", "model")


def field_names(under: str | tuple[str, ...] = "") -> list[str]:
    """Every overridable field whose name begins so, as `section.field`, deepest names last; of all methods."""
    return [name for name in _all_names() if name.startswith(under)]


@functools.cache
def _all_names() -> tuple[str, ...]:
    return tuple(sorted(set(_names(Experiment)), key=lambda name: (name.count("."), name)))


def _names(model: type[Section], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        nested = [m for m in variants(field.annotation) if issubclass(m, Section)]
        for section in nested:
            yield from _names(section, f"{prefix}{name}.")
        if not nested:
            yield f"{prefix}{name}"


def full_name(name: str) -> str:
    """`learning_rate` as `method.learning_rate`; dotted names stay; unknown ones are refused."""
    known = field_names()
    if name in known:
        return name
    for section in SHORT_SECTIONS:
        if f"{section}.{name}" in known:
            return f"{section}.{name}"
    by_short = {short_name(field): field for field in known}
    if name in by_short:
        raise ConfigError(f"{name}: write the whole name, {by_short[name]}")
    raise ConfigError(f"{name}: no such experiment field{suggestion(name, [*known, *by_short])}")


def short_name(name: str) -> str:
    """`method.learning_rate` as `learning_rate`."""
    return name.rpartition(".")[2]


def parse_value(text: str) -> Any:
    """A value as typed on the command line: YAML, except that 3e-4 is a number."""
    if NUMBER_LIKE.fullmatch(text):
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{text!r} is neither a word, a number nor a list") from None


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`["learning_rate=3e-4", ...]` as full names and values."""
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: write it as field=value")
        values[full_name(name.strip())] = parse_value(text.strip())
    return values


def parse_extra_arguments(arguments: list[str]) -> dict[str, Any]:
    """Undeclared `mlflow run -P name=value` pairs, which arrive as `--name value`."""
    values = {}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--"):
            raise ConfigError(f"unexpected argument {argument!r}; overrides are written --field value")
        name, equals, text = argument[2:].partition("=")
        if not equals:
            try:
                text = next(rest)
            except StopIteration:
                raise ConfigError(f"--{name}: a value must follow") from None
        values[full_name(name)] = parse_value(text)
    return values


def apply(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment with fields replaced; raises `ConfigError` as loading the file would."""
    tree = experiment.model_dump()
    for name, value in values.items():
        *sections, field = full_name(name).split(".")
        branch = tree
        for section in sections:
            branch = branch[section]
        branch[field] = value
    return Experiment.from_tree(tree, path=experiment.path)


def get(experiment: Experiment, name: str) -> Any:
    """The value of a dotted field."""
    value: Any = experiment
    for key in full_name(name).split("."):
        value = getattr(value, key)
    return value


def values_of(experiment: Experiment, under: str | tuple[str, ...] = "") -> dict[str, Any]:
    """The fields that this experiment has, of those whose names begin so, with their values."""
    return {name: get(experiment, name) for name in field_names(under) if _has(experiment, name)}


def _has(experiment: Experiment, name: str) -> bool:
    part: Any = experiment
    for key in name.split("."):
        if key not in type(part).model_fields:
            return False
        part = getattr(part, key)
    return True
