"""Under which licence a base model comes, as far as its files or its page on the hub say, and what that limits."""

import contextlib
from dataclasses import dataclass

import yaml

from tunesmith.models.references import LocalModel

BUNDLED = {
    "bundled:smollm2-135m-instruct": "apache-2.0",
    "bundled:gemma-3-270m": "gemma",
    "bundled:tiny-llama": "apache-2.0",
}
FREE = {"apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "unlicense"}
NO_COMMERCE = "no commercial use"
LLAMA = (
    "Llama community licence: acceptable use policy, `Built with Llama` must be shown, no use by services of more "
    "than 700 million monthly users without Meta's leave"
)
LIMITS = {
    "gemma": "Gemma Terms of Use: prohibited uses, which bind also what is tuned from it and whoever is given it",
    "llama2": LLAMA.replace("`Built with Llama` must be shown", "no use to improve other models"),
    **dict.fromkeys(("llama3", "llama3.1", "llama3.2", "llama3.3", "llama4"), LLAMA),
    **dict.fromkeys(("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"), NO_COMMERCE),
    "cc-by-nc-2.0": NO_COMMERCE,
    "cc-by-sa-4.0": "what is derived from it must be under the same licence",
}
UNKNOWN = "unknown"
HUB_SECONDS = 5.0


@dataclass(frozen=True)
class Licence:
    """A licence by its id on the hub; what it limits is told for well-known ones, and no substitute for its text."""

    name: str

    @property
    def limits(self) -> str:
        """What a user must know first; empty for free licences."""
        if self.name in FREE:
            return ""
        return LIMITS.get(self.name, "not known here: check the model's page")


def licence_of(model: LocalModel) -> Licence:
    """The licence in a model's README or on its hub page; `UNKNOWN` where neither is at hand."""
    if model.reference in BUNDLED:
        return Licence(BUNDLED[model.reference])
    return Licence(_from_readme(model) or _from_hub(model) or UNKNOWN)


def _from_readme(model: LocalModel) -> str:
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        _, front, _ = (model.path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        card = yaml.safe_load(front)
        if isinstance(card, dict):
            return named(card.get("license"), card.get("license_name"))
    return ""


def _from_hub(model: LocalModel) -> str:
    """What the hub says. The card is not downloaded beside the weights: it would change their digest."""
    import httpx2  # what the hub's client speaks with
    from huggingface_hub import HfApi

    if model.revision is None:
        return ""
    with contextlib.suppress(OSError, ValueError, httpx2.HTTPError):
        card = HfApi().model_info(model.reference, timeout=HUB_SECONDS).card_data
        return named(getattr(card, "license", None), getattr(card, "license_name", None)) if card else ""
    return ""


def named(licence: object, name: object) -> str:
    """The id of a licence in a model card, whose own name stands elsewhere when the id is `other`."""
    found = licence[0] if isinstance(licence, list) and licence else licence
    chosen = name if found == "other" and name else found
    return str(chosen).lower() if chosen else ""
