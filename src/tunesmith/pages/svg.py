"""Small pictures as SVG, for pages and artifacts without scripts. Pure."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]


def ticks(low: float, high: float, *, most: int) -> list[float]:
    """Round numbers from `low` to `high`, at most so many: multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * part for part in (1, 2, 5, 10) if power * part >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """Where values stand on an axis: `low` at pixel `start`, `high` at pixel `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        span = self.high - self.low or 1.0
        return round(self.start + (self.end - self.start) * (value - self.low) / span, 1)


def line(kind: str, *ends: float) -> str:
    """A line from x, y to x, y; its kind is a class of the style."""
    x1, y1, x2, y2 = ends
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def path(kind: str, points: Points) -> str:
    """A line through points."""
    return f'<path class="{kind}" d="M{" L".join(f"{x:g} {y:g}" for x, y in points)}"/>' if points else ""


def dot(kind: str, x: float, y: float, *, radius: float) -> str:
    """A dot."""
    return f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>'


def text(words: str, x: float, y: float, *, anchor: str = "start", kind: str = "") -> str:
    """Words, which may hold anything."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(words)}</text>'


def picture(inside: str, *, width: int, height: int, style: str = "") -> str:
    """A picture of so many pixels; a picture with a style of its own can be a file."""
    own = f"<style>{style}</style>" if style else ""
    view = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {view}>{own}{inside}</svg>'
