"""A search of made-up trials: what one worker would do next, and how each segment ends."""

from tunesmith.sweep import study as studies


def make(experiment, space, name="one"):
    return studies.create(experiment, space, name=name, prints={"data": "d"}, parent_run="p")


def loss(params, rung=3):
    return (abs(params["method.learning_rate"] - 0.01) * 100 + params["method.batch_size"] / 10) * (1 + 1 / rung)


def advance(sweep, count):
    """What one worker would do next in a search of `count` trials; returns (trial, rung), None at the end."""
    may_ask = sweep.begun() < count
    found = studies.ladder(sweep.space).promotable(sweep.standings, closing=not may_ask)
    if found is None and not may_ask:
        return None
    number, rung = (found.number, found.sent + 1) if found else (sweep.ask().number, 1)
    sweep.send(number, rung)
    return number, rung


def arrive(sweep, number, rung):
    """The segment ends with its loss."""
    params = sweep.trials()[number].params
    sweep.report(number, loss(params, rung), fraction=studies.rungs(sweep.space)[rung - 1])
    if rung == len(studies.rungs(sweep.space)):
        sweep.complete(number, loss(params))


def run(sweep, count, *, most=1000):
    """Segments one after the other, at most so many; returns which."""
    done = []
    while len(done) < most and (segment := advance(sweep, count)):
        arrive(sweep, *segment)
        done.append(segment)
    return done
