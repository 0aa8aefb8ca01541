"""The story: rows → audit → sweep → confirmed winner → holdout → candidate → gate → champion."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from tunesmith import promotion
from tunesmith.audit.checks import require_clean
from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.config.policy import Policy
from tunesmith.config.space import SearchSpace
from tunesmith.config.strict import suggestion
from tunesmith.config.task import task_name
from tunesmith.data.dataset import load_dataset, training_rows
from tunesmith.data.digest import digest_of
from tunesmith.data.tasks import load_items, load_tasks
from tunesmith.errors import ConfigError, ModelError, OutcomeError
from tunesmith.evaluate.forgetting import forgetting
from tunesmith.judgement import judge
from tunesmith.models.device import device_for
from tunesmith.models.references import resolve
from tunesmith.progress import Progress
from tunesmith.records import AuditReport, Scores, TrainedRun, Verdict
from tunesmith.registry import evidence, page, versions
from tunesmith.registry.verify import read_json
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.closing import finish, log_search, log_winner
from tunesmith.sweep.confirmation import Candidate, confirm
from tunesmith.sweep.coordinator import Coordinator
from tunesmith.sweep.disk import room_on_disk
from tunesmith.sweep.executors import LocalWorker
from tunesmith.sweep.following import RunReporter, log_training
from tunesmith.sweep.opening import Resume, begin_with_earlier, check_sweepable, going_on, open_sweep
from tunesmith.sweep.protocol import Items, Job
from tunesmith.sweep.search import Search
from tunesmith.tracking import runs, store
from tunesmith.tracking.command import relative_to_project, run_command
from tunesmith.tracking.datasets import log_dataset
from tunesmith.tracking.runs import Killed, Run
from tunesmith.tracking.scores import log_change, log_scores, log_scores_of
from tunesmith.train.team import team

SHOWN = ("model.base", "adapter.", "method.")
SINGLE_RUN_MARKS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep found: its winner, registered as candidate, and how that compares with the base.

    A reward model does not answer anybody, so it is not registered: then there is neither version nor verdict.
    """

    parent: str
    winner: Candidate
    run_id: str
    version: str | None
    base: Scores
    scores: Scores
    verdict: Verdict | None


def preflight(experiment: Experiment) -> AuditReport:
    """Find out whatever would stop a run later: data, tasks, device, base model. Writes nothing."""
    store.client()
    load_dataset(experiment)
    report = require_clean(experiment)
    tasks = load_tasks(experiment)
    load_items({name: tasks[name] for name in experiment.evaluation.names}, experiment, "tune")
    load_items(tasks, experiment, "holdout")
    device_for(experiment.model)
    base = resolve(experiment.model.base, revision=experiment.model.revision)
    if experiment.method.kind != "sft":  # which every architecture takes
        from tunesmith.models.architecture import architecture_in, check_method

        check_method(architecture_in(base.path), experiment)
    if experiment.method.kind == "rlhf":
        from tunesmith.models.judge import check_tokenizers, find_reward_model
        from tunesmith.models.loading import load_tokenizer

        judge = find_reward_model(experiment.method.reward_model, experiment.path.parent)
        check_tokenizers(load_tokenizer(base), judge)
    return report


def train_one(experiment: Experiment, progress: Progress) -> tuple[str, TrainedRun, Scores]:
    """One training run, scored on the whole tune split; returns its run id, its training and its scores."""
    from tunesmith.sweep.workbench import Workbench

    report = preflight(experiment)
    kind = experiment.method.kind
    run = runs.adopt_or_create(experiment.name, f"{experiment.name}-{kind}", kind=kind)
    team().announce(run.id)
    with runs.recording(run), tempfile.TemporaryDirectory(dir=store.state_folder()) as folder:
        bench = Workbench(experiment)
        log_run(run, experiment, report)
        run.new_params(overrides.values_of(experiment, SHOWN))
        ready = bench.ready()
        progress.note(f"model {experiment.model.base} on {ready.placement}")
        if experiment.own_task is None:
            share, preview = bench.mask(experiment)
            counted = "of the training tokens count in the loss: what stands between ⟦ and ⟧"
            progress.note(f"{share:.1%} {counted}\n{preview}")
        shared = {"base_sha256": ready.base_sha256, "threads": ready.threads, "seed": experiment.seed}
        command = run_command(experiment) + team().options
        run.tags({**shared, **team().tags, "command": command, **runs.provenance()})
        log_dataset(run, training_rows(bench.dataset, experiment.data), context="training")
        job = Job(experiment, "tune", folder, fractions=SINGLE_RUN_MARKS)
        before = bench.score(dataclasses.replace(job, train=False)) if kind == "rlhf" else None
        with progress.job(kind) as bar:
            done = bench.execute(job, RunReporter(run, progress, bar))
        assert done.trained is not None  # noqa: S101 - a training job was asked for
        log_training(run, done.trained)
        log_scores(run, done.scores)
        if before is not None:
            for line in log_change(run, before, done.scores):
                progress.note(f"  {line}")
        run.artifact(pathlib.Path(done.trained.adapter), "adapter")
        return run.id, done.trained, done.scores


def assist_one(experiment: Experiment) -> None:
    """What `train_one` asks of every other process of its team: to train, and to write nothing."""
    from tunesmith.sweep.workbench import Workbench

    with tempfile.TemporaryDirectory() as folder:
        Workbench(experiment).assist(Job(experiment, "tune", folder, fractions=SINGLE_RUN_MARKS))


def log_run(run: Run, experiment: Experiment, report: AuditReport) -> None:
    """Log what decides a run: its resolved configuration and the audit of its data."""
    tree = experiment.tree()
    run.json(tree, "experiment.json")
    what = {"experiment_file": relative_to_project(experiment.path), "method": experiment.method.kind}
    run.tags({**what, "config_sha256": digest_of(tree), "data_sha256": report.data_digest})
    if not report.passed:
        run.tags({"data_forced": ", ".join(finding.check for finding in report.failed)})
    parent = resolve(experiment.model.base, revision=experiment.model.revision)
    if parent.adapter is not None:
        run.tags({"parent_run": parent.run_id, "parent_sha256": parent.adapter_sha256})
    run.metrics(dict(report.metrics))


def sweep(
    experiment: Experiment,
    space: SearchSpace,
    policy: Policy,
    progress: Progress,
    *,
    budget: Budget,
    resume: Resume = Resume.NO,
) -> SweepOutcome:
    """Search, confirm the best, score the winner once on the holdout, register it as candidate."""
    try:
        with room_on_disk():
            return _sweep(experiment, space, policy, progress, budget=budget, resume=resume)
    except Killed as stop:
        raise OutcomeError(f"{stop}; go on with the same command and --resume") from None


def _sweep(
    experiment: Experiment, space: SearchSpace, policy: Policy, progress: Progress, *, budget: Budget, resume: Resume
) -> SweepOutcome:
    check_sweepable(experiment, space)
    report = preflight(experiment)
    parent, study = open_sweep(experiment, space, report, resume=resume, budget=budget)
    if resume is not Resume.NO:
        progress.note(going_on(study, parent))
    if budget.warm_start and not study.begun():
        begin_with_earlier(study, experiment, report, progress, most=budget.warm_start)
    with runs.recording(parent):
        log_run(parent, experiment, report)
        parent.json(space.tree(), "space.json")
        with Coordinator(experiment, space, study, parent, progress) as coordinator:
            ready = coordinator.start()
            Search(coordinator, budget).run()
            candidates = confirm(coordinator)
            log_search(coordinator, ready.placement, candidates)
            winner = candidates[0]
            run_id = winner.runs[0]
            coordinator.enter("scoring on the holdout")
            if registers(experiment):
                promotion.note_holdout_use(policy, experiment, run_id)
            base, scores = score_holdout(coordinator, run_id, report)
            coordinator.enter("registering")
        log_winner(coordinator, winner, scores)
        version, verdict = None, None
        if registers(experiment):
            version = promotion.register(experiment, policy, run_id, scores)
            verdict = judge(policy, run_id)
            page.publish(policy, versions.get(policy.model, version), verdict)
        finish(coordinator)
    return SweepOutcome(parent.id, winner, run_id, version, base, scores, verdict)


def registers(experiment: Experiment) -> bool:
    """Whether the winner of a sweep is a chat model, which the registry is for."""
    return experiment.method.kind != "reward"


def score_holdout(coordinator: Coordinator, run_id: str, report: AuditReport) -> tuple[Scores, Scores]:
    """Score base and winner on the holdout, and keep both on the winner's run as its evidence."""
    coordinator.progress.note("scoring winner and base on the holdout")
    winner_run = runs.attach(run_id)
    adapter = winner_run.download("adapter", coordinator.folder / "winner")

    def scoring(name: str, path: str | None) -> Callable[[LocalWorker], Scores]:
        tags = {"winner_run": run_id}
        return lambda worker: coordinator.score(
            worker, coordinator.child(name, kind="holdout", tags=tags), items="holdout", adapter=path
        )

    tasks = [scoring("holdout-winner", str(adapter)), scoring("holdout-base", None)]
    scores, base = coordinator.crew.each(tasks)
    evidence.save(winner_run, candidate=scores, base=base)
    lost = forgetting(coordinator.experiment.evaluation.forgetting, base, scores)
    winner_run.metrics({**scores.metrics, **report.metrics, **lost})
    winner_run.flush()
    return base, scores


def main(
    experiment: Experiment, space: SearchSpace, policy: Policy, progress: Progress, *, budget: Budget
) -> tuple[SweepOutcome, Verdict, promotion.Move | None]:
    """The whole story: audit, base scores, sweep, register, gate, promote."""
    if not registers(experiment):
        where = experiment.where("method", "kind")
        raise ConfigError(f"{where}: a reward model is not promoted; use `tunesmith sweep`, which ends with its winner")
    promotion.require_principal(policy)
    outcome = sweep(experiment, space, policy, progress, budget=budget)
    return outcome, *promotion.promote(policy, promotion.Request(f"main: winner of sweep {outcome.parent}"))


def evaluate(
    model: str, experiment: Experiment, progress: Progress, *, split: Items, only: str = ""
) -> tuple[Scores, Scores]:
    """Score the adapter of a run or of a registered version beside the base; returns base's and model's scores.

    All tasks and suites are scored, or only the one that `only` names.
    """
    tasks = tuple(named_tasks(experiment, only))
    from tunesmith.sweep.workbench import Workbench

    run = runs.adopt_or_create(experiment.name, f"evaluate {model}", kind="evaluation")
    with runs.recording(run), tempfile.TemporaryDirectory(dir=store.state_folder()) as folder:
        adapter = fetch_adapter(model, experiment, pathlib.Path(folder))
        bench = Workbench(experiment)
        results = []
        for path in (None, str(adapter)):
            progress.note(f"scoring {'the base' if path is None else model} on {split}")
            job = Job(experiment, split, folder, train=False, adapter=path, tasks=tasks)
            results.append(bench.score(job))
        base, scores = results
        run.tags({"model": model, "base_sha256": bench.model.sha256})
        run.tags({"experiment_file": relative_to_project(experiment.path)})
        run.json(experiment.tree(), "experiment.json")
        log_scores_of(run, scores, adapter)
        run.metrics({f"base/{name}": value for name, value in base.metrics.items()})
        run.metrics(forgetting(experiment.evaluation.forgetting, base, scores))
        with runs.recording(runs.create(experiment.name, "base", kind="base", parent=run)) as beside:
            log_scores_of(beside, base, None)
        return base, scores


def named_tasks(experiment: Experiment, only: str) -> list[str]:
    """All tasks and suites of an experiment, or the one of that name; raises `ConfigError` if there is none."""
    every, only = experiment.evaluation.every, task_name(only)
    if only and only not in every:
        raise ConfigError(f"{experiment.where('evaluation', 'suites')}: {only}: unknown{suggestion(only, every)}")
    return [only] if only else every


def fetch_adapter(model: str, experiment: Experiment, folder: pathlib.Path) -> pathlib.Path:
    """The adapter folder of a run id or `models:/` URI; raises `ModelError` if its base is another one."""
    base = resolve(experiment.model.base, revision=experiment.model.revision)
    if model.startswith("models:/"):
        tuned = resolve(model)
        sha256, adapter = tuned.sha256, tuned.adapter
        trained = read_json(adapter.parent, "experiment.json") if adapter else {}
    else:
        run = runs.attach(model)
        sha256, adapter = run.tag("base_sha256"), run.download("adapter", folder)
        trained = run.read_json("experiment.json")
    if sha256 != base.sha256 or adapter is None:
        raise ModelError(f"{model}: was not trained on {experiment.model.base}, the base of {experiment.path}")
    kind = trained["adapter"]["kind"]
    if (kind == "qlora") != (experiment.adapter.kind == "qlora"):
        raise ModelError(
            f"{model}: was trained with adapter.kind {kind}, and {experiment.path} loads the base for "
            f"{experiment.adapter.kind}; add --set adapter.kind={kind}"
        )
    return adapter
