"""Model references, bundled models and where they run."""

import json
import pathlib
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tunesmith.config.experiment import AdapterConfig, ModelConfig
from tunesmith.errors import DeviceError, ModelError
from tunesmith.models import bundled, device, loading, measurements
from tunesmith.models.references import resolve


def test_a_bundled_model_is_built_once_verified_and_rebuilt_when_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    path = bundled.bundled_path("tiny-llama")
    weights = path / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert bundled.bundled_path("tiny-llama") == path
    assert weights.stat().st_mtime_ns == written
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    bundled._verified.cache_clear()
    with pytest.warns(UserWarning, match="was changed since the folder was written; building it again"):
        bundled.bundled_path("tiny-llama")
    assert weights.read_bytes() == sound


def test_of_those_who_need_a_bundled_model_at_once_one_builds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    built = []

    def build(folder: pathlib.Path) -> None:
        built.append(folder)
        time.sleep(0.2)
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setitem(bundled.BUILDERS, "tiny-llama", build)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(bundled.bundled_path, ["tiny-llama"] * 4))
    assert paths == [tmp_path / "models" / "tiny-llama"] * 4
    assert len(built) == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("bundled:smolm", "no such model; bundled are gemma-3-270m, smollm2-135m-instruct, tiny-llama, tiny-t5"),
        ("./nowhere", "./nowhere: no such folder"),
        ("someone/some-model", "not in the local cache and the hub cannot be reached"),
        ("not a model id", "neither a folder here nor a hub id"),
        ("models:/none@champion", "model.base: models:/none@champion: "),
    ],
)
def test_what_cannot_be_resolved_is_refused_with_a_remedy(store, reference, message):
    with pytest.raises(ModelError) as caught:
        resolve(reference)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_safetensors_are_loaded(tiny_path, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_path, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors weights; other formats can run code"):
        resolve(str(folder))


def test_equal_adapters_are_saved_as_equal_files(tiny_path, tmp_path):
    """PEFT would write its targets in the order of a set, which is another one in every process."""
    base = loading.load_base(resolve("bundled:tiny-llama"), device.place(ModelConfig(base="bundled:tiny-llama")))
    model = loading.attach_fresh(base, AdapterConfig(), seed=1)
    loading.save(model, tmp_path)
    targets = loading.read_config(tmp_path)["target_modules"]
    assert len(targets) == 14
    assert targets == sorted(targets)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}


def test_a_changed_weight_changes_the_digest(tiny_path, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_path, folder)
    same = resolve(str(folder)).sha256
    assert same == resolve(str(tiny_path)).sha256
    other = pathlib.Path(shutil.copytree(folder, tmp_path / "other"))
    with (other / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert resolve(str(other)).sha256 != same


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_cuda_asked_for_and_absent():
    with pytest.raises(DeviceError, match="cuda is asked for but no CUDA device is there; use auto or cpu"):
        device.place(ModelConfig(base="x", device="cuda"))
    with pytest.raises(DeviceError, match="flash_attention_2 needs CUDA"):
        device.place(ModelConfig(base="x", attention="flash_attention_2"))


def test_precision_follows_the_processor(monkeypatch):
    monkeypatch.setattr(device, "cpu_gains_by_bfloat16", lambda: True)
    for name, dtype in (("avx512_bf16", torch.bfloat16), ("avx2", torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=name: {name: True})
        assert device.place(ModelConfig(base="x", device="cpu")).dtype == dtype
    assert device.place(ModelConfig(base="x", device="cpu", dtype="bfloat16")).dtype == torch.bfloat16


@pytest.mark.skipif(not device.cpu_computes_bfloat16(), reason="measured only where the CPU computes bfloat16")
def test_the_gain_by_bfloat16_is_measured_once_per_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    device.bfloat16_speedup.cache_clear()
    measured = device.bfloat16_speedup()
    assert 0.05 < measured < 20
    assert device.cpu_gains_by_bfloat16() == (measured > 1)
    kept = json.loads((tmp_path / "bfloat16.json").read_text())
    assert list(kept.values()) == [measured]
    for other in (0.5, 2.0):
        (tmp_path / "bfloat16.json").write_text(json.dumps(dict.fromkeys(kept, other)))
        assert device.cpu_gains_by_bfloat16() == (other > 1)


def test_who_comes_while_something_is_measured_waits_and_takes_the_same_value(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    begun, values = [], iter(range(4))

    def measure():
        begun.append(time.monotonic())
        time.sleep(0.2)
        return next(values)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: measurements.measured_once("speed.json", "here", measure), range(4)))
    assert (found, len(begun)) == ([0] * 4, 1)


def test_plain_conversations_end_each_reply_with_the_end_mark(tokenizer):
    from tunesmith.models.packaged import PLAIN_TEMPLATE

    turns = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]
    messages = [{"role": role, "content": content} for role, content in turns]
    options = {"chat_template": PLAIN_TEMPLATE, "tokenize": False, "bos_token": "<s>", "eos_token": "</s>"}
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)
    assert whole == "<s>Be kind.\nUser:\nHi\nAssistant:\nHello</s>\nUser:\nBye\nAssistant:\n"
    prompt = tokenizer.apply_chat_template(messages[:2], add_generation_prompt=True, **options)
    assert whole.startswith(prompt)  # the loss mask needs it


def test_pieces_of_a_model_are_joined_in_order_and_another_file_is_refused(tmp_path, monkeypatch):
    from tunesmith.models import packaged

    package = tmp_path / "pieces_of_a_model"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, content in (("part00", b"GGUF"), ("part01", b"data")):
        (package / name).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    pieces = tuple(packaged.File("pieces==1", f"pieces_of_a_model/{name}") for name in ("part00", "part01"))
    model = packaged.Packaged(pieces, sha256="0" * 64)
    assert packaged.assemble(model, tmp_path).read_bytes() == b"GGUFdata"
    with pytest.raises(ModelError, match="is not the file that pieces==1, pieces==1 is known to carry"):
        packaged.build(model, tmp_path / "target")
