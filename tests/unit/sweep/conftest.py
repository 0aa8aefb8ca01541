import pytest

from tunesmith.config import Experiment, SearchSpace


@pytest.fixture
def experiment(root):
    return Experiment.from_yaml(root / "experiments/smoke.yaml")


@pytest.fixture
def space(root):
    return SearchSpace.from_yaml(root / "search_spaces/smoke.yaml")


@pytest.fixture(autouse=True)
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{tmp_path / 'study.db'}")
