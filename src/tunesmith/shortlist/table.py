"""A shortlist as lines of text, the same for the terminal and the page. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tunesmith.pages.markup import NOTHING
from tunesmith.shortlist.choice import Choice
from tunesmith.shortlist.entry import BITS, FEW_SHOT, ZERO_SHOT, Entry, Facts, Speed

LOWER = frozenset({BITS})
MEMORY = {"lora": "LoRA", "qlora": "QLoRA", "full": "full"}

Line = tuple[str, list[str]]


@dataclass(frozen=True)
class Shortlist:
    """All candidates, the recommendation, and on what it rests."""

    entries: tuple[Entry, ...]
    choice: Choice
    items: int
    shots: int
    rows: int
    memory_mb: float
    machine: str
    date: str
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """On what the candidates were compared."""
        return f"{self.items} questions of the sanity set; few-shot after {self.shots} examples from train; {self.date}"


def weights(count: int) -> str:
    """A number of weights to three figures."""
    return f"{count / 1e9:.3g}B" if count >= 1e9 else f"{count / 1e6:.3g}M"


def metrics(found: Shortlist) -> list[str]:
    """The metrics that some candidate has."""
    every = (metric for entry in found.entries for scores in entry.scores.values() for metric in scores)
    return list(dict.fromkeys(every))


def score_lines(found: Shortlist) -> list[Line]:
    """One line for each metric and setting, with intervals."""
    lines = []
    for metric in metrics(found):
        for setting in (ZERO_SHOT, FEW_SHOT):
            less = ", less is better" if metric in LOWER else ""
            cells = []
            for entry in found.entries:
                got = entry.scores.get(setting, {}).get(metric)
                cells.append(f"{got.mean:.3f} ({got.low:.3f} to {got.high:.3f})" if got else NOTHING)
            lines.append((f"{metric} {setting}{less}", cells))
    return lines


def fact_lines(found: Shortlist) -> list[Line]:
    """What the files say, and what tuning needs."""
    shapes: list[tuple[str, Callable[[Facts], str]]] = [
        ("weights", lambda f: weights(f.parameters)),
        ("architecture", lambda f: f"{f.kind}, {'encoder–decoder' if f.encoder_decoder else 'decoder-only'}"),
        ("context window, tokens", lambda f: f"{f.context:,}" if f.context else "not stated"),
        ("tokens a row, 50 / 95 / 99%", lambda f: " / ".join(map(str, f.tokens))),
        ("tokens per word (byte)", lambda f: f"{f.per_word:.2f} ({f.per_byte:.3f})"),
        ("licence", lambda f: f.licence.name),
    ]
    lines = [(name, _each(found.entries, shape)) for name, shape in shapes]
    for kind, name in MEMORY.items():
        lines.append((f"memory to tune, {name}", _each(found.entries, partial(_memory, kind))))
    for name, part in (("forward", lambda s: s.forward), ("training", lambda s: s.training)):
        lines.append((f"tokens a second, {name}", [_speed(entry.speed, part) for entry in found.entries]))
    return lines


def remarks(found: Shortlist) -> list[str]:
    """What does not fit into a cell: limits of licences, what was not scored, how memory and speed were found."""
    lines = list(found.notes)
    for entry in found.entries:
        limits = entry.facts.licence.limits if entry.facts else ""
        lines += [f"{entry.reference}: licence {entry.facts.licence.name}: {limits}"] if entry.facts and limits else []
        lines += [f"{entry.reference}: {note}" for note in entry.notes]
    lines.append(
        "memory is estimated: the base in its precision (NF4: 0.55 bytes a weight), 16 bytes for each trained weight, "
        "and the activations and logits of a micro-batch of the longest rows; there are "
        f"{found.memory_mb / 1024:.1f} GiB"
    )
    lines.append(
        f"tokens are those of {found.rows:,} training rows; tokens a second: median of three rounds over four of them "
        f"(lowest to highest), training with the gradients of a LoRA adapter; {found.machine}"
    )
    return lines


def _each(entries: Sequence[Entry], shape: Callable[[Facts], str]) -> list[str]:
    return [shape(entry.facts) if entry.facts else NOTHING for entry in entries]


def _memory(kind: str, facts: Facts) -> str:
    needed = facts.memory_mb.get(kind)
    if needed is None:
        return NOTHING
    return f"{needed:.0f} MiB" if needed < 1024 else f"{needed / 1024:.1f} GiB"


def _speed(speed: Speed | None, part: Callable[[Speed], tuple[float, float, float]]) -> str:
    if speed is None:
        return NOTHING
    median, low, high = part(speed)
    return f"{median:,.0f} ({low:,.0f} to {high:,.0f})"
