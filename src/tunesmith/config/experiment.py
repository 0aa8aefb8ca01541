"""An experiment: one YAML that is one complete run."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tunesmith.config.audit import AuditLimits
from tunesmith.config.method import Method, SftConfig, Share
from tunesmith.config.shortlist import ShortlistConfig
from tunesmith.config.strict import Document, Section
from tunesmith.config.task import HARNESS, task_name

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]

DataFormat = Literal[
    "auto", "messages", "sharegpt", "alpaca", "prompt_completion", "preference", "kto", "questions", "text"
]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

OWN_TASKS = {"reward": "pairs", "rlhf": "replies"}

SPLITS = ("train", "tune", "holdout", "bench")


class SplitConfig(Section):
    """How rows are dealt out: by a hash of their group, so that no group crosses splits."""

    by: str = "group"
    """Rows with the same value in this field stay together; without a `group`, rows with the same user turns."""
    train: Share = 0.55
    """Share of groups that training sees."""
    tune: Share = 0.10
    """Share that the sweep scores on."""
    holdout: Share = 0.25
    """Share that the gate alone reads."""
    bench: Share = 0.10
    """Share for benchmarks and demonstrations; no gate reads it."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> "SplitConfig":
        total = sum(self.shares().values())
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"the shares of {', '.join(SPLITS)} must sum to 1, not {total:g}")
        return self

    def shares(self) -> dict[str, float]:
        """Share of each split, in the order in which the hash deals them out."""
        return {name: getattr(self, name) for name in SPLITS}


class DataConfig(Section):
    """Where the rows come from and who sees which."""

    source: str
    """Rows: a JSONL, JSON, CSV or Parquet file or a `datasets` folder, relative to this file (`FOLDER:SPLIT`
    names its split), or a hub data set `OWNER/NAME[/SUBSET][:SPLIT][@REVISION]`."""
    format: DataFormat = "auto"
    """Shape of the rows; auto takes what the keys of the first row show."""
    split: SplitConfig = SplitConfig()
    """Shares of the splits."""
    stratify_by: str = "intent"
    """Field whose values a subset takes turns between."""
    train_rows: Annotated[int, Field(ge=1)] | None = None
    """Train on a stratified subset of this many rows; all of them when null."""
    search_rows: Annotated[int, Field(ge=1)] | None = None
    """What a sweep sets `train_rows` to; all rows when null."""
    sanity: str | None = None
    """JSONL file of plain questions that show what the domain is, relative to this file."""
    knowledge: Annotated[list[str], Field(default_factory=list)]
    """Text files of what the answers may quote (a handbook), relative to this file."""
    audit: AuditLimits = AuditLimits()
    """Limits beyond which the audit fails."""
    force: bool = False
    """Train even on data that the audit refuses; the run says so."""


class ModelConfig(Section):
    """The base model and how it is loaded."""

    base: str
    """Hub id, path, `models:/` URI or `bundled:NAME`."""
    revision: str | None = None
    """Commit of a hub model; the newest at hand when null."""
    max_length: Annotated[int, Field(ge=16)] = 1024
    """Longest row in tokens; longer ones are cut at the end, and counted. Of an encoder–decoder it is the longest
    source, cut at its beginning, and the longest target, cut at its end."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes CUDA when it is there."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the frozen base; auto takes bfloat16 where it is faster."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel; auto takes the fastest one present."""


class AdapterConfig(Section):
    """What is trained: a low-rank adapter on the frozen base (Hu et al., 2021), or every weight.

    `dora`, `rslora`, `init` and `lora_plus_ratio` may be combined, but for `dora` with `init: pissa`.
    """

    kind: Literal["lora", "qlora", "full"] = "lora"
    """`lora`; `qlora`: the base is loaded in 4-bit NF4 with double quantisation (Dettmers et al., 2023) and needs
    bitsandbytes; `full`: every weight is trained, without an adapter, and what follows here has no meaning."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the update."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    targets: str | list[str] = "all-linear"
    """Names of the layers to adapt, or `all-linear`."""
    dora: bool = False
    """Train the length of each row of the adapted weights apart from its direction (DoRA, Liu et al., 2024)."""
    rslora: bool = False
    """Multiply the update by alpha / √rank instead (rsLoRA, Kalajdzievski, 2023)."""
    init: Literal["default", "pissa"] = "default"
    """`pissa` begins with the principal components of the base's weights (Meng et al., 2024) and is saved as a
    plain adapter of twice the rank, which fits the untouched base."""
    lora_plus_ratio: Annotated[float, Field(ge=1)] | None = None
    """The B matrices learn so many times as fast as the A matrices (LoRA+, Hayou et al., 2024); alike when null."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "AdapterConfig":
        variants = ("dropout", "dora", "rslora", "init", "lora_plus_ratio")
        for name in variants if self.kind == "full" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"kind full trains every weight and has no {name}; leave it out")
        if self.init == "pissa" and self.kind == "qlora":
            raise ValueError("init pissa needs the base's own weights, which kind qlora quantises; use kind lora")
        if self.init == "pissa" and self.dora:
            raise ValueError("init pissa with dora cannot be saved as a plain adapter; drop one of them")
        return self

    @property
    def scaling(self) -> float:
        """What the update B (A x) is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class EvaluationConfig(Section):
    """What a model is scored on."""

    tasks: list[str]
    """Task files `NAME.yaml` in `tasks_dir`, tasks of the lm-eval harness as `lm_eval:NAME`, and your own files in its
    format as `lm_eval:FILE.yaml`, relative to `tasks_dir`; none for a reward model, which does not reply."""
    suites: Annotated[list[str], Field(default_factory=list)]
    """Further task files there that no trial is scored on: only the winner and the base on the holdout, and
    whatever `tunesmith evaluate` is asked for."""
    forgetting: Annotated[list[str], Field(default_factory=list)]
    """Tasks that tell what the base knew; what a model lost of it is logged as `forgetting/SPLIT/TASK/METRIC`."""
    tasks_dir: str = "tasks"
    """Folder of the task files, relative to this file."""
    approved: Annotated[list[Digest], Field(default_factory=list)]
    """SHA-256s of your own files for lm-eval, which may run code: each is refused until you have read it and put
    here the digest that the refusal gives."""
    primary: str
    """The metric that picks the winner among confirmed trials, as `tune/TASK/METRIC`. A reward model has the task
    `pairs`, a policy trained by reinforcement `replies` beside those above."""
    trial_items: Annotated[int, Field(ge=4)] = 48
    """Most tune items a trial is scored on, all tasks together; confirmations use all."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Requests per forward pass while scoring."""
    racing: bool = False
    """Whether a sweep scores a trial on the items of `primary` bit by bit, and stops once it is beyond doubt worse than
    the best trial so far; such a trial is never confirmed."""

    @model_validator(mode="after")
    def _primary_is_scored(self) -> "EvaluationConfig":
        parts = self.primary.split("/")
        if len(parts) != 3 or parts[0] != "tune" or parts[1] not in (*self.names, *OWN_TASKS.values()):
            raise ValueError(f"primary must be tune/TASK/METRIC with one of {', '.join(self.names)}")
        return self

    @model_validator(mode="after")
    def _primary_can_be_raced(self) -> "EvaluationConfig":
        task = self.references.get(self.primary.split("/")[1], HARNESS)
        if self.racing and task.startswith(HARNESS):
            raise ValueError(f"racing needs a task file of your own for {self.primary}; set racing: false")
        return self

    @model_validator(mode="after")
    def _names_are_tasks(self) -> "EvaluationConfig":
        twice = sorted({name for name in self.every if self.every.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: is in tasks and suites more than once")
        unknown = [name for name in self.forgetting if name not in self.every]
        if unknown:
            raise ValueError(f"forgetting: {unknown[0]} is neither in tasks nor in suites")
        return self

    @property
    def names(self) -> list[str]:
        """The names of the tasks in metrics."""
        return [task_name(task) for task in self.tasks]

    @property
    def every(self) -> list[str]:
        """The names of all tasks and suites."""
        return [*self.names, *(task_name(suite) for suite in self.suites)]

    @property
    def references(self) -> dict[str, str]:
        """How each of `every` is written here."""
        return dict(zip(self.every, [*self.tasks, *self.suites], strict=True))


class Experiment(Document):
    """A complete run: data, model, adapter, method and evaluation."""

    name: Name
    """Names the MLflow experiment and the runs."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 17
    """Seed of initialisation and row order."""
    data: DataConfig
    """Where rows come from."""
    model: ModelConfig
    """The base model."""
    adapter: AdapterConfig = AdapterConfig()
    """What is trained."""
    method: Method = SftConfig()
    """How it is trained."""
    evaluation: EvaluationConfig
    """How it is scored."""
    shortlist: ShortlistConfig = ShortlistConfig(candidates=[])
    """Which other base models it might start from."""

    @property
    def own_task(self) -> str | None:
        """The task that the method brings with it, if it does."""
        return OWN_TASKS.get(self.method.kind)

    @model_validator(mode="after")
    def _trains_an_adapter(self) -> "Experiment":
        if self.adapter.kind == "full" and self.method.kind != "sft":
            raise ValueError(f"adapter.kind full goes with method sft only; use lora for {self.method.kind}")
        return self

    @model_validator(mode="after")
    def _primary_is_scored(self) -> "Experiment":
        if self.method.kind == "reward" and self.evaluation.tasks:
            raise ValueError("evaluation.tasks ask for replies, which a reward model does not give; leave them empty")
        task = self.evaluation.primary.split("/")[1]
        if task not in (*self.evaluation.names, self.own_task):
            raise ValueError(f"evaluation.primary: method {self.method.kind} is not scored on {task}")
        return self
