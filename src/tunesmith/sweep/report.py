"""The report of a sweep: one HTML page that opens without a network. Pure."""

import html
import statistics

from tunesmith.pages.curves import POINTS
from tunesmith.pages.markup import (
    NOTHING,
    PAGE,
    STYLE,
    Drawing,
    amount,
    duration,
    heads,
    mark,
    note,
    number,
    row,
    run,
    section,
    setting,
    table,
    word,
)
from tunesmith.progress import describe, plural
from tunesmith.sweep import figures
from tunesmith.sweep.compromises import compromises
from tunesmith.sweep.importance import LEAST, best_part, first_loss, importances, labels, with_all_trials
from tunesmith.sweep.results import SweepRecord, TrialRecord, cost, energy, overfitting_point
from tunesmith.train.curves import TOLERANCE

SETTLED = 50  # trials from which importances are steady, as Optuna's documentation of PED-ANOVA advises


def page(record: SweepRecord) -> str:
    """The report as an HTML page; scripts and data are inside it."""
    draw = Drawing()
    sections = [
        leaderboard(record),
        confirmations(record),
        learning(record, draw),
        halving(record, draw),
        parameters(record, draw),
        compromises(record, draw),
        search(record, draw),
        costs(record),
    ]
    return PAGE.format(
        title=html.escape(f"Search of {record.experiment}"),
        style=STYLE,
        source=f"{html.escape(counts(record))} · run {run(record.run_id)}",
        summary="".join(f"<dt>{html.escape(term)}</dt><dd>{text}</dd>" for term, text in summary(record).items()),
        sections="\n".join(filter(None, sections)),
    )


def counts(record: SweepRecord) -> str:
    """How many trials there were and how they ended."""
    ends = [f"{len(figures.members(record, name))} {name}" for name in figures.groups(record)]
    return f"{plural(len(record.trials), 'trial')}: {', '.join(ends)}" if ends else "no trials"


def summary(record: SweepRecord) -> dict[str, str]:
    """What a reader should know first: the best trial, how it compares with the base, what the search cost."""
    best = record.best
    term = "Best trial" if record.winner is None else "Winner"
    if best is None:
        return {term: "none: no trial has a tune loss", "Cost": cost_line(record)}
    again = [found.primary for found in record.confirmations if found.trial == best.number]
    named = f"<b>trial {best.number}</b>: {html.escape(describe(best.params))}"
    if again:
        named += f"; trained again from {plural(len(again), 'fresh seed')}: {html.escape(record.primary_metric)}"
        named += f" <b>{amount(statistics.fmean(again))}</b> on average"
    loss = f"tune loss at {max(best.judged, default=0)}% of its training"
    against = [
        compared(record.primary_metric, best.primary, record.base_primary),
        compared(loss, best.last_loss, record.base_loss),
    ]
    return {term: named, "Against the base": "; ".join(against), "Cost": cost_line(record)}


def compared(name: str, value: float | None, base: float | None) -> str:
    """A value beside the base's, and the change."""
    change = "" if value is None or base is None else f" ({amount(value - base, sign=True)})"
    return f"{html.escape(name)} <b>{amount(value)}</b>, base {amount(base)}{change}"


def cost_line(record: SweepRecord) -> str:
    """Time, tokens, what halving saved, and energy."""
    spent, kwh = cost(record), energy(record)
    where = f"on {plural(record.workers, 'worker')} ({html.escape(record.placement)})"
    parts = [f"<b>{duration(record.seconds)}</b> {where}", f"<b>{spent.trained:,}</b> tokens trained"]
    parts += [f"<b>{spent.share:.0%}</b> saved against training all trials in full"]
    return "; ".join([*parts, f"about {kwh:.2g} kWh"] if kwh is not None else parts)


def leaderboard(record: SweepRecord) -> str:
    """Every trial, best first, below the base; those that do not count come last."""
    names = labels(dict.fromkeys(name for trial in record.trials for name in trial.params))
    shown = [f"loss {percent}%" for percent in record.percents]
    header = [*heads("trial"), *heads(*names.values(), *shown, "primary", "tokens", "time", numbers=True)]
    header += heads("end", "from", "run")
    blank = number("") * (len(names) + len(shown) - 1)
    base = [word("base"), blank, number(amount(record.base_loss)), number(amount(record.base_primary))]
    rows = [row(*base, "<td></td>" * 5, kind="base")]
    ranking = record.ranking()
    placed = {trial.number for trial in ranking}
    others = [trial for trial in record.trials if trial.number not in placed]
    for trial in [*ranking, *sorted(others, key=lambda trial: (trial.state == "failed", trial.number))]:
        values = [setting(trial.params[name]) if name in trial.params else NOTHING for name in names]
        losses = [amount(trial.judged.get(percent)) for percent in record.percents]
        spent = [amount(trial.primary), f"{trial.tokens:,}", duration(trial.seconds)]
        cells = [word(trial.number), *map(number, [*values, *losses, *spent]), end(record, trial)]
        best = record.best is not None and trial.number == record.best.number
        rows.append(row(*cells, word(trial.source), f"<td>{run(trial.run_id)}</td>", kind="best" if best else ""))
    text = (
        "The further a trial got, and then the lower its tune loss, the higher it stands. Losses are on the tune rows "
        f"after that share of the trial's own training; the base's is untrained. Primary is {record.primary_metric}."
    )
    return section("Leaderboard", note(text), f'<div class="scroll">{table(header, rows)}</div>')


def end(record: SweepRecord, trial: TrialRecord) -> str:
    """The cell that says how a trial ended, with the reason where that is not another trial's being better."""
    name = figures.group(trial)
    why = trial.reason if trial.state in {"infeasible", "failed"} else trial.raced
    told = f'<br><span class="why">{html.escape(why)}</span>' if why else ""
    return f'<td><span class="end">{mark(figures.groups(record)[name])}{html.escape(name)}</span>{told}</td>'


def confirmations(record: SweepRecord) -> str:
    """The trials that were trained again, each seed and the mean; nothing if none was."""
    if not record.confirmations:
        return ""
    header = [*heads("trial", "seed"), *heads("tune loss", "primary", numbers=True), *heads("run")]
    rows = []
    for trial in dict.fromkeys(found.trial for found in record.confirmations):
        mine = [found for found in record.confirmations if found.trial == trial]
        for found in mine:
            cells = [word(trial), word(found.seed), number(amount(found.loss)), number(amount(found.primary))]
            rows.append(row(*cells, f"<td>{run(found.run_id)}</td>"))
        means = [statistics.fmean(found.loss for found in mine), statistics.fmean(found.primary for found in mine)]
        cells = [word(trial), word("mean"), *(number(amount(mean)) for mean in means), "<td></td>"]
        rows.append(row(*cells, kind="best" if trial == record.winner else "base"))
    text = (
        "The best trials, trained again from fresh seeds, because the best of many scores is partly luck. Compare the "
        "scores here with each other: those of the search may be on fewer rows."
    )
    return section("Confirmation", note(text), table(header, rows, wide=False))


def learning(record: SweepRecord, draw: Drawing) -> str:
    """Tune and train loss of every trial, coloured by how far it got."""
    judged = any(len(trial.judged) > 1 for trial in record.trials)
    curves = any(trial.curve for trial in record.trials)
    drawn = [draw(figures.tune_curves(record))] if judged else []
    drawn += [draw(figures.train_curves(record))] if curves else []
    if not drawn:
        return ""
    text = "Each line is a trial over its own training, coloured by how far it got. Click a name to hide its lines."
    if judged:
        text += " The thick line is the best trial."
        text += overfitting(record)
    if curves:
        text += f" Train loss is averaged to at most {POINTS} points a trial."
    layout = "pair" if len(drawn) == 2 else "one"
    return section("Learning curves", note(text), f'<div class="{layout}">{"".join(drawn)}</div>')


def overfitting(record: SweepRecord) -> str:
    """Which trials overfit, and how that is told."""
    found = [str(trial.number) for trial in record.trials if overfitting_point(trial)]
    if not found:
        return " No trial overfits."
    return (
        f" {'Trial' if len(found) == 1 else 'Trials'} {', '.join(found)} overfit: a cross marks the lowest tune loss, "
        f"after which it rose by more than {TOLERANCE:.0%} while train loss went on falling."
    )


def halving(record: SweepRecord, draw: Drawing) -> str:
    """Who was halved when, and the tokens that were spent and saved."""
    if not record.trials:
        return ""
    header = [*heads("rung"), *heads("judged", "halved", "went on", "best loss", "median loss", numbers=True)]
    header += heads("tokens of those halved", "tokens they had left", numbers=True)
    rows = []
    for percent in record.percents:
        losses = [trial.judged[percent] for trial in record.trials if percent in trial.judged]
        ended = [t for t in record.trials if t.state == "halved" and max(t.judged, default=0) == percent]
        best, median = (min(losses), statistics.median(losses)) if losses else (None, None)
        spent = sum(trial.tokens for trial in ended)
        left = sum(max(0, trial.full_tokens - trial.tokens) for trial in ended)
        onward = sum(max(trial.judged, default=0) > percent for trial in record.trials if percent in trial.judged)
        cells = [str(len(losses)), str(len(ended)), str(onward) if percent < 100 else NOTHING]
        cells += [amount(best), amount(median), f"{spent:,}", f"{left:,}"]
        rows.append(row(word(f"{percent}%"), *map(number, cells)))
    text = "A bar is a trial: its length the tokens trained, white marks the rungs it passed, the pale rest saved."
    if len(record.rungs) == 1:
        text = f"This sweep did not halve: every trial was to train in full. {text}"
        return section("Halving", note(text), draw(figures.ladder(record)))
    text = f"At each rung the best went on and the others were stopped there. {text}"
    return section("Halving", note(text), table(header, rows, wide=False), draw(figures.ladder(record)))


def parameters(record: SweepRecord, draw: Drawing) -> str:
    """Importances, parallel coordinates and slices, over all trials that were judged at the first rung."""
    study = with_all_trials(record)
    names = figures.searched(study)
    count = sum(first_loss(record, trial) is not None for trial in record.trials)
    if count < 2 or not names:
        return ""
    loss = figures.loss_at_first_rung(record)
    text = (
        f"Told from the {loss}, which {count} of {len(record.trials)} trials have, so that trials halved later count "
        "like those trained in full. A loss far above the others is drawn at the edge."
    )
    shares = importances(record)
    names.sort(key=lambda name: -shares.get(name, 0.0))
    pieces = [importance(shares, count, draw)]
    pieces += [note("Parallel coordinates: each line a trial, from green, the lowest loss, over blue to grey.")]
    pieces += [draw(figures.parallel(study, loss=loss)), note("Slices: each dot a trial, the later the bluer.")]
    slices = [draw(figure) for figure in figures.slices(study, loss=loss, names=names)]
    pieces += [f'<div class="many">{"".join(slices)}</div>']
    return section("Parameters", note(text), *pieces)


def importance(shares: dict[str, float], count: int, draw: Drawing) -> str:
    """The importances as bars, or why there are none."""
    if not shares:
        return note(f"No importances: they need at least {LEAST} trials whose losses differ.")
    text = f"Importances (PED-ANOVA): how much each decides whether a trial is among the best {best_part(count):.0%}."
    if count < SETTLED:
        text += f" A rough guide: they are steady from about {SETTLED} trials."
    return note(text) + draw(figures.importance_bars(shares))


def search(record: SweepRecord, draw: Drawing) -> str:
    """How the proposals went over the sweep."""
    if not any(first_loss(record, trial) is not None for trial in record.trials):
        return ""
    text = "The trials in the order of their proposal, by what proposed them; the line is the best so far."
    return section("History", note(text), draw(figures.history(record)))


def costs(record: SweepRecord) -> str:
    """Time, tokens and energy, with how each number was made."""
    spent, kwh = cost(record), energy(record)
    pace = "of training: what halved trials had left, each at its own pace"
    lines = {
        "wall time": f"{duration(record.seconds)} on {plural(record.workers, 'worker')}, {record.placement}",
        "training time": f"{duration(spent.seconds)}, summed over trials",
        "tokens trained": f"{spent.trained:,}",
        "all trials in full": f"{spent.full:,} tokens",
        "saved": f"{spent.saved:,} tokens ({spent.share:.0%})",
        "time saved": f"about {duration(spent.seconds_saved)} {pace}",
    }
    if spent.lost:
        lines["lost to faults"] = f"{spent.lost:,} tokens of failed trials; what was saved is less by them"
    lines["energy"] = "no estimate: no power draw was given"
    if kwh is not None:
        made = f"{record.watts:g} W × {plural(record.devices, 'device')} × {record.seconds / 3600:.2g} h of wall time"
        lines["energy"] = f"about {kwh:.2g} kWh: {made}; an estimate, the power is assumed and not measured"
    text = (
        "Tokens and training time are those of the trials; confirmations, scoring, loading and pauses are in the wall "
        "time alone, which adds up all processes that ran this sweep (of one that was killed, all but its last "
        "seconds). A device is a CUDA device, or the CPU however many workers share it. An "
        "infeasible trial counts in full training with what it trained, as it would have ended there all the same."
    )
    rows = [row(word(name), word(value)) for name, value in lines.items()]
    return section("Time and energy", note(text), table([], rows, wide=False))
