"""Registered versions without a sweep: a real package of the tiny model, with holdout scores made to order."""

import pathlib

import pytest

from tunesmith import manifest
from tunesmith.config import Experiment, Policy
from tunesmith.config.experiment import AdapterConfig, ModelConfig
from tunesmith.records import Scores

EXPERIMENT, POLICY = "experiments/smoke.yaml", "registry/bot.yaml"
POLICY_TEXT = """
model: bot
gates:
  - {metric: holdout/intent/exact_match, rule: beats_champion}
  - {metric: package/bytes, rule: at_most, value: 50000000}
"""
COUNT = 60


def write_adapter(folder: pathlib.Path, *, seed: int) -> pathlib.Path:
    """An adapter of the tiny model that changes its logits."""
    import torch

    from tunesmith.models.device import place
    from tunesmith.models.loading import attach_fresh, load_base
    from tunesmith.models.references import resolve

    base = load_base(resolve("bundled:tiny-llama"), place(ModelConfig(base="bundled:tiny-llama")))
    model = attach_fresh(base, AdapterConfig(rank=4, alpha=8.0), seed=seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def scores(right: int, *, digest: str = "same") -> Scores:
    """Scores of a model that has the first `right` of the holdout's items right."""
    items = {f"i{n}": {"exact_match": float(n < right)} for n in range(COUNT)}
    metrics = {"holdout/intent/exact_match": right / COUNT}
    return Scores(metrics, {"intent": items}, {item: item for item in items}, digest)


def make_run(adapter: pathlib.Path, *, right: int, base: int = 10, kind: str = "confirmation", digest: str = "same"):
    """A finished run with an adapter and its holdout scores."""
    from tunesmith.models.references import resolve
    from tunesmith.registry import evidence
    from tunesmith.tracking import runs

    sha256 = manifest.sha256_file(adapter / "adapter_model.safetensors")
    tags = {"adapter_sha256": sha256, "base_sha256": resolve("bundled:tiny-llama").sha256}
    run = runs.create("bot", "candidate", kind=kind, tags=tags)
    run.artifact(adapter, "adapter")
    run.json(Experiment.from_yaml(EXPERIMENT).tree(), "experiment.json")
    evidence.save(run, candidate=scores(right, digest=digest), base=scores(base, digest=digest))
    run.metrics(dict(scores(right).metrics))
    run.finish("FINISHED")
    return run


def add_version(adapter: pathlib.Path, *, right: int, policy: str = POLICY, **options) -> str:
    """Register a version, as the end of a sweep does, and make it candidate; returns its number."""
    from tunesmith import promotion

    run = make_run(adapter, right=right, **options)
    found = scores(right, digest=options.get("digest", "same"))
    return promotion.register(Experiment.from_yaml(EXPERIMENT), Policy.from_yaml(policy), run.id, found)


def write_policy(project: pathlib.Path, text: str = POLICY_TEXT) -> str:
    (project / POLICY).write_text(text, encoding="utf-8")
    return POLICY


def register_three(project: pathlib.Path, adapters: list[pathlib.Path]) -> None:
    """Version 1 becomes champion; versions 2 and 3 are better; 2 is candidate."""
    from tunesmith import promotion
    from tunesmith.registry import aliases
    from tunesmith.tracking import store

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
        store.client.cache_clear()
        policy = Policy.from_yaml(write_policy(project))
        add_version(adapters[0], right=30)
        _, move = promotion.promote(policy, promotion.Request(reason="first"))
        assert move is not None
        for adapter in adapters[1:]:
            add_version(adapter, right=55)
        aliases.set_alias("bot", "candidate", "2")
        store.client.cache_clear()
