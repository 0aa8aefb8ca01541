"""An evaluation task in a few lines: which rows, and how the model's answer to each is measured."""

import pathlib
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tunesmith.config.strict import Document, Section

Measure = Literal[
    "extract",
    "extractive",
    "generation",
    "likelihood",
    "rouge",
    "multiple_choice",
    "perplexity",
    "adversarial",
    "canary",
    "dialogue",
    "lm_eval",
]

HARNESS = "lm_eval:"
"""What a reference to a task of the lm-eval harness begins with, in an experiment's `tasks` and `suites`."""

PROMPTED = ("extract", "extractive", "generation", "likelihood", "rouge", "multiple_choice")
"""The measures of which an item is one prompt, so that examples and the chat template are a matter of choice."""

VALID_AUC = 0.75
"""From here on a measure counts as validated."""
UNVALIDATED = "_unvalidated"
"""What the name of a metric ends with whose measure does not."""


class Validity(Section):
    """How well measures tell true replies from those of other conversations, where that was found out.

    `benchmarks/dialogue_validity.py` does so and prints this part of a task's file.
    """

    scorer: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the model by whose likelihoods it was found; of another nothing is known."""
    auc: dict[str, Annotated[float, Field(ge=0, le=1)]]
    """By measure, the share of pairs of a true and a swapped reply in which the true one has the higher value."""


class Task(Document):
    """A file `NAME.yaml` in an experiment's `tasks_dir`."""

    measure: Measure
    """`extract` compares what `pattern` finds in the reply with the right answer; `extractive` compares the
    whole reply with it (exact match and token F1); `generation` compares the reply with the reference (ROUGE,
    BLEU, chrF); `likelihood` is the perplexity of the reference; `rouge` is ROUGE-L and that perplexity;
    `multiple_choice` ranks choices;
    `perplexity` scores plain text; `adversarial` says whether replies to hostile, strange or damaged messages
    do what their rows expect; `canary` looks for planted secrets; `dialogue` says how well the reply to each
    turn fits what was said, and what the handbook says, by the base model's likelihoods."""
    rows: str | None = None
    """The items: a file relative to this one, or any source of rows; the experiment's conversations when null."""
    answer: str | None = None
    """`extract` and `extractive`: the field that holds the right answer (of `extractive` perhaps a list of
    them); taken from the reference reply when null."""
    pattern: str = r"(.+)\s*$"
    """`extract` and `adversarial`: a regular expression whose first group is the model's answer."""
    max_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest reply that is generated, in tokens."""
    shots: Annotated[int, Field(ge=0, le=64)] = 0
    """Examples with their answers that every item is shown after, drawn from the rows dealt to train."""
    shots_seed: Annotated[int, Field(ge=0)] = 0
    """Decides which examples are drawn."""
    chat_template: bool | None = None
    """Whether prompts are written in the model's chat template; when null, conversations are and questions
    without `messages` are not."""
    knowledge: str | None = None
    """`adversarial` and `dialogue`: what replies may state, a file relative to this one: a YAML list of entries,
    or text in paragraphs."""
    passages: Annotated[int, Field(ge=1, le=20)] = 5
    """`dialogue`: how many passages of `knowledge` are retrieved as evidence."""
    validity: Validity | None = None
    """`dialogue`: how well its measures are known to work; without it their names end with `_unvalidated`."""
    alternatives: Annotated[int, Field(ge=1, le=1023)] = 31
    """`canary`: how many random secrets of the same form each planted one is ranked among."""

    @field_validator("pattern")
    @classmethod
    def _has_one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if groups != 1:
            raise ValueError("the pattern needs exactly one group (…)")
        return pattern

    @model_validator(mode="after")
    def _is_prompted(self) -> "Task":
        if self.measure not in PROMPTED and (self.shots or self.chat_template is not None):
            raise ValueError(f"shots and chat_template are for {', '.join(PROMPTED)}, not for {self.measure}")
        return self

    @model_validator(mode="after")
    def _is_written_here(self) -> "Task":
        if self.measure == "lm_eval" and type(self) is Task:
            raise ValueError("a task of lm-eval needs no file: write lm_eval:NAME in evaluation.tasks")
        return self

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    def metric(self, measure: str, scorer: str) -> str:
        """The name of a metric by a measure, which says so where that is not known to work with this scorer."""
        known = self.validity.auc.get(measure, 0.0) if self.validity and self.validity.scorer == scorer else 0.0
        return measure if known >= VALID_AUC else f"{measure}{UNVALIDATED}"

    def digest_tree(self) -> dict[str, Any]:
        """What decides the scores besides the rows: everything but the place of the file."""
        return {**self.tree(), "name": self.name}


class Part(Section):
    """One task of lm-eval: a reference names one, or all of a group's."""

    name: str
    """What the ids of its items begin with."""
    file: str
    """Path of its YAML file."""
    sha256: str
    """Of that file, what it includes, and the Python files that these name."""
    data: str | None = None
    """The data set it asks for."""


class HarnessTask(Task):
    """Tasks of the lm-eval harness itself, or a person's own file in its format: `lm_eval:...` in an experiment.

    Prompts, examples and metrics are as the files have them, without a chat template.
    """

    measure: Measure = "lm_eval"
    """Measured by lm-eval as the task's file says."""
    reference: str
    """As the experiment names it."""
    place: str
    """Where it does, for messages."""
    parts: tuple[Part, ...]
    """One, or those of a group."""

    @property
    def name(self) -> str:
        """Its name in metrics."""
        return task_name(self.reference)

    def digest_tree(self) -> dict[str, Any]:
        """Its content, wherever it lies."""
        parts = {part.name: part.sha256 for part in self.parts}
        return {"name": self.name, "measure": self.measure, "parts": parts}


def task_name(reference: str) -> str:
    """The name in metrics of a task in an experiment: of `lm_eval:NAME` and `lm_eval:FOLDER/NAME.yaml` it is `NAME`."""
    if not reference.startswith(HARNESS):
        return reference
    named = reference.removeprefix(HARNESS)
    return re.sub(r"[^A-Za-z0-9_-]", "_", pathlib.PurePath(named).stem if is_file(reference) else named)


def is_file(reference: str) -> bool:
    """Whether a reference to a task of lm-eval names a person's own file."""
    return reference.startswith(HARNESS) and reference.endswith((".yaml", ".yml"))
