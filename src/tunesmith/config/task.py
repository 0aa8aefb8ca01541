"""An evaluation task in a few lines: which rows, and how the model's answer to each is measured."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tunesmith.config.strict import Document

Measure = Literal[
    "extract", "rouge", "multiple_choice", "perplexity", "adversarial", "canary", "dialogue", "factuality"
]


class Task(Document):
    """A file `NAME.yaml` in an experiment's `tasks_dir`."""

    measure: Measure
    """`extract` compares what `pattern` finds in the reply with `answer`; `rouge` compares the reply
    with the reference (ROUGE-L) and scores the reference's perplexity; `multiple_choice` ranks choices;
    `perplexity` scores plain text; `adversarial` says whether replies to hostile, strange or damaged messages
    do what their rows expect; `canary` looks for planted secrets; `dialogue` asks the base how well replies fit
    their conversations; `factuality` looks for what replies state in `knowledge`."""
    rows: str | None = None
    """The items: a file relative to this one, or any source of rows; the experiment's conversations when null."""
    answer: str = "intent"
    """`extract`: the field that holds the right answer."""
    pattern: str = r"(.+)\s*$"
    """`extract` and `adversarial`: a regular expression whose first group is the model's answer."""
    max_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest reply that is generated, in tokens."""
    knowledge: str | None = None
    """`factuality` and `adversarial`: what replies may state, a file relative to this one: a YAML list of entries,
    or text in paragraphs."""
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
    def _has_knowledge(self) -> "Task":
        if self.measure == "factuality" and self.knowledge is None:
            raise ValueError("measure factuality needs the key knowledge: the file that replies are held against")
        return self

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    def digest_tree(self) -> dict[str, Any]:
        """What decides the scores besides the rows: everything but the place of the file."""
        return {**self.tree(), "name": self.name}
