"""What a policy lets run after a promotion: it is told what happened, and its failure changes nothing."""

import sys

import pytest
from tests.versions import POLICY, POLICY_TEXT, write_policy

from tunesmith.registry import versions


@pytest.fixture
def project(registered_project):
    return registered_project


@pytest.mark.parametrize(
    ("hook", "outcome"),
    [
        (f"command: [{sys.executable}, -c, 'import sys; sys.exit(3)']", "exit status 3"),
        ("command: [/no/such/program]", "No such file or directory"),
        (
            f"command: [{sys.executable}, -c, 'import time; time.sleep(60)'], timeout_seconds: 0.2",
            "stopped after 0.2 s",
        ),
    ],
)
def test_a_failing_hook_is_recorded_and_changes_nothing(store, invoke, hook, outcome):
    write_policy(store, POLICY_TEXT + f"after_promotion: {{{hook}}}\n")
    done = invoke("promote", POLICY)
    assert done.exit_code == 0
    assert f"failed: {outcome}" in done.stdout
    assert versions.by_alias("bot", "champion").number == "2"
    assert f": {outcome}" in invoke("history", POLICY, "--verify").stdout


def test_a_hook_is_told_what_happened(store, invoke):
    code = "import os; e = os.environ; open('told', 'w').write(e['TUNESMITH_VERSION'] + ' after ' + e['TUNESMITH_WAS'])"
    write_policy(store, POLICY_TEXT + f'after_promotion:\n  command: [{sys.executable}, -c, "{code}"]\n')
    assert invoke("promote", POLICY).exit_code == 0
    assert (store / "told").read_text() == "2 after 1"
