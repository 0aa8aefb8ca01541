"""The losses of one training as a picture, with the point from which it overfits. Pure."""

import itertools
import statistics

from tunesmith.pages.svg import Points, Scale, dot, line, path, picture, text, ticks

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 44, 44
POINTS = 60  # points of a learning curve; more cannot be told apart and would make a page heavy

STYLE = """
svg{background:#fff} text{font:13px system-ui,sans-serif;fill:#5b6675}
path{fill:none;stroke-width:2} .grid{stroke:#e3e7ec}
.train{stroke:#4a8fd9} .faint{stroke:#4a8fd9;stroke-width:1;opacity:.3}
.tune{stroke:#2da16b} circle.tune{fill:#2da16b} .over{stroke:#d1495b;stroke-dasharray:4 4;fill:none}
circle.over{fill:#d1495b;stroke:none} text.over{fill:#d1495b;stroke:none}
@media (prefers-color-scheme:dark){svg{background:#0d1117} text{fill:#9aa7b5} .grid{stroke:#2b333d}}
""".replace("\n", "")


def thinned(curve: Points, points: int = POINTS) -> list[tuple[float, float]]:
    """A curve of at most so many points, each the mean over its stretch of steps; non-finite losses left out."""
    finite = [(step, loss) for step, loss in curve if abs(loss) < float("inf")]
    if len(finite) <= points:
        return [(float(step), loss) for step, loss in finite]
    edges = [len(finite) * n // points for n in range(points + 1)]
    stretches = [finite[start:end] for start, end in itertools.pairwise(edges)]
    return [(statistics.fmean(s for s, _ in part), statistics.fmean(v for _, v in part)) for part in stretches]


def losses(train: Points, tune: Points, *, overfit_from: float | None = None) -> str:
    """Train and tune loss over optimiser steps as an SVG file; a mark where the training begins to overfit."""
    smooth, told = thinned(train), thinned(tune)
    if not smooth and not told:
        return picture(text("no finite loss", LEFT, TOP), width=WIDTH, height=HEIGHT, style=STYLE)
    values = [loss for _, loss in (*smooth, *told)]
    margin = 0.05 * (max(values) - min(values)) or 0.1
    last = max(step for step, _ in (*smooth, *told))
    x = Scale(0, last, LEFT, WIDTH - RIGHT)
    y = Scale(min(values) - margin, max(values) + margin, HEIGHT - BOTTOM, TOP)
    placed = [[(x(step), y(loss)) for step, loss in curve] for curve in (smooth, told)]
    raw = [(x(step), y(min(max(loss, y.low), y.high))) for step, loss in train if abs(loss) < float("inf")]
    pieces = [axes(x, y), path("faint", raw if len(raw) > POINTS else []), path("train", placed[0])]
    pieces += [path("tune", placed[1]), *(dot("tune", *at, radius=3.5) for at in placed[1])]
    pieces += [legend(), mark(tune, overfit_from, x, y)]
    return picture("".join(pieces), width=WIDTH, height=HEIGHT, style=STYLE)


def axes(x: Scale, y: Scale) -> str:
    """Grid, numbers and what they count."""
    found = [text("optimiser step", WIDTH - RIGHT, HEIGHT - 8, anchor="end"), text("loss", LEFT - 8, TOP - 14)]
    for step in (tick for tick in ticks(x.low, x.high, most=8) if tick == int(tick)):
        found.append(text(f"{step:g}", x(step), HEIGHT - BOTTOM + 18, anchor="middle"))
    for loss in ticks(y.low, y.high, most=6):
        found += [
            line("grid", LEFT, y(loss), WIDTH - RIGHT, y(loss)),
            text(f"{loss:g}", LEFT - 8, y(loss) + 4, anchor="end"),
        ]
    return "".join(found)


def legend() -> str:
    """Which line is which."""
    at = LEFT + 36
    train = line("train", at, TOP - 19, at + 22, TOP - 19) + text("train", at + 28, TOP - 14)
    tune = line("tune", at + 90, TOP - 19, at + 112, TOP - 19) + text("tune", at + 118, TOP - 14)
    return train + tune


def mark(tune: Points, overfit_from: float | None, x: Scale, y: Scale) -> str:
    """The lowest tune loss before it rose while train loss went on falling."""
    if overfit_from is None:
        return ""
    loss = next(loss for step, loss in tune if step == overfit_from)
    at = x(overfit_from)
    words = f"overfits from step {overfit_from:g}: tune loss {loss:.3f} there, {tune[-1][1]:.3f} at the end"
    above = text(words, WIDTH - RIGHT, TOP - 14, anchor="end", kind="over")
    return line("over", at, TOP, at, HEIGHT - BOTTOM) + dot("over", at, y(loss), radius=5) + above
