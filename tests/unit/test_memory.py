"""What a training needs is said with sizes, and every shipped preset is configured as its trainer takes it."""

import re

import pytest
import torch
from peft import LoraConfig
from tests.conftest import ROOT
from transformers import BitsAndBytesConfig
from trl import SFTConfig

from tunesmith.config import Experiment, overrides
from tunesmith.errors import TrainingError
from tunesmith.models.device import Placement
from tunesmith.models.loading import lora_config
from tunesmith.models.nf4 import nf4
from tunesmith.train.arguments import arguments
from tunesmith.train.memory import out_of_memory_text
from tunesmith.train.run import out_of_memory_explained
from tunesmith.train.seq2seq import training_arguments

MEBIBYTES = re.compile(r"about (\d+) MiB")


def on_a_device():
    raise torch.OutOfMemoryError("no memory")


def on_this_machine():
    torch.empty(2**50)


@pytest.mark.parametrize("run_out", [on_a_device, on_this_machine])
def test_memory_that_runs_out_is_explained_with_sizes(tiny_model, run_out):
    smoke = Experiment.from_yaml(ROOT / "experiments/smoke.yaml")
    with pytest.raises(TrainingError) as caught, out_of_memory_explained(smoke, tiny_model):
        run_out()
    text = str(caught.value)
    needed, *remedies = map(int, MEBIBYTES.findall(text))
    assert len(remedies) == 3
    assert all(0 < remedy <= needed for remedy in remedies)
    assert remedies[0] < 0.6 * needed
    assert "\n" not in text
    assert "set method.micro_batch 2 (about" in text
    small = overrides.apply(smoke, {"micro_batch": 1, "gradient_checkpointing": True, "adapter.kind": "qlora"})
    assert out_of_memory_text(small, tiny_model).endswith("set a smaller model.max_length")


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/gpu/*.yaml")), ids=lambda path: path.stem)
def test_a_preset_builds_its_trainers_and_adapters_configuration(path, tiny_model, tmp_path):
    experiment = Experiment.from_yaml(path)
    assert experiment.model.device == "cuda"
    lora = lora_config(experiment.adapter)
    assert isinstance(lora, LoraConfig)
    assert (lora.r, lora.lora_alpha, lora.target_modules) == (16, 32, "all-linear")
    if "t5" in experiment.model.base:
        made = training_arguments(experiment, tiny_model, tmp_path)
    else:
        made = SFTConfig(**arguments(experiment, tiny_model, tmp_path))
    rows = made.per_device_train_batch_size * made.gradient_accumulation_steps
    assert rows == experiment.method.batch_size
    assert made.gradient_checkpointing == experiment.method.gradient_checkpointing
    if experiment.adapter.kind == "qlora":
        quantisation = nf4(Placement("cpu", torch.bfloat16, "sdpa", "as on a card"))
        assert isinstance(quantisation, BitsAndBytesConfig)
        assert (quantisation.bnb_4bit_quant_type, quantisation.bnb_4bit_use_double_quant) == ("nf4", True)
        assert quantisation.bnb_4bit_compute_dtype == torch.bfloat16


def test_other_errors_are_not_taken_for_a_lack_of_memory(tiny_model):
    smoke = Experiment.from_yaml(ROOT / "experiments/smoke.yaml")
    with pytest.raises(RuntimeError, match="size"), out_of_memory_explained(smoke, tiny_model):
        torch.ones(2) @ torch.ones(3)
