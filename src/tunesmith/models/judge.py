"""A saved reward model as a judge of replies."""

import functools
import pathlib
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError
from tunesmith.models.device import Placement
from tunesmith.models.loading import attach_saved, load_base, load_tokenizer, read_config
from tunesmith.models.references import LocalModel, resolve
from tunesmith.models.reward import reward_all

KEY = "method.reward_model"


class Judge:
    """Gives replies rewards; a reply that was cut is judged as if it ended there."""

    __name__ = "reward_model"  # TRL logs a reward function by its name

    def __init__(self, network: PreTrainedModel, end: int, *, batch_size: int) -> None:
        self.network, self.end, self.batch_size = network, end, batch_size

    def rewards(self, prompts: Sequence[list[int]], replies: Sequence[Sequence[list[int]]]) -> list[list[float]]:
        """The rewards of each prompt's replies, all given as token ids."""
        whole = [[[*reply, self.end] if reply[-1:] != [self.end] else reply for reply in group] for group in replies]
        return reward_all(self.network, prompts, whole, batch_size=self.batch_size)


def find_reward_model(reference: str, folder: pathlib.Path) -> LocalModel:
    """The base and the adapter of a reward model: `runs:/RUN_ID`, or a folder relative to `folder`.

    Raises `ModelError` when there is none, or when it is no reward model.
    """
    if reference.startswith(("runs:/", "models:/")):
        found = resolve(reference)
    else:
        path = (folder / reference).expanduser().resolve()
        if not (path / "adapter_config.json").is_file():
            raise ModelError(f"{KEY}: {reference}: no adapter there; name runs:/RUN_ID of a reward run, or its adapter")
        base = resolve(read_config(path)["base_model_name_or_path"])
        found = LocalModel(base.reference, base.path, base.sha256, base.revision, path)
    if found.adapter is None or read_config(found.adapter).get("task_type") != "SEQ_CLS":
        raise ModelError(f"{KEY}: {reference}: is no reward model; train one with `tunesmith reward`")
    return found


@functools.lru_cache(maxsize=1)
def load_judge(found: LocalModel, placement: Placement, *, batch_size: int) -> Judge:
    """Load a reward model; the one loaded last is kept."""
    assert found.adapter is not None  # noqa: S101 - as `find_reward_model` gives it
    model = attach_saved(load_base(found, placement), found.adapter)
    return Judge(model.get_base_model(), load_tokenizer(found).eos_token_id, batch_size=batch_size)


def check_tokenizers(policy: PreTrainedTokenizerBase, found: LocalModel) -> None:
    """Raise `ModelError` unless a reward model reads tokens and turns as the policy writes them."""
    other = load_tokenizer(found)
    same_words = policy.get_vocab() == other.get_vocab() and policy.eos_token_id == other.eos_token_id
    if not same_words or policy.chat_template != other.chat_template:
        what = "chat template" if same_words else "tokenizer"
        raise ModelError(
            f"{KEY}: its {what} ({found.reference}) is not the policy's; train a reward model on the policy's base"
        )
