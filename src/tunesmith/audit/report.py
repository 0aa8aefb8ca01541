"""The audit's report as one HTML page that opens without a network, and as JSON."""

import html
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import plotly.graph_objects as go

from tunesmith.records import AuditReport, Finding

COLOURS = {"pass": "#1a7f37", "fail": "#c62828", "warn": "#b26a00", "note": "#48617d"}
WORDS = {"pass": "pass", "fail": "fail", "warn": "warning", "note": "note"}
BARS = "Training rows by"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body{{font:16px/1.5 system-ui,sans-serif;color:#1c2330;margin:2rem auto;max-width:1100px;padding:0 1rem}}
h1{{font-size:1.6rem;margin-bottom:.2rem}} h2{{font-size:1.15rem;margin:2rem 0 .5rem}}
.sub{{color:#5b6675;margin-top:0}} .verdict{{font-weight:600;color:{colour}}}
table{{border-collapse:collapse;width:100%}} th{{text-align:left;color:#5b6675;font-weight:500}}
td,th{{padding:.35rem .7rem .35rem 0;border-bottom:1px solid #e3e7ec;vertical-align:top}}
td.n{{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}} td.q{{color:#5b6675}}
.mark{{color:#fff;border-radius:.3rem;padding:.05rem .5rem;font-size:.85rem}}
code{{font-size:.8rem;color:#48617d}} .plots{{display:grid;grid-template-columns:1fr 1fr;gap:1rem}}
@media (max-width:800px){{.plots{{grid-template-columns:1fr}}}}
</style></head><body>
<h1>{title}</h1><p class="sub">{source}</p><p class="verdict">{verdict}</p>
<table><tr><th>quality</th><th>check</th><th>verdict</th><th>count</th><th>detail</th></tr>{rows}</table>
<h2>Numbers behind it</h2><div class="plots">{plots}</div></body></html>
"""


def page(report: AuditReport, *, title: str, source: str) -> str:
    """The report as an HTML page; scripts and data are inside it."""
    counts = {word: sum(f.verdict == word for f in report.findings) for word in COLOURS}
    verdict = "The data passes its audit" if report.passed else "The data fails its audit"
    verdict += f": {counts['fail']} failed, {counts['warn']} warnings, {counts['pass']} passed."
    rows = [row for _, group in groupby(report.findings, lambda f: f.quality) for row in table_rows(list(group))]
    figures = [catches(report), *(histogram(name, values) for name, values in report.series.items() if values)]
    plots = [
        f"<div>{figure.to_html(full_html=False, include_plotlyjs=n == 0, config={'displayModeBar': False})}</div>"
        for n, figure in enumerate(figures)
    ]
    return PAGE.format(
        title=html.escape(title),
        source=html.escape(source),
        verdict=html.escape(verdict),
        colour=COLOURS["pass" if report.passed else "fail"],
        rows="".join(rows),
        plots="".join(plots),
    )


def table_rows(findings: list[Finding]) -> list[str]:
    """Findings of one quality as rows of the table; only the first names the quality."""
    rows = []
    for n, finding in enumerate(findings):
        mark = f'<span class="mark" style="background:{COLOURS[finding.verdict]}">{WORDS[finding.verdict]}</span>'
        examples = "".join(f" <code>{html.escape(example)}</code>" for example in finding.examples)
        quality = html.escape(finding.quality) if n == 0 else ""
        rows.append(
            f'<tr><td class="q">{quality}</td><td>{html.escape(finding.check)}</td><td>{mark}</td>'
            f'<td class="n">{finding.count:,}</td><td>{html.escape(finding.detail)}{examples}</td></tr>'
        )
    return rows


def catches(report: AuditReport) -> go.Figure:
    """How many rows each check caught, coloured by verdict."""
    caught = [f for f in report.findings if f.examples]
    figure = go.Figure(
        go.Bar(
            x=[f.count for f in caught],
            y=[f.check for f in caught],
            orientation="h",
            marker_color=[COLOURS[f.verdict] for f in caught],
        )
    )
    figure.update_yaxes(autorange="reversed")
    return styled(figure, "Rows that each check caught" if caught else "No check caught a row")


def histogram(name: str, values: tuple[float, ...]) -> go.Figure:
    """How values are distributed; counts by category are shown as bars in their order."""
    if name.startswith(BARS):
        return styled(go.Figure(go.Bar(y=list(values), marker_color="#48617d")), name)
    return styled(go.Figure(go.Histogram(x=list(values), nbinsx=50, marker_color="#48617d")), name)


def styled(figure: go.Figure, title: str) -> go.Figure:
    """A figure in the page's style."""
    figure.update_layout(
        title={"text": title, "font": {"size": 15}},
        template="plotly_white",
        height=320,
        margin={"l": 10, "r": 10, "t": 45, "b": 10},
    )
    figure.update_yaxes(automargin=True)
    return figure


def value(report: AuditReport) -> Mapping[str, Any]:
    """The report for machines; the numbers behind the plots are left out."""
    findings = [
        {
            "check": f.check,
            "quality": f.quality,
            "severity": str(f.severity),
            "verdict": f.verdict,
            "count": f.count,
            "detail": f.detail,
            "examples": list(f.examples),
        }
        for f in report.findings
    ]
    return {"passed": report.passed, "data_sha256": report.data_digest, "findings": findings, **report.metrics}
