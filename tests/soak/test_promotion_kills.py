"""Twenty kills at random instants of promotions; `pytest -m soak` writes what it saw to benchmarks/results."""

import datetime
import json

import pytest
from tests import kills
from tests.conftest import ROOT
from tests.integration.test_promotion_kills import policy, project  # noqa: F401 - fixtures

KILLS, SEED = 20, 20_261_125


@pytest.mark.soak
def test_twenty_kills(policy, store):  # noqa: F811
    killed = kills.kill_often(store, policy, count=KILLS, seed=SEED, longest=2.0)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {
        "date": today,
        "seed": SEED,
        "kills": KILLS,
        "alias and ledger agreed": len(killed),
        "half done when killed": sum(kill.open for kill in killed),
        "entries written": sum(kill.entries for kill in killed),
        "seconds from the second promotion's start": [round(kill.seconds, 2) for kill in killed],
    }
    path = ROOT / "benchmarks/results" / f"{today}-promotion-kills.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
