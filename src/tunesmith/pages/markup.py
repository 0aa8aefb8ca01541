"""The pieces of HTML that reports are put together from. Pure."""

import html
import math
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

NOTHING = "–"
DIGITS = 8  # of a run's id; the whole id shows when pointed at

STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5b6675;--line:#e3e7ec;--page:#fff;--panel:#f4f6f9}
@media (prefers-color-scheme:dark){
:root{--ink:#e6edf3;--soft:#9aa7b5;--line:#2b333d;--page:#0d1117;--panel:#161b22}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);
margin:2rem auto;max-width:1160px;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin:2.5rem 0 .3rem}
.sub,.note,.why{color:var(--soft)} .sub,.note{margin:.2rem 0 .8rem} .why{font-size:.92em}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.4rem 1.2rem;margin:1.2rem 0;
padding:1rem 1.2rem;background:var(--panel);border-radius:.5rem}
dt{color:var(--soft)} dd{margin:0}
code{font-size:.88em;color:var(--soft)}
table{border-collapse:collapse;font-size:.88rem} .wide{width:100%}
td,th{padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--soft);font-weight:500;position:sticky;top:0;background:var(--page)}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.base td{background:var(--panel)} tr.best td{font-weight:600}
.end{white-space:nowrap} .dot{display:inline-block;width:.6rem;height:.6rem;border-radius:50%;margin-right:.4rem}
.scroll{overflow:auto;max-height:42rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}
.many{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:.5rem}
.pair>div,.many>div{min-width:0} @media (max-width:800px){.pair{grid-template-columns:1fr}}
@media print{.scroll{max-height:none}}
.js-plotly-plot svg text:not(.hoverlayer *){fill:var(--ink)!important}
.gridlayer path,.zerolinelayer path{stroke:var(--line)!important}
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none';script-src 'unsafe-inline';style-src 'unsafe-inline';img-src data: blob:">
<title>{title}</title><style>{style}</style></head><body>
<h1>{title}</h1><p class="sub">{source}</p><dl>{summary}</dl>
{sections}</body></html>
"""


class Drawing:
    """Turns figures into HTML; the first brings the script that draws them all."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, figure: go.Figure) -> str:
        """The figure as a block."""
        self.count += 1
        drawn = figure.to_html(
            full_html=False,
            include_plotlyjs=self.count == 1,
            config={"displayModeBar": False, "responsive": True},
            div_id=f"figure-{self.count}",  # a random name would make no two pages of a sweep the same
        )
        return f"<div>{drawn}</div>"


def section(title: str, *pieces: str) -> str:
    """A heading and what stands below it; empty pieces are left out."""
    return "\n".join([f"<h2>{html.escape(title)}</h2>", *filter(None, pieces)])


def note(text: str) -> str:
    """A caption."""
    return f'<p class="note">{html.escape(text)}</p>'


def table(header: Iterable[str], rows: Iterable[str], *, wide: bool = True) -> str:
    """A table of header cells and rows, which are HTML already."""
    return f"<table{' class=wide' if wide else ''}><tr>{''.join(header)}</tr>{''.join(rows)}</table>"


def heads(*names: str, numbers: bool = False) -> list[str]:
    """Header cells; those above numbers stand at the right."""
    return [f"<th{NUMBER if numbers else ''}>{html.escape(name)}</th>" for name in names]


def row(*cells: str, kind: str = "") -> str:
    """A row of cells; its kind is a class of the style."""
    return f'<tr class="{kind}">{"".join(cells)}</tr>' if kind else f"<tr>{''.join(cells)}</tr>"


def word(value: object) -> str:
    """A cell of text."""
    return f"<td>{html.escape(str(value))}</td>"


def number(text: str) -> str:
    """A cell of a number, or of several values set as numbers."""
    return f"<td{NUMBER}>{html.escape(text)}</td>"


def run(run_id: str) -> str:
    """A run's id, cut short."""
    return f'<code title="{html.escape(run_id)}">{html.escape(run_id[:DIGITS])}</code>'


def mark(colour: str) -> str:
    """A dot in a figure's colour."""
    return f'<span class="dot" style="background:{colour}"></span>'


def amount(value: float | None, *, sign: bool = False) -> str:
    """A loss or score to three decimals, a large one to three figures; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    shape = ".3f" if abs(value) < 1000 else ".3g"
    return f"{value:{'+' if sign else ''}{shape}}"


def setting(value: Any) -> str:
    """A parameter's value: numbers to three figures."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


NUMBER = ' class="n"'
