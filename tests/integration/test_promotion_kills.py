"""Processes that die while they promote, and processes that promote at once."""

import subprocess
import sys

import pytest
from tests import kills
from tests.conftest import ROOT, environment
from tests.versions import POLICY, write_policy

from tunesmith import promotion
from tunesmith.config import Policy
from tunesmith.errors import RegistryError
from tunesmith.registry import aliases, ledger


@pytest.fixture
def project(registered_project):
    return registered_project


@pytest.fixture
def policy(store):
    """A store with three versions, the first of them champion, and a policy that all pass."""
    write_policy(store, kills.POLICY_TEXT)
    aliases.set_alias("bot", "candidate", "3")
    return Policy.from_yaml(POLICY)


def die(*_):
    raise SystemExit("killed")


@pytest.mark.parametrize("moved", [False, True])
def test_a_promotion_that_died_half_way_is_ended_by_the_next_command(policy, monkeypatch, moved):
    """Between intent and end: the alias decides."""
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "process_start", lambda pid: "of a dead process")
        patch.setattr(aliases, "end", die)
        if not moved:
            patch.setattr(aliases, "set_alias", die)
        with pytest.raises(SystemExit):
            promotion.promote(policy, promotion.Request())
    assert aliases.champion_of("bot") == ("3" if moved else "1")
    kill = kills.check(policy, before=0, seconds=0)
    assert kill.open
    last = promotion.history(policy).entries[-1]
    assert last.action == ("done" if moved else "undone")
    assert last.body["note"] == "settled after its process had died"


def test_while_a_live_process_promotes_others_wait(policy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(aliases, "end", die)
        with pytest.raises(SystemExit):
            promotion.promote(policy, promotion.Request())
    with pytest.raises(RegistryError, match=r"a promote of version 3 by .* is under way"):
        promotion.rollback(policy)


def test_a_process_wrongly_taken_for_dead_gives_the_alias_back(policy, monkeypatch):
    """Paused between intent and alias so long that another process has undone its move and promoted."""
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "process_start", lambda pid: "of a dead process")
        real, paused = aliases.set_alias, []

        def pause(name, alias, number):
            if not paused:
                paused.append(number)
                aliases.move("bot", "2", what="promote", expected="1", body={"reason": "meanwhile"})
            real(name, alias, number)

        patch.setattr(aliases, "set_alias", pause)
        with pytest.raises(RegistryError, match="took this one for dead"):
            promotion.promote(policy, promotion.Request())
    assert paused == ["3"]
    assert aliases.champion_of("bot") == "2"
    assert promotion.history(policy).faults == ()


def test_of_two_promoters_at_once_one_wins_and_the_other_is_told(policy, store):
    """Both have judged against champion 1 when they move."""
    code = (
        "import sys; from tunesmith.registry import aliases; print('ready', flush=True); sys.stdin.readline()\n"
        "try: aliases.move('bot', sys.argv[1], what='promote', expected='1', body={'reason': 'race'}); print('won')\n"
        "except Exception as error: print(error)"
    )
    env = environment(PYTHONPATH=str(ROOT / "src"), MLFLOW_TRACKING_URI=f"sqlite:///{store / 'mlflow.db'}")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, version],
            cwd=store,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in ("2", "3")
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    told = sorted(racer.communicate()[0].strip() for racer in racers)
    assert told.count("won") == 1
    loser = next(line for line in told if line != "won")
    assert "not 1 as expected; judge again" in loser or "is under way" in loser
    assert promotion.history(policy).faults == ()


def test_kills_at_random_instants_leave_alias_and_ledger_agreed(policy, store):
    killed = kills.kill_often(store, policy, count=3, seed=7, longest=0.6)
    assert sum(kill.entries for kill in killed) >= 6
