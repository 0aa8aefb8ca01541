"""From a finished run to a champion: package, register, verify, judge, move the alias, and move it back."""

import pathlib
import tempfile
from dataclasses import asdict, dataclass

from tunesmith import manifest
from tunesmith.config.experiment import Experiment
from tunesmith.config.policy import Policy
from tunesmith.data.dataset import load_dataset
from tunesmith.data.digest import digest_of
from tunesmith.errors import RegistryError
from tunesmith.judgement import holdout_digest, judge, require_comparable, require_known_metrics, require_untouched
from tunesmith.models.references import resolve
from tunesmith.records import Decision, Scores, Verdict
from tunesmith.registry import aliases, copying, evidence, hooks, ledger, page, selection, versions
from tunesmith.registry.lineage import Lineage, lineage
from tunesmith.registry.package import Contents, build_package
from tunesmith.registry.reigns import HOLDOUT, PROMOTE, ROLLBACK, State, follow, holdout_uses
from tunesmith.registry.versions import Version
from tunesmith.tracking import runs, store
from tunesmith.tracking.runs import Run

REPLY_TOKENS = 256
LONGEST_REASON = 500


@dataclass(frozen=True)
class Request:
    """How a promotion is asked for.

    `expect` is the champion it is meant to replace; `force` lets a winner pass that was never confirmed;
    `reuse_holdout` lets one pass that was judged on a holdout whose budget is used up.
    """

    reason: str = ""
    expect: str = ""
    force: bool = False
    reuse_holdout: bool = False


@dataclass(frozen=True)
class Move:
    """The champion's alias was moved: to which version, from which, and what a reader should know about it."""

    version: str
    was: str | None
    head: str = ""
    """SHA-256 of the ledger's newest entry: note it down elsewhere, and `history --verify --head` can check it."""
    notes: tuple[str, ...] = ()


def note_holdout_use(policy: Policy, experiment: Experiment, run_id: str) -> None:
    """Write into the ledger that a run's model is about to be scored on the holdout."""
    versions.ensure(policy.model)
    aliases.note(policy.model, HOLDOUT, {"items": holdout_digest(experiment), "run": run_id})


def register(experiment: Experiment, policy: Policy, run_id: str, scores: Scores) -> str:
    """Register a run's adapter as candidate, once for the same evidence; returns the version's number."""
    known = versions.of_run(policy.model, run_id, evidence_sha256=evidence.load(run_id).sha256)
    version = known.number if known else _register(experiment, policy, runs.attach(run_id), scores)
    versions.set_alias(policy.model, aliases.CANDIDATE, version)
    return version


def _register(experiment: Experiment, policy: Policy, run: Run, scores: Scores) -> str:
    """Package a run's adapter, load it once as serving does, and register it."""
    from tunesmith.registry import against_base, merged

    base = resolve(experiment.model.base, revision=experiment.model.revision)
    judged_on = {"evidence_sha256": evidence.load(run.id).sha256}
    contents = Contents(
        base=base,
        experiment=experiment.tree(),
        data={
            **data_digests(experiment),
            "scores_digest": scores.digest,
            **judged_on,
            "parent_sha256": base.adapter_sha256,
        },
        max_new_tokens=REPLY_TOKENS,
    )
    with tempfile.TemporaryDirectory(dir=store.state_folder()) as scratch:
        folder = pathlib.Path(scratch)
        adapter = run.download("adapter", folder / "run")
        finish = merged.add if policy.package == "merged" else None
        package = build_package(folder / "package", adapter, contents, finish=finish)
        loaded = against_base.load(package)
        size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
        measured = {"package/bytes": size, "package/load_seconds": loaded.seconds, "package/effect": loaded.effect}
        run.metrics(measured)
        run.flush()
        tags = {name.replace("/", "."): f"{value:.4g}" for name, value in {**scores.metrics, **measured}.items()}
        more = {"base": base.reference, "base_sha256": base.sha256, **judged_on}
        return versions.register(package, run, policy.model, tags={**tags, **more})


def data_digests(experiment: Experiment) -> dict[str, str]:
    """Digests of an experiment's rows: all of them, and each split's."""
    dataset = load_dataset(experiment)
    return {"source_sha256": dataset.digest, **{f"{split.name}_sha256": split.digest for split in dataset.splits}}


def promote(policy: Policy, request: Request) -> tuple[Verdict, Move | None]:
    """Verify and judge the candidate and, if it passes, make it champion.

    Returns the verdict, and the move unless the verdict forbade it. Raises `RegistryError` when there is
    nothing to judge, what there is cannot be trusted, or the champion is not the expected one.
    """
    require_principal(policy)
    candidate = versions.by_alias(policy.model, aliases.CANDIDATE)
    if candidate is None:
        raise RegistryError(f"{policy.model}: has no candidate; run a sweep first")
    book, state, difference = aliases.compared(policy.model)
    if difference:
        raise RegistryError(f"{policy.model}: {difference}; `tunesmith rollback` restores what the ledger says")
    require_expected(policy, request, candidate, state)
    verify_candidate(candidate)
    require_known_metrics(policy, candidate)
    conditions = {**require_confirmed(candidate, request), **require_budget(policy, candidate, request, book)}
    require_comparable(policy, candidate)
    require_untouched(policy, candidate, book)
    verdict = judge(policy, candidate.run_id)
    page.publish(policy, candidate, verdict)
    if verdict.decision is not Decision.PASS:
        return verdict, None
    body = {"reason": request.reason or "its gates passed", "run": candidate.run_id, **conditions}
    body |= {"verdict": str(verdict.decision), "report": save_report(policy, candidate, verdict, book)}
    body |= {"evidence_sha256": evidence.load(candidate.run_id).sha256}
    intent = aliases.move(policy.model, candidate.number, what=PROMOTE, expected=state.champion, body=body)
    notes = hooks.run(policy, intent)
    return verdict, Move(candidate.number, intent.body["was"], ledger.read(policy.model).head, notes)


def require_principal(policy: Policy) -> None:
    """Refuse who is not on the policy's list."""
    if policy.principals and runs.principal() not in policy.principals:
        raise RegistryError(
            f"{policy.where('principals')}: {runs.principal()} is not on the list and may not move {policy.model}"
        )


def require_expected(policy: Policy, request: Request, candidate: Version, state: State) -> None:
    """Refuse a promotion that rests on another champion than the present one, or changes nothing."""
    if len(request.reason) > LONGEST_REASON:
        raise RegistryError(f"--reason: is {len(request.reason)} characters long; at most {LONGEST_REASON} are kept")
    if request.expect and request.expect != str(state.champion or "none"):
        raise RegistryError(
            f"{policy.model}: the champion is version {state.champion or 'none'}, not {request.expect} as expected"
        )
    if state.champion == candidate.number:
        raise RegistryError(f"{policy.model}: version {candidate.number} is champion already")


def verify_candidate(candidate: Version) -> None:
    """Run, evidence, package and base of a candidate can be trusted, and belong together."""
    evidence.require_finished(candidate.run_id)
    record = evidence.load(candidate.run_id)
    package = versions.verify(candidate)
    evidence.require_fresh(record, package)
    from tunesmith.registry import against_base  # torch is loaded only for what has passed so far

    try:
        against_base.check_shapes(package, against_base.check_base(package))
    except RegistryError as error:
        raise RegistryError(f"{candidate.name} version {candidate.number}: {error}") from None


def require_confirmed(candidate: Version, request: Request) -> dict[str, str]:
    """Refuse the winner of a search that was not trained again; what is forced goes into the ledger."""
    if selection.kind(candidate.run_id) != "trial":
        return {}
    if not request.force:
        raise RegistryError(
            f"{candidate.name}: version {candidate.number} is a search's best trial and was never confirmed on "
            "fresh seeds; confirm it, or promote it with --force"
        )
    return {"forced": "never confirmed"}


def require_budget(policy: Policy, candidate: Version, request: Request, book: ledger.Ledger) -> dict[str, str]:
    """Refuse a holdout that has judged too many models; what is let pass goes into the ledger."""
    uses = holdout_uses(book.entries, evidence.load(candidate.run_id).items)
    use = uses.index(candidate.run_id) + 1 if candidate.run_id in uses else len(uses) + 1
    count = f"{use} of {policy.holdout_budget}"
    if use <= policy.holdout_budget:
        return {"holdout_use": count}
    if not request.reuse_holdout:
        raise RegistryError(
            f"{policy.model}: the holdout's budget is used up (this is use {count}); add fresh holdout rows, "
            "or promote with --reuse-holdout"
        )
    return {"holdout_use": f"{count}, reused past its budget"}


def save_report(policy: Policy, candidate: Version, verdict: Verdict, book: ledger.Ledger) -> str:
    """Keep the gates' report beside the ledger; returns its SHA-256, which is also its name."""
    report = {"policy": policy.tree(), "version": candidate.number, "run": candidate.run_id, "verdict": asdict(verdict)}
    digest = digest_of(report)
    runs.Run(book.run_id, "").json(report, f"reports/{digest}.json")
    return digest


@dataclass(frozen=True)
class History:
    """The ledger of a registered model, and what `verify` found wrong: damage, or an alias moved past it."""

    entries: tuple[ledger.Entry, ...]
    head: str
    faults: tuple[str, ...]
    champions: tuple[Lineage, ...] = ()
    """How the versions came to be that a rollback could return to, the present champion last."""


def history(policy: Policy, *, head: str = "") -> History:
    """Read a ledger and check its chain, and the registry's alias against it.

    A move whose process has died is ended first. `head`, if given, is the SHA-256 of an entry that was noted down
    elsewhere and must still be in the chain.
    """
    book = ledger.read(policy.model)
    if book.fault:
        return History(book.entries, book.head, (book.fault,))
    faults = []
    if head and head not in {entry.sha256 for entry in book.entries}:
        faults.append(f"no entry has the SHA-256 {head}: the ledger was rewritten, or is another one")
    state = follow(book.entries)
    if state.intent is None or not aliases.alive(state.intent):
        book, state, difference = aliases.compared(policy.model)
        faults += [difference] if difference else []
    champions = tuple(lineage(policy.model, number) for number in dict.fromkeys(state.champions))
    return History(book.entries, book.head, tuple(faults), champions)


def rollback(policy: Policy, *, reason: str = "") -> Move:
    """Give the previous champion whose package verifies its alias back, without running gates.

    Where the alias was edited by hand, the champion of the ledger gets it back.
    """
    require_principal(policy)
    name = policy.model
    _, state, difference = aliases.compared(name)
    if state.champion is None:
        raise RegistryError(f"{name}: has no champion; there is nothing to roll back")
    earlier = [version for version in reversed(state.champions) if difference or version != state.champion]
    if not earlier:
        raise RegistryError(f"{name}: version {state.champion} is its first champion; there is nothing to return to")
    target, problems = first_sound(name, earlier)
    body = {"reason": reason or "rollback", **({"passed_over": problems} if problems else {})}
    intent = aliases.move(name, target, what=ROLLBACK, expected=state.champion, body=body)
    notes = (*problems, *hooks.run(policy, intent))
    return Move(target, intent.body["was"], ledger.read(name).head, notes)


def copy(policy: Policy, version: str, target: str) -> tuple[str, str]:
    """Copy a version, given by number or alias, to another registry; returns its number here and there."""
    require_principal(policy)
    if not version.isdigit():
        found = versions.by_alias(policy.model, version)
        if found is None:
            raise RegistryError(f"{policy.model}: has no {version}; name a version by its number or alias")
        version = found.number
    return version, copying.copy(policy.model, version, target)


def first_sound(name: str, numbers: list[str]) -> tuple[str, tuple[str, ...]]:
    """The first of some versions that exists and verifies, and why those before it do not."""
    problems: list[str] = []
    for number in dict.fromkeys(numbers):
        try:
            versions.verify(versions.get(name, number))
        except (RegistryError, manifest.ManifestError) as error:
            problems.append(str(error)[:LONGEST_REASON])
        else:
            return number, tuple(problems)
    raise RegistryError(f"{name}: there is nothing to return to: {problems[0]}")
