"""Fixtures: the repository, a private copy of it to run in, a tiny model, a fresh tracking store."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
COPIED = ("MLproject", "python_env.yaml", "requirements-core.lock", "requirements.lock", "pyproject.toml")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a script starts in the background ignores it
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes share the cores; the tests' models are small


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; `--dist loadfile` keeps a file, and its fixtures, in one process."""
    folders = ("integration", "unit", "contract", "soak")

    def place(item: pytest.Item) -> tuple[int, bool, str]:
        file = item.path.relative_to(ROOT / "tests")
        return folders.index(file.parts[0]), "finished" not in getattr(item, "fixturenames", ()), str(file)

    items.sort(key=place)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    return ROOT


@pytest.fixture
def project(tmp_path: pathlib.Path, empty_store: pathlib.Path) -> pathlib.Path:
    return copy_project(tmp_path / "project", empty_store)


def copy_project(folder: pathlib.Path, empty_store: pathlib.Path) -> pathlib.Path:
    """A copy of the project, its sources linked, with an empty tracking store."""
    folder.mkdir()
    for name in COPIED:
        shutil.copy(ROOT / name, folder / name)
    for name in ("experiments", "search_spaces", "registry"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "src").symlink_to(ROOT / "src")
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An MLflow database whose tables exist: creating them takes longer than most tests."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    code = f"from mlflow import MlflowClient; MlflowClient('sqlite:///{path}').search_experiments()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=path.parent)
    return path


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Three adapters of the tiny model that differ."""
    from tests.versions import write_adapter

    folder = tmp_path_factory.mktemp("adapters")
    return [write_adapter(folder / str(seed), seed=seed) for seed in range(3)]


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory, empty_store: pathlib.Path, adapters) -> pathlib.Path:
    """A project with version 1 of `bot` as champion, version 2 (better) as candidate, and version 3 like it."""
    from tests.versions import register_three

    folder = copy_project(tmp_path_factory.mktemp("registered") / "project", empty_store)
    register_three(folder, adapters)
    return folder


@pytest.fixture
def registered_project(registered: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A project with a private copy of the registered one's database; the artifacts are shared."""
    from tests.versions import write_policy

    folder = copy_project(tmp_path / "project", registered / "mlflow.db")
    write_policy(folder)
    return folder


@pytest.fixture
def store(project: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """Work inside the project's copy, against its own tracking store."""
    from tunesmith.tracking import store as tracking_store

    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    tracking_store.client.cache_clear()
    yield project
    tracking_store.client.cache_clear()


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tunesmith(project: pathlib.Path) -> Command:
    """Run a command of the command line in the project's copy."""

    def run(*arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tunesmith", *arguments]
        done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, check=False)
        if check:
            assert done.returncode == 0, done.stderr[-3000:]
        return done

    return run


@pytest.fixture
def invoke(store: pathlib.Path) -> Callable[..., object]:
    """Run a command in this process, in the project's copy."""
    from click.testing import CliRunner

    from tunesmith.cli import main
    from tunesmith.data.dataset import load_rows

    def run(*arguments: str) -> object:
        load_rows.cache_clear()
        done = CliRunner().invoke(main, list(arguments))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return run


def environment(**more: str) -> dict[str, str]:
    """The environment of a subprocess: this interpreter first on PATH, nothing left of an outer run.

    It may keep bytecode: so many processes are started that compiling the sources in each would be felt.
    """
    dropped = {"MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE"}
    outer = {k: v for k, v in os.environ.items() if k not in dropped}
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{outer['PATH']}"
    return {**outer, "PATH": path, "PYTHONPATH": "src", **more}


@pytest.fixture(scope="session")
def tiny_path() -> pathlib.Path:
    from tunesmith.models.bundled import bundled_path

    return bundled_path("tiny-llama")


@pytest.fixture(scope="session")
def tokenizer(tiny_path: pathlib.Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_path)


@pytest.fixture
def tiny_model(tiny_path: pathlib.Path):
    """The tiny model in float64, in which differences of method show and rounding does not."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float64).eval()


@pytest.fixture
def tuned_model(tiny_model):
    """The tiny model with an adapter that has an effect."""
    import torch

    from tunesmith.config.experiment import AdapterConfig
    from tunesmith.models.loading import attach_fresh

    model = attach_fresh(tiny_model, AdapterConfig(rank=4, alpha=8.0), seed=1)
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model.double().eval()
