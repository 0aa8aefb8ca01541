"""Damaged packages are refused where they would be promoted and where they would be served, the file named."""

import importlib.machinery
import importlib.util
import marshal
import pathlib
import shutil

import pytest
from tests.tampering import CASES, SOUND
from tests.versions import write_policy

from tunesmith.errors import TunesmithError


@pytest.fixture(scope="module")
def world(tmp_path_factory, registered):
    """Where the candidate's model lies, and a function that asks for its promotion."""
    from tests.conftest import copy_project

    from tunesmith import promotion
    from tunesmith.config import Policy
    from tunesmith.registry import versions
    from tunesmith.tracking import store as tracking_store

    folder = copy_project(tmp_path_factory.mktemp("tampering") / "project", registered / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        tracking_store.client.cache_clear()
        policy = Policy.from_yaml(write_policy(folder))
        yield versions.fetch(versions.get("bot", "2")), lambda: promotion.promote(policy, promotion.Request())
        tracking_store.client.cache_clear()


@pytest.fixture
def package(world, tmp_path):
    """The registered package, put back after the test."""
    package = world[0] / "artifacts/package"
    shutil.copytree(package, tmp_path / "kept")
    yield package
    shutil.rmtree(package)
    shutil.copytree(tmp_path / "kept", package)


def serve(model: pathlib.Path) -> None:
    """Load a logged model as `mlflow models serve` does."""
    import yaml
    from mlflow.pyfunc import PythonModelContext

    from tunesmith.registry.chat_model import ChatModel

    config = yaml.safe_load((model / "MLmodel").read_text())["flavors"]["python_function"]["config"]
    context = PythonModelContext(artifacts={"package": str(model / "artifacts/package")}, model_config=config)
    ChatModel().load_context(context)


def test_there_are_enough_cases():
    assert len(CASES) >= 40


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_package_is_neither_promoted_nor_served(world, package, case):
    name, damage = CASES[case]
    damage(package)
    model, promote = world
    with pytest.raises(TunesmithError) as refusal:
        promote()
    assert str(refusal.value).startswith(f"bot version 2: {name}: "), refusal.value
    with pytest.raises(TunesmithError) as refusal:
        serve(model)
    assert str(refusal.value).startswith(f"{name}: "), refusal.value


@pytest.mark.parametrize("case", [case for case in CASES if case not in SOUND])
def test_a_damaged_package_is_not_registered(package, case):
    """Whoever writes the manifest may have written it after the damage."""
    from tunesmith.registry import against_base
    from tunesmith.registry.verify import verify_package

    _, damage = CASES[case]
    damage(package)
    with pytest.raises(TunesmithError):  # noqa: PT012 - both are one check, the second needs the base
        verify_package(package)
        against_base.load(package)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("MLmodel", lambda path: path.write_text(path.read_text() + "\n")),
        ("code/tunesmith/registry/chat_model.py", lambda path: path.write_text("import os\n")),
        ("code/tunesmith/evil.py", lambda path: path.write_text("import os\n")),
        ("requirements.txt", lambda path: path.unlink()),
    ],
)
def test_code_beside_a_package_that_was_changed_is_not_promoted(world, package, name, change):
    model, promote = world
    path = model / name
    kept = path.read_bytes() if path.exists() else None
    change(path)
    try:
        with pytest.raises(TunesmithError) as refusal:
            promote()
        assert str(refusal.value).startswith(f"bot version 2: {name}: ")
    finally:
        path.unlink(missing_ok=True)
        if kept is not None:
            path.write_bytes(kept)


def test_bytecode_beside_the_verified_code_is_discarded(world, package):
    """Python would run it in place of the source that was verified."""
    from tunesmith.registry import versions

    source = world[0] / "code/tunesmith/registry/chat_model.py"
    planted = pathlib.Path(importlib.util.cache_from_source(str(source)))
    planted.parent.mkdir(exist_ok=True)
    evil = compile("raise SystemExit('planted')", str(source), "exec")
    unchecked = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
    planted.write_bytes(unchecked + marshal.dumps(evil))
    assert runs_planted(source)
    versions.verify(versions.get("bot", "2"))
    assert not planted.parent.exists()
    assert not runs_planted(source)


def runs_planted(source: pathlib.Path) -> bool:
    """Whether Python, which looks for bytecode first, would run the planted code on an import of this file."""
    code = importlib.machinery.SourceFileLoader("chat_model", str(source)).get_code("chat_model")
    return "planted" in code.co_consts


def test_an_untouched_package_is_served_and_promoted(world, package):
    model, promote = world
    serve(model)
    verdict, move = promote()
    assert verdict.decision == "pass"
    assert move.version == "2"
