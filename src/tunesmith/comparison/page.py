"""A comparison as one HTML page without scripts, which opens without a network. Pure."""

import html
import math
from collections.abc import Sequence

from tunesmith.comparison.analysis import Comparison, Result
from tunesmith.comparison.changes import Change
from tunesmith.pages import svg
from tunesmith.pages.markup import NOTHING, PAGE, STYLE, amount, heads, note, number, row, section, table

WORST, BEST = 40, 20  # items shown of each task; the page stays readable, and --json lists all
WIDTH, HEIGHT, EDGE = 200, 26, 8  # of the picture of an interval

OWN_STYLE = """
.verdict{font-weight:600;white-space:nowrap} .way{color:var(--soft);font-size:.92em} th.sides{text-align:center}
th.n{white-space:normal}
td.better{color:#2da16b} td.worse{color:#d1495b} td.inconclusive{color:var(--soft)}
svg{display:block} svg text{fill:var(--soft);font-size:11px} .axis{stroke:var(--soft)}
.zero{stroke:var(--soft);stroke-dasharray:2 3} line.better,line.worse,line.inconclusive{stroke-width:3}
line.better{stroke:#2da16b} line.worse{stroke:#d1495b} line.inconclusive{stroke:#808a98}
circle.better{fill:#2da16b} circle.worse{fill:#d1495b} circle.inconclusive{fill:#808a98}
td.reply{white-space:pre-wrap;overflow-wrap:anywhere;width:32%} td.item{overflow-wrap:anywhere;min-width:9rem}
td.lost{box-shadow:inset 3px 0 #d1495b;padding-left:.6rem} td.won{box-shadow:inset 3px 0 #2da16b;padding-left:.6rem}
"""


def page(compared: Comparison) -> str:
    """The comparison as an HTML page."""
    rivals = range(1, len(compared.names))
    title = f"{' and '.join(compared.names[1:])} against {compared.names[0]}"
    sections = [
        *(metrics_section(compared, n) for n in rivals),
        section("What the columns say", *map(note, legend(compared))),
        *(changes_section(compared, n) for n in rivals),
    ]
    return PAGE.format(
        title=html.escape(title),
        style=STYLE + OWN_STYLE,
        source=html.escape(f"{compared.items:,} items in {compared.groups:,} groups of {compared.split}, paired"),
        summary="".join(f"<dt>{html.escape(term)}</dt><dd>{text}</dd>" for term, text in summary(compared)),
        sections="\n".join(sections),
    )


def summary(compared: Comparison) -> list[tuple[str, str]]:
    """What a reader should know first."""
    found = [(compared.names[n], html.escape(compared.sentence(n))) for n in range(1, len(compared.names))]
    return [*found, *(("Note", html.escape(text)) for text in compared.notes)]


def metrics_section(compared: Comparison, rival: int) -> str:
    """The table of metrics with their intervals as a forest plot."""
    results, first, name = compared.of(rival), compared.names[0], compared.names[rival]
    reach = [abs(bound) for r in results if bounded(r) for bound in r.gain_interval]
    shared = max([*reach, 0.01])
    header = [*heads("metric"), *heads(first, name, "difference", "95% interval", numbers=True)]
    header += ['<th class="sides">← worse · better →</th>', *heads("p", "p, Holm", "detectable", numbers=True)]
    header += heads("verdict")
    rows = [metric_row(result, shared) for result in results]
    if reach:
        rows.append(row(*["<td></td>"] * 5, f"<td>{axis(shared)}</td>", *["<td></td>"] * 4))
    return section(f"{name} against {first}", f'<div class="scroll">{table(header, rows)}</div>')


def bounded(result: Result) -> bool:
    """Whether both means lie between 0 and 1, so that the metric shares a scale with others alike."""
    values = (result.effect.first, result.effect.second, *map(abs, result.gain_interval))
    return all(0 <= value <= 1 for value in values)


def metric_row(result: Result, shared: float) -> str:
    """One metric's numbers, picture and verdict."""
    found = result.effect
    less = " · less is better" if result.lower_is_better else ""
    reach = shared if bounded(result) else max(abs(bound) for bound in result.gain_interval)
    cells = [amount(found.first), amount(found.second), amount(found.difference, sign=True), interval(result)]
    tail = [p_text(found.p_value), p_text(result.adjusted), f"±{amount(result.detectable)}"]
    return row(
        f'<td>{html.escape(result.metric)}<br><span class="way">{html.escape(found.test)}{less}</span></td>',
        *map(number, cells),
        f"<td>{forest(result, reach)}</td>",
        *map(number, tail),
        f'<td class="verdict {result.outcome}">{html.escape(verdict(result))}</td>',
    )


def verdict(result: Result) -> str:
    """The outcome, and what it would be alone where Holm's procedure decides."""
    if result.outcome is result.alone:
        return str(result.outcome)
    return f"{result.outcome} (alone: {result.alone})"


def interval(result: Result) -> str:
    """The bounds of a difference."""
    low, high = result.effect.low, result.effect.high
    return f"{amount(low, sign=True)} to {amount(high, sign=True)}" if math.isfinite(low) else NOTHING


def p_text(p_value: float) -> str:
    """A p-value to three decimals."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def forest(result: Result, reach: float) -> str:
    """An interval as a line with a dot at the difference, on a scale from −reach to reach; better is to the right."""
    if not math.isfinite(reach) or not reach:
        return ""
    x, middle, kind = scale(reach), HEIGHT / 2, str(result.outcome)
    (low, high), zero = result.gain_interval, x(0.0)
    inside = svg.line("zero", zero, 0, zero, HEIGHT) + svg.line(kind, x(low), middle, x(high), middle)
    return svg.picture(inside + svg.dot(kind, x(result.gain), middle, radius=5), width=WIDTH, height=HEIGHT)


def axis(reach: float) -> str:
    """The scale under the pictures that share it."""
    x = scale(reach)
    inside = svg.line("axis", x.start, 0, x.end, 0)
    for tick in svg.ticks(-reach, reach, most=5):
        inside += svg.line("axis", x(tick), 0, x(tick), 5)
        inside += svg.text(f"{tick:+g}" if tick else "0", x(tick), 19, anchor="middle")
    return svg.picture(inside, width=WIDTH, height=HEIGHT)


def scale(reach: float) -> svg.Scale:
    """The scale from −reach to reach."""
    return svg.Scale(-reach, reach, EDGE, WIDTH - EDGE)


def legend(compared: Comparison) -> list[str]:
    """What the table's columns mean, and how it was tested."""
    tests = len(compared.results)
    lines = [
        "Difference: the model's mean over items less the first model's, on the same items. The interval and p are for "
        "that metric alone, two-sided; the verdict is by p after Holm's procedure over "
        f"{'the one test' if tests == 1 else f'all {tests} tests'} on this page, at 5%. Detectable: the true "
        "difference that a comparison of so many items would declare four times of five.",
        "Exact McNemar: a sign test over the items that one model has right and the other wrong. By group: rows of a "
        "group err together, so each group's net gain is one observation. Paired bootstrap: 10,000 draws of items, or "
        "of whole groups, from a fixed seed.",
    ]
    if not all(bounded(result) for result in compared.results):
        lines.append("Pictures share a scale where values lie between 0 and 1; the others have a scale of their own.")
    return lines


def changes_section(compared: Comparison, rival: int) -> str:
    """The items that changed, side by side, task by task."""
    changes, names = compared.changes[rival - 1], (compared.names[0], compared.names[rival])
    tasks = dict.fromkeys(change.task for change in changes)
    pieces = [task_table([c for c in changes if c.task == task], task, names) for task in tasks]
    title = f"Items that changed: {names[1]} against {names[0]}"
    return section(title, *(pieces or [note("No item changed.")]))


def task_table(changes: Sequence[Change], task: str, names: tuple[str, str]) -> str:
    """One task's items, those that lost most first."""
    shown = [*changes[:WORST], *changes[max(WORST, len(changes) - BEST) :]]
    lost, won = sum(c.gain < 0 for c in changes), sum(c.gain > 0 for c in changes)
    text = f"{task}: {len(changes)} changed, {lost} for the worse, {won} for the better; the worst first."
    if len(shown) < len(changes):
        text += f" Shown are the {WORST} worst and the {BEST} best; --json lists all."
    if not any(reply for change in shown for reply in change.replies):
        text += " Replies were not kept with these scores; tunesmith evaluate keeps them."
    header = [*heads("item", "right answer", *names), *heads(*changes[0].values, numbers=True)]
    rows = [row(*change_cells(change)) for change in shown]
    return note(text) + f'<div class="scroll">{table(header, rows)}</div>'


def change_cells(change: Change) -> list[str]:
    """An item's id, right answer, replies and values."""
    mark = "lost" if change.gain < 0 else "won"
    replies = [f'<td class="reply">{html.escape(text)}</td>' for text in (change.target, *change.replies)]
    values = [number(f"{amount(first)} → {amount(second)}") for first, second in change.values.values()]
    return [f'<td class="item {mark}">{html.escape(change.item)}</td>', *replies, *values]
