"""What the records of `benchmarks.peers` say, as text. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

WITHIN = 1.01
OURS = "tunesmith"
PARTS = {"tune": "on the search's tune rows", "every": "on all"}
TARGETS = {"defaults": 15.0, "strong": 6.0}
Curve = list[tuple[float, float]]


def curve(side: Mapping[str, Any]) -> Curve:
    """Best tune loss so far over seconds: a point wherever a trial that ran to its end improved it."""
    points: Curve = []
    for trial in sorted(side["trials"], key=lambda trial: trial["at"]):
        if trial["state"] == "complete" and (not points or trial["judged"] < points[-1][1]):
            points.append((trial["at"], trial["judged"]))
    return points


def reached(points: Curve, target: float) -> float | None:
    """When the best loss first was at most `target`; None if never."""
    return next((at for at, loss in points if loss <= target), None)


def against(peer: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any] | None:
    """How soon each side came within 1% of the peer's best; None as long as the peer has none."""
    theirs = curve(peer)
    if not theirs:
        return None
    best = theirs[-1][1]
    when, mine = reached(theirs, WITHIN * best), reached(curve(ours), WITHIN * best)
    return {
        "peer_best": best,
        "our_best": curve(ours)[-1][1] if curve(ours) else None,
        "peer_reached_s": when,
        "our_reached_s": mine,
        "peer_whole_s": peer["seconds"],
        "our_search_s": ours["seconds"],
        "our_whole_s": ours["whole_s"],
        "peer_cut": peer["cut"],
        "times_to_target": None if mine is None or when is None else when / mine,
        "times_whole": None if mine is None else peer["seconds"] / mine,
        "times_all": peer["seconds"] / ours["whole_s"],
    }


def comparisons(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every peer's side against ours with the same seed, by the peer's key."""
    found: dict[str, dict[str, Any]] = {}
    for key, side in sides.items():
        ours = sides.get(f"{OURS}-{side['seed']}")
        if side["name"] != OURS and ours is not None:
            values = against(side, ours)
            if values is not None:
                found[key] = values
    return found


def text(result: Mapping[str, Any]) -> str:
    """Everything known, as Markdown."""
    setting = result["setting"]
    lines = ["# A sweep against Optuna around TRL", "", str(result["machine"]), ""]
    lines += [f"{setting['experiment']}, {setting['space']}: {setting['trials']} trials, {setting['rows']} rows.", ""]
    lines += ["Sides ran one after the other, not in turns. Every loss is the mean per supervised token over the tune"]
    lines += ["rows of the search, of the saved adapter on the base as our sweep loads it, by one function, after the"]
    lines += [
        "clock had stopped. All sides begin with the space's coarse grid. Only trials that ran to their end count."
    ]
    lines += ["", *_sides(result["sides"]), "", *_ratios(result["sides"], result["comparisons"])]
    lines += ["", *_curves(result["sides"])]
    lines += _flags(result["flags"], result["chosen"]) + _retrained(result["retrained"])
    return "\n".join(lines) + "\n"


def _sides(sides: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| side, seed | trials begun | complete | pruned | failed | best loss | seconds | a trial | load before |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for key, side in sides.items():
        states = [trial["state"] for trial in side["trials"]]
        best = f"{curve(side)[-1][1]:.4f}" if curve(side) else "none"
        wanted = f"{len(states)} of {side['wanted']}{', cut off' if side['cut'] else ''}"
        counts = " | ".join(str(states.count(state)) for state in ("complete", "pruned", "failed"))
        pace = f"{side['seconds'] / len(states):.1f}" if states else ""
        least = "at least " if side["cut"] else ""
        lines.append(f"| {key} | {wanted} | {counts} | {best} | {least}{side['seconds']:.0f} | {pace} |")
        lines[-1] += f" {side['machine']['load_before']} |"
    for key, side in sides.items():
        if "whole_s" in side:
            calibrated = "measured within it" if side["calibrated"] else "known from before"
            lines += ["", f"{key}: {side['whole_s']:.0f} s with confirmation, holdout and package; calibration "]
            lines[-1] += f"{calibrated}."
    flags = [f"{key} `{side['flags']}`" for key, side in sides.items() if side.get("flags")]
    return lines + (["", f"Flags of the strong peer: {', '.join(flags)}."] if flags else [])


def _ratios(sides: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    lines = ["| peer and seed | its best | ours | within 1% of its best: peer | ours | times | its whole / ours |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    for key, values in found.items():
        so_far = " (so far)" if values["peer_cut"] else ""
        cells = [
            f"{values['peer_best']:.4f}{so_far}",
            "none" if values["our_best"] is None else f"{values['our_best']:.4f}",
            f"{values['peer_reached_s']:.0f} s",
            "not reached" if values["our_reached_s"] is None else f"{values['our_reached_s']:.0f} s",
            _times(values["times_to_target"]) + so_far,
            _times(values["times_whole"]) + so_far,
        ]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    for name, goal in TARGETS.items():
        mine = [values for key, values in found.items() if sides[key]["name"] == name]
        whole = [values for values in mine if not values["peer_cut"]]
        if mine:
            shown, so_far = whole or mine, "" if whole else " so far"
            lines += [
                "",
                f"{name}, goal {goal:g}:{so_far} {spread(shown, 'times_to_target')} to within 1% of its best; ",
            ]
            lines[-1] += f"its search over our time to there {spread(shown, 'times_whole')}, over our whole "
            lines[-1] += f"command {spread(shown, 'times_all')}."
    cut = [key for key in found if sides[key]["cut"]]
    if cut:
        lines += ["", f"Cut off: {', '.join(cut)}. Best, times and ratios are those of the trials it began;"]
        lines[-1] += " a whole search would take longer and might find a lower loss, which we would reach later."
    return lines


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def spread(found: Sequence[Mapping[str, Any]], name: str) -> str:
    """The (lower) median over seeds and the range; what was not reached counts as the least."""
    values = [one[name] or 0.0 for one in found]
    median, least, most = (
        _times(value) if value else "not reached" for value in (statistics.median_low(values), min(values), max(values))
    )
    return f"{median} ({least} to {most}, seeds: {len(values)})"


def _curves(sides: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["Best loss so far:", ""]
    for key, side in sides.items():
        points = ", ".join(f"{loss:.4f} at {at:.0f} s" for at, loss in curve(side))
        lines.append(f"- {key}: {points or 'no trial has ended'}")
    return lines


def _flags(flags: Mapping[str, Sequence[Mapping[str, float]]], chosen: str) -> list[str]:
    if not flags:
        return []
    lines = ["", f"Ways to train with TRL, one epoch of a few rows each; `{chosen}` is the fastest.", ""]
    lines += ["| flags | seconds of a training, median (range) | tune loss | seeds |", "|---|---:|---:|---:|"]
    for name, found in flags.items():
        seconds, losses = [one["seconds"] for one in found], [one["loss"] for one in found]
        cells = f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
        cells += f" | {statistics.median(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})"
        lines.append(f"| {name} | {cells} | {len(found)} |")
    return lines


def _retrained(retrained: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    if not retrained:
        return []
    lines = ["", "Each side's winner trained again alone through TRL (the strong peer's flags, no pruner):", ""]
    lines += ["| winner of | seed | loss on the search's tune rows | on all tune rows |", "|---|---:|---:|---:|"]
    for key, found in retrained.items():
        lines += [f"| {key} | {one['seed']} | {one['tune']:.4f} | {one['every']:.4f} |" for one in found]
    known = {key.rpartition("-")[0] for key in retrained}
    for name in (name for name in TARGETS if name in known):
        parts = [f"{where} {_change(retrained, name, part)}" for part, where in PARTS.items()]
        lines += ["", f"Our winner's loss over that of {name}, same seeds: {'; '.join(parts)}."]
    return lines


def _change(retrained: Mapping[str, Sequence[Mapping[str, float]]], name: str, part: str) -> str:
    values = []
    for key, found in retrained.items():
        theirs = {one["seed"]: one[part] for one in retrained.get(key.replace(OURS, name), ())}
        if key.startswith(OURS):
            values += [one[part] / theirs[one["seed"]] for one in found if one["seed"] in theirs]
    return f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})" if values else "not known"


def fastest(flags: Mapping[str, Sequence[Mapping[str, float]]], *, usual: str) -> str:
    """The flags with the least median time among those whose loss is within 1% of the usual ones'."""
    if usual not in flags:
        return usual
    limit = WITHIN * statistics.median(one["loss"] for one in flags[usual])
    sound = [name for name, found in flags.items() if statistics.median(one["loss"] for one in found) <= limit]
    return min(sound, key=lambda name: statistics.median(one["seconds"] for one in flags[name]))
