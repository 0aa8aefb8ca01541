"""The data desk: audit an experiment's data and keep the report, or curate it."""

import pathlib
from collections.abc import Sequence

from tunesmith.audit import report as reports
from tunesmith.audit.checks import all_checks, audit_experiment
from tunesmith.audit.curate import Curated, curate, write_curated
from tunesmith.audit.material import load_material
from tunesmith.audit.result import Check
from tunesmith.config.experiment import Experiment
from tunesmith.data.dataset import source_of
from tunesmith.data.digest import digest_of
from tunesmith.errors import ConfigError, DataError
from tunesmith.pages.saving import write_page
from tunesmith.progress import Bar, Progress
from tunesmith.records import AuditReport
from tunesmith.tracking import runs

TOKEN_CHECKS, MODEL_CHECKS = 2, 2


def audit_and_log(experiment: Experiment, progress: Progress, *, model: bool, page: str, log: bool) -> AuditReport:
    """Audit the data of an experiment; log the report as a run of kind `audit`, and write it to `page` if given.

    With `model`, the base model is asked too. Nothing is written when the data cannot be read.
    """
    count = len(all_checks(load_material(experiment))) + TOKEN_CHECKS
    with progress.job("audit") as bar:
        more = model_checks(experiment, bar) if model else ()
        found = audit_experiment(experiment, more=more, told=Teller(bar, count + len(more)))
    html = reports.page(found, title=f"Data of {experiment.name}", source=str(source_of(experiment)))
    if page:
        write_page(pathlib.Path(page), html)
    if log:
        log_report(experiment, found, html)
    return found


class Teller:
    """Shows which check is under way."""

    def __init__(self, bar: Bar, total: int) -> None:
        self.bar = bar
        self.total = total
        self.done = 0

    def __call__(self, name: str) -> None:
        """A check begins."""
        self.bar.at(self.done, self.total, name)
        self.done += 1


def model_checks(experiment: Experiment, bar: Bar) -> Sequence[Check]:
    """Load the base model for the checks that need it."""
    from tunesmith.audit.difficulty import BaseModel, checks
    from tunesmith.models.device import fix_threads, place
    from tunesmith.models.loading import load_base, load_tokenizer
    from tunesmith.models.references import resolve

    fix_threads()
    placement = place(experiment.model)
    reference = resolve(experiment.model.base, revision=experiment.model.revision)
    base = load_base(reference, placement)
    told = lambda done, of: bar.at(done, of, "rows under the base model")  # noqa: E731
    return checks(BaseModel(base, load_tokenizer(reference), reference.sha256, told))


def log_report(experiment: Experiment, found: AuditReport, html: str) -> None:
    """Log a report to MLflow: verdict, metrics, page and JSON. No row goes with it, only ids."""
    run = runs.adopt_or_create(experiment.name, f"{experiment.name}-audit", kind="audit")
    with runs.recording(run):
        tree = experiment.tree()
        run.json(tree, "experiment.json")
        run.tags(
            {
                "config_sha256": digest_of(tree),
                "data_sha256": found.data_digest,
                "verdict": "pass" if found.passed else "fail",
                **runs.provenance(),
            }
        )
        run.metrics(dict(found.metrics))
        run.text(html, "audit/report.html")
        run.json(reports.value(found), "audit/report.json")


def curate_experiment(experiment: Experiment, progress: Progress, *, out: str) -> tuple[Curated, str, str]:
    """Curate the source of an experiment; returns what was done and the paths of the kept rows and the ledger."""
    source = experiment.resolve(experiment.data.source)
    target = pathlib.Path(out) if out else source.with_suffix(".curated.jsonl")
    if target.resolve() == source:
        raise ConfigError(f"--out {target}: is the source itself; name another file")
    if target.is_dir():
        raise DataError(f"--out {target}: is a folder; name a file")
    material = load_material(experiment)
    steps = len(all_checks(material))
    with progress.job("curate") as bar:
        curated = curate(material, told=Teller(bar, 3 * steps))
    ledger = write_curated(curated, target)
    return curated, str(target), str(ledger)
