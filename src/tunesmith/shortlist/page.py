"""A shortlist as one HTML page without scripts, which opens without a network. Pure."""

import html
from collections.abc import Sequence

from tunesmith.pages import svg
from tunesmith.pages.markup import PAGE, STYLE, heads, note, number, row, section, table, word
from tunesmith.shortlist.entry import FEW_SHOT, ZERO_SHOT
from tunesmith.shortlist.table import LOWER, Line, Shortlist, fact_lines, metrics, remarks, score_lines

LABEL, WIDTH, LANE, EDGE = 300, 960, 24, 12

OWN_STYLE = """
svg{display:block;max-width:100%;margin-bottom:1rem} svg text{fill:var(--soft);font-size:12px}
.axis{stroke:var(--line)} line.zero-shot{stroke:#93a1b0;stroke-width:3} circle.zero-shot{fill:#93a1b0}
line.few-shot{stroke:#4a8fd9;stroke-width:3} circle.few-shot{fill:#4a8fd9}
.key{display:inline-block;width:.7rem;height:.7rem;border-radius:50%;margin:0 .35rem 0 .8rem}
h3{font-size:1rem;font-weight:500;margin:1rem 0 .3rem}
"""


def page(found: Shortlist) -> str:
    """The shortlist as an HTML page."""
    chosen = found.choice.reference or "none"
    key = "".join(
        f'<span class="key" style="background:{colour}"></span>{name}'
        for name, colour in ((ZERO_SHOT, "#93a1b0"), (FEW_SHOT, "#4a8fd9"))
    )
    sections = [
        section("Scores", f'<p class="note">means with 95% intervals{key}</p>', *pictures(found)),
        section("The same in numbers", _table(found, score_lines(found))),
        section("The models", _table(found, fact_lines(found))),
        section("What to know", *map(note, remarks(found))),
    ]
    return PAGE.format(
        title="Base models, compared",
        style=STYLE + OWN_STYLE,
        source=html.escape(found.source),
        summary=f"<dt>Recommended</dt><dd><b>{html.escape(chosen)}</b></dd>"
        f"<dt>Why</dt><dd>{html.escape(found.choice.reason)}</dd>",
        sections="\n".join(sections),
    )


def pictures(found: Shortlist) -> list[str]:
    """For each metric the candidates' intervals below each other."""
    pieces = []
    for metric in metrics(found):
        less = " (less is better)" if metric in LOWER else ""
        pieces += [f"<h3>{html.escape(metric)}{less}</h3>", intervals(found, metric)]
    return pieces


def intervals(found: Shortlist, metric: str) -> str:
    """One lane for each candidate and setting that has the metric."""
    lanes = [
        (entry.reference, setting, entry.scores[setting][metric])
        for entry in found.entries
        for setting in (ZERO_SHOT, FEW_SHOT)
        if metric in entry.scores.get(setting, {})
    ]
    top = max(got.high for *_, got in lanes)
    x = svg.Scale(0.0, max(top, 0.01), LABEL, WIDTH - EDGE)
    inside, seen = "", ""
    for n, (name, setting, got) in enumerate(lanes):
        y = LANE * n + LANE / 2
        inside += svg.text(name, 0, y + 4) if name != seen else ""
        inside += svg.line(setting, x(got.low), y, x(got.high), y) + svg.dot(setting, x(got.mean), y, radius=5)
        seen = name
    bottom = LANE * len(lanes)
    inside += svg.line("axis", x.start, bottom, x.end, bottom)
    for tick in svg.ticks(x.low, x.high, most=6):
        inside += svg.text(f"{tick:g}", x(tick), bottom + 16, anchor="middle")
    return svg.picture(inside, width=WIDTH, height=bottom + 22)


def _table(found: Shortlist, lines: Sequence[Line]) -> str:
    header = [*heads(""), *heads(*(entry.reference for entry in found.entries), numbers=True)]
    rows = [row(word(name), *map(number, cells)) for name, cells in lines]
    return f'<div class="scroll">{table(header, rows)}</div>'
