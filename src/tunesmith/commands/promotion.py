"""Commands about what is registered: promote it, take that back, look at the ledger, copy it, train it again."""

import json
from dataclasses import asdict
from typing import Any

import click

from tunesmith import summary
from tunesmith.commands.options import POLICY, json_option
from tunesmith.config import Policy
from tunesmith.errors import OutcomeError
from tunesmith.progress import Progress


@click.command()
@click.argument("policy", default=POLICY)
@click.option("--reason", default="", help="Why, for the ledger.")
@click.option("--expect", default="", help="Refuse unless this version (or `none`) is champion now.")
@click.option("--force", is_flag=True, help="Let a search's winner pass that was never confirmed; the ledger says so.")
@click.option("--reuse-holdout", is_flag=True, help="Promote past the holdout's budget; the ledger says so.")
@json_option
def promote(policy: str, reason: str, expect: str, force: bool, reuse_holdout: bool) -> tuple[Any, str]:
    """Verify and judge the candidate of POLICY and, if it passes every gate, make it champion."""
    loaded = Policy.from_yaml(policy)
    from tunesmith import promotion

    request = promotion.Request(reason=reason, expect=expect, force=force, reuse_holdout=reuse_holdout)
    verdict, move = promotion.promote(loaded, request)
    champion = require_pass(verdict, move, loaded)
    return {**vars(champion), "verdict": verdict.decision}, summary.promotion_text(loaded, champion, verdict)


@click.command()
@click.argument("policy", default=POLICY)
@click.option("--reason", default="", help="Why, for the ledger.")
@json_option
def rollback(policy: str, reason: str) -> tuple[Any, str]:
    """Give the previous verified champion of POLICY its alias back, without running gates."""
    loaded = Policy.from_yaml(policy)
    from tunesmith import promotion

    move = promotion.rollback(loaded, reason=reason)
    return vars(move), summary.rollback_text(loaded, move)


@click.command()
@click.argument("policy", default=POLICY)
@click.option("--verify", is_flag=True, help="Fail when an entry was changed or the alias was moved past the ledger.")
@click.option("--head", default="", help="SHA-256 of an entry noted down elsewhere, which must still be there.")
@json_option
def history(policy: str, verify: bool, head: str) -> tuple[Any, str]:
    """Print the ledger of POLICY: every promotion and rollback, by whom and why, and how each champion was trained."""
    loaded = Policy.from_yaml(policy)
    from tunesmith import promotion

    found = promotion.history(loaded, head=head)
    text = summary.history_text(found, verify=verify or bool(head))
    if found.faults and (verify or head):
        click.echo(text)
        raise OutcomeError(f"{loaded.model}: {found.faults[0]}")
    entries = [json.loads(entry.text) for entry in found.entries]
    champions = [asdict(champion) for champion in found.champions]
    return {"entries": entries, "head": found.head, "faults": found.faults, "champions": champions}, text


@click.command()
@click.argument("target")
@click.option("--policy", default=POLICY, help="Registry policy file.")
@click.option("--version", default="champion", help="Number or alias of the version that is copied.")
@json_option
def copy(target: str, policy: str, version: str) -> tuple[Any, str]:
    """Copy a version with its evidence to the registry at the tracking URI TARGET, as candidate there."""
    loaded = Policy.from_yaml(policy)
    from tunesmith import promotion

    source, number = promotion.copy(loaded, version, target)
    text = f"{loaded.model}: version {source} is candidate {number} in {target}"
    return {"target": target, "source_version": source, "version": number}, text


@click.command()
@click.argument("run")
@json_option
def replay(run: str) -> tuple[Any, str]:
    """Train RUN again from its record, and say whether identical, close or different results come out."""
    from tunesmith import replay as replays

    with Progress() as progress:
        found = replays.replay(run, progress)
    text = summary.replay_text(found)
    if found.outcome == "different":
        click.echo(text)
        raise OutcomeError(f"{run}: the replay differs from step {found.step} on")
    return vars(found), text


def require_pass(verdict: Any, move: Any, policy: Policy) -> Any:
    """The move of a promotion; shows the gates and exits 1 when they did not let it happen."""
    if move is None:
        click.echo(summary.verdict_text(verdict), err=True)
        raise OutcomeError(f"{policy.model}: not promoted: the verdict is {verdict.decision}")
    return move
