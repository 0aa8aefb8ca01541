"""The shortlist at the command line: the runs and the page, candidates that cannot be scored, bad input."""

import json
import pathlib
import shutil

import pytest
from mlflow import MlflowClient

SMOKE = "experiments/smoke.yaml"
SANITY = ("--set", "data.sanity=smoke/sanity.jsonl", "--set", "shortlist.shots=2")
TINY = "bundled:tiny-llama"


@pytest.fixture
def sanity(project):
    """Ten questions that the smoke data does not hold."""
    rows = [json.loads(line) for line in (project / "experiments/smoke/conversations.jsonl").open(encoding="utf-8")]
    plain = [{**row, "id": f"sanity-{row['id']}", "group": f"sanity-{row['group']}"} for row in rows[::8]]
    path = project / "experiments/smoke/sanity.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in plain), encoding="utf-8")
    return plain


@pytest.fixture
def untemplated(project, tiny_path):
    """The tiny model without a chat template."""
    folder = project / "untemplated"
    shutil.copytree(tiny_path, folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "README.md").write_text("---\nlicense: gemma\n---\n")
    return folder


@pytest.fixture
def both_ways(project, tiny_path):
    """A tiny encoder–decoder model."""
    from transformers import T5Config, T5ForConditionalGeneration

    folder = project / "both-ways"
    shutil.copytree(tiny_path, folder, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
    sizes = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(vocab_size=300, **sizes)).save_pretrained(folder)
    return folder


def runs_of_kind(project, kind):
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client, client.search_runs(experiments, f"tags.`tunesmith.kind` = '{kind}'")


def test_a_shortlist_scores_what_it_can_and_says_what_it_cannot(project, invoke, sanity, untemplated, both_ways):
    named = f"{untemplated},{both_ways}"
    done = invoke("shortlist", SMOKE, *SANITY, "--models", named, "--html", "page.html", "--json")
    assert done.exit_code == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["recommended"] == TINY
    assert (value["items"], value["shots"]) == (len(sanity), 2)
    tiny, mute, t5 = (value["candidates"][name] for name in (TINY, str(untemplated), str(both_ways)))
    for setting in ("zero_shot", "few_shot"):
        low, mean, high = (tiny[f"{setting}/reference/bits_per_byte{end}"] for end in ("/low", "", "/high"))
        assert low < mean < high
        assert mean == pytest.approx(8, abs=0.1)  # a random model over 256 bytes
        assert tiny[f"{setting}/intent/exact_match/high"] > 0
    assert tiny["data/tokens_per_byte"] == 1.0
    assert tiny["memory/lora_mb"] < tiny["memory/full_mb"]
    assert tiny["speed/training"] < tiny["speed/forward"]
    assert mute["notes"] == ["its tokenizer has no chat template; use an instruct model"]
    assert (mute["licence"], mute["model/parameters"]) == ("gemma", tiny["model/parameters"])
    assert t5["encoder_decoder"]
    assert "encoder–decoder" in t5["notes"][0]
    assert "few_shot/reference/bits_per_byte" not in t5

    client, (run,) = runs_of_kind(project, "shortlist")
    assert run.info.run_id == value["run_id"]
    assert run.data.tags["tunesmith.recommended"] == TINY
    shots = json.loads(pathlib.Path(client.download_artifacts(run.info.run_id, "shots.json", str(project))).read_text())
    assert len(set(shots)) == 2
    _, children = runs_of_kind(project, "candidate")
    assert {child.data.params["model.base"] for child in children} == {TINY, str(untemplated), str(both_ways)}
    scored = next(child for child in children if child.data.params["model.base"] == TINY)
    assert scored.data.metrics["few_shot/reference/bits_per_byte"] == tiny["few_shot/reference/bits_per_byte"]
    page = (project / "page.html").read_text(encoding="utf-8")
    assert all(f">{name}<" in page for name in (TINY, str(untemplated)))
    assert "Gemma Terms of Use" in page
    assert "<script" not in page


def test_a_candidate_that_is_not_at_hand_is_named_before_anything_runs(project, invoke, sanity):
    before = (project / "mlflow.db").read_bytes()
    done = invoke("shortlist", SMOKE, *SANITY, "--models", "someone/some-model,bundled:smolm")
    assert done.exit_code == 2
    assert "--models: someone/some-model: not in the local cache and the hub cannot be reached" in done.stderr
    assert "bundled:smolm: no such model" in done.stderr
    assert (project / "mlflow.db").read_bytes() == before


def test_a_shortlist_needs_a_sanity_set(invoke):
    done = invoke("shortlist", SMOKE)
    assert done.exit_code == 2
    assert "data.sanity: names no file; a shortlist needs 50 to 100 plain questions" in done.stderr


def test_prompts_beyond_the_window_are_not_scored(project, invoke, sanity, tiny_path):
    folder = project / "narrow"
    shutil.copytree(tiny_path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 150}))
    done = invoke("shortlist", SMOKE, *SANITY, "--set", f"model.base={folder}", "--no-log", "--json")
    assert done.exit_code == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["recommended"] is None
    found = value["candidates"][str(folder)]
    assert "zero_shot/reference/bits_per_byte" in found
    assert "few-shot is not scored: up to" in found["notes"][0]
