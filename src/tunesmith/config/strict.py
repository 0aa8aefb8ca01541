"""Strict YAML: unknown keys are named with the nearest known one, and every error with its line."""

import difflib
import pathlib
import re
from collections.abc import Iterator
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from tunesmith.errors import ConfigError

KeyPath = tuple[str | int, ...]

TAGS = ("kind", "rule")  # fields that tell the members of a union apart

NUMBER_LIKE = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Section(BaseModel):
    """A part of a configuration file: frozen, typed strictly, without unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class Document(Section):
    """A whole configuration file; relative paths in it start at the folder it lies in."""

    _path: pathlib.Path = PrivateAttr(default=pathlib.Path())
    _lines: dict[KeyPath, int] = PrivateAttr(default_factory=dict)

    @classmethod
    def from_yaml(cls, path: str | pathlib.Path) -> Self:
        """Load and check a file; raises `ConfigError` with file, line, key and remedy."""
        path = pathlib.Path(path)
        tree, lines = read_yaml(path)
        return cls.from_tree(tree, path=path, lines=lines)

    @classmethod
    def from_tree(cls, tree: dict[str, Any], *, path: pathlib.Path, lines: dict[KeyPath, int] | None = None) -> Self:
        """Check a tree of plain values that came from `path` (with overrides, perhaps)."""
        try:
            document = cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(describe(error, cls, path=path, lines=lines or {}, tree=tree)) from None
        document._path = path
        document._lines = lines or {}
        return document

    @property
    def path(self) -> pathlib.Path:
        """The file this was read from."""
        return self._path

    def resolve(self, relative: str) -> pathlib.Path:
        """The path of a file named in this document."""
        return (self._path.parent / relative).resolve()

    def where(self, *keys: str | int) -> str:
        """`file:line: dotted.key` of a key in this document, for messages."""
        return f"{locate(self._path, keys, self._lines)}: {dotted(keys)}"

    def tree(self) -> dict[str, Any]:
        """All fields, defaults included, as plain values for JSON or YAML."""
        return self.model_dump(mode="json")


def read_yaml(path: pathlib.Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return a YAML file's mapping and the line on which each of its keys stands."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason}); check the path") from None
    try:
        tree = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}{where}: not valid YAML: {problem}") from None
    if not isinstance(tree, dict) or node is None:
        raise ConfigError(f"{path}: must be a mapping of keys to values")
    lines: dict[KeyPath, int] = {}
    for keys, scalar in walk(node):
        lines[keys] = scalar.start_mark.line + 1
        plain_text = isinstance(scalar, yaml.ScalarNode) and scalar.tag.endswith(":str") and not scalar.style
        if plain_text and NUMBER_LIKE.fullmatch(scalar.value):
            key, fix = dotted(keys), repr(float(scalar.value))
            fix = fix if "." in fix else fix.replace("e", ".0e")
            raise ConfigError(f"{path}:{lines[keys]}: {key}: YAML reads {scalar.value} as text; write {fix}")
    return tree, lines


def walk(node: yaml.Node, keys: KeyPath = ()) -> Iterator[tuple[KeyPath, yaml.Node]]:
    """Yield every node below `node` with the path of keys that leads to it."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*keys, key.value), value if isinstance(value, yaml.ScalarNode) else key
            yield from walk(value, (*keys, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*keys, index), value
            yield from walk(value, (*keys, index))


def dotted(keys: KeyPath) -> str:
    """`("method", "epochs")` as `method.epochs`."""
    return ".".join(str(key) for key in keys)


def describe(
    error: ValidationError, model: type[BaseModel], *, path: pathlib.Path, lines: dict[KeyPath, int], tree: Any
) -> str:
    """The most telling problem of a validation error as one line; unknown keys come first."""
    problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    keys = written_keys(problem["loc"], tree)
    if problem["type"] == "missing":
        keys = (*keys, problem["loc"][-1])
    where = locate(path, keys, lines)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "unknown key" + suggestion(str(keys[-1]), siblings(model, problem["loc"][:-1]))
    elif problem["type"] == "missing":
        message = "is required"
    elif not isinstance(problem["input"], dict | list):
        message = f"{message[0].lower()}{message[1:]}, not {problem['input']!r}"
    return f"{where}: {dotted(keys)}: {message}" if keys else f"{where}: {message}"


def written_keys(loc: KeyPath, tree: Any) -> KeyPath:
    """A pydantic location without the tags of unions, which nobody wrote."""
    keys: KeyPath = ()
    for key in loc:
        here = isinstance(tree, dict) and key in tree
        if here or (isinstance(tree, list) and isinstance(key, int) and key < len(tree)):
            keys, tree = (*keys, key), tree[key]
    return keys


def locate(path: pathlib.Path, keys: KeyPath, lines: dict[KeyPath, int]) -> str:
    """`path:line` of a key, or of the nearest key above it."""
    line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)
    return f"{path}:{line}" if line else str(path)


def siblings(model: Any, loc: KeyPath) -> list[str]:
    """The keys allowed where a pydantic location leads to (of every variant, where it leads to a union)."""
    for key in loc:
        fields = [m.model_fields[key] for m in variants(model) if isinstance(key, str) and key in m.model_fields]
        tagged = [m for m in variants(model) if is_tagged(m, key)]
        model = fields[0].annotation if fields else tagged[0] if tagged else model
    return sorted({name for variant in variants(model) for name in variant.model_fields})


def is_tagged(model: type[BaseModel], key: str | int) -> bool:
    """Whether a key of a pydantic location is the tag by which a union tells this model."""
    tags = [get_args(field.annotation) for name, field in model.model_fields.items() if name in TAGS]
    return any(key in values for values in tags)


def variants(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation admits: itself, or the members of a union or container."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in variants(argument)]


def suggestion(word: str, known: list[str]) -> str:
    """`; did you mean X?` for the nearest known word, or the list of known ones."""
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""
