import pytest

from tunesmith.config import Experiment, SearchSpace
from tunesmith.config.space import Halving


@pytest.fixture
def experiment(root):
    return Experiment.from_yaml(root / "experiments/smoke.yaml")


@pytest.fixture
def space(root):
    """Two rungs and the end, so that a trial pauses twice."""
    return SearchSpace.from_yaml(root / "search_spaces/smoke.yaml").model_copy(update={"halving": Halving(rungs=2)})


@pytest.fixture(autouse=True)
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{tmp_path / 'study.db'}")
