"""What the measures' lm-eval configurations are made of."""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from transformers import PreTrainedTokenizerBase

from tunesmith.config.task import Task
from tunesmith.records import Row

Config = dict[str, Any]
Doc = dict[str, Any]
Render = Callable[[Sequence[dict[str, str]]], str]
"""Messages as the prompt for the assistant's next turn."""


class Requests(ConfigurableTask):
    """An lm-eval task that asks as many things about an item as its document lists.

    The document's `requests` are arguments of `generate_until` (a prompt) or of `loglikelihood` (a context and its
    continuation); results come in the order in which they stand there.
    """

    def construct_requests(self, doc: Doc, ctx: str, **kwargs: Any) -> list[Instance]:
        """One lm-eval request for each of the document's."""
        place = kwargs["metadata"]
        return [
            Instance(request_type=self.OUTPUT_TYPE, doc=doc, arguments=self._arguments(request), idx=n, metadata=place)
            for n, request in enumerate(doc["requests"])
        ]

    def _arguments(self, request: str | list[str]) -> tuple[Any, ...]:
        if self.OUTPUT_TYPE == "generate_until":
            return request, dict(self.config.generation_kwargs)
        return tuple(request)


def renderer(tokenizer: PreTrainedTokenizerBase) -> Render:
    """Messages by the tokenizer's chat template, up to where the assistant begins."""
    return lambda messages: str(
        tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    )


def generation_settings(task: Task) -> dict[str, Any]:
    """Greedy replies; equal settings let tasks share the replies to equal prompts."""
    return {"until": [], "do_sample": False, "max_gen_toks": task.max_tokens}


def replies(task: Task, make_doc: Callable[[Row, Render], Doc]) -> Config:
    """Several replies an item: `make_doc` gives the prompts as `requests`."""
    return {
        "task_class": Requests,
        "make_doc": make_doc,
        "output_type": "generate_until",
        "doc_to_text": lambda doc: "",
        "doc_to_target": lambda doc: "",
        "generation_kwargs": generation_settings(task),
    }


def metrics(*names: str, better: bool = True) -> list[Config]:
    """Metrics averaged over the items that have them."""
    return [{"metric": name, "aggregation": "mean", "higher_is_better": better} for name in names]
