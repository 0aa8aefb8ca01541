"""Kill a promoting process at a random instant, then ask whether alias and ledger agree."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.conftest import ROOT, environment
from tunesmith import promotion
from tunesmith.config import Policy
from tunesmith.registry import aliases, ledger
from tunesmith.registry.reigns import follow
from tunesmith.tracking.runs import process_start

POLICY_TEXT = """
model: bot
gates:
  - {metric: holdout/intent/exact_match, rule: at_least, value: 0.0}
"""


@dataclass(frozen=True)
class Kill:
    """When a process was killed, how many entries it had written, and whether a move was half done then."""

    seconds: float
    entries: int
    open: bool


def kill_often(project: pathlib.Path, policy: Policy, *, count: int, seed: int, longest: float) -> list[Kill]:
    """Kill a promoting process `count` times, each within `longest` seconds of its second promotion's start."""
    rng = random.Random(seed)
    env = environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}", MLFLOW_TRACKING_URI=f"sqlite:///{project / 'mlflow.db'}")
    command = [sys.executable, "-m", "tests.promotion_loop", str(policy.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=project, env=env, **pipes) as server:
        killed = [kill_once(server, policy, rng.uniform(0, longest)) for _ in range(count)]
        server.stdin.close()
        server.kill()
    return killed


def kill_once(server: subprocess.Popen[str], policy: Policy, seconds: float) -> Kill:
    """Start a promoter, kill it `seconds` later, and check what it left."""
    before = len(ledger.read(policy.model).entries)
    server.stdin.write("promote\n")
    server.stdin.flush()
    process = int(server.stdout.readline())
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    while process_start(process):
        time.sleep(0.01)
    return check(policy, before, seconds)


def check(policy: Policy, before: int, seconds: float) -> Kill:
    """The alias is the old or the new champion; the next command ends what was open; then both agree."""
    book = ledger.read(policy.model)
    state = follow(book.entries)
    alias = aliases.champion_of(policy.model)
    assert not book.fault
    allowed = {state.champion} | ({state.intent.body["version"]} if state.intent else set())
    assert alias in allowed, (alias, allowed)
    history = promotion.history(policy)
    assert history.faults == ()
    settled = follow(history.entries)
    assert settled.intent is None
    assert settled.champion == aliases.champion_of(policy.model) == alias
    return Kill(seconds, len(book.entries) - before, state.intent is not None)
