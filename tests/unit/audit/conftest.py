import pytest

from tunesmith.audit.material import load_material
from tunesmith.config import Experiment, overrides


@pytest.fixture(scope="module")
def demo(root):
    """The demo's own rows, as `audit experiments/support.yaml` reads them, compared by TF-IDF."""
    experiment = Experiment.from_yaml(root / "experiments/support.yaml")
    return load_material(overrides.apply(experiment, {"data.audit.meaning.embeddings": "tfidf"}))


@pytest.fixture(scope="module")
def few(demo):
    """Eighty of the demo's rows: six scenarios, every split among them."""
    rows = [
        n for n, row in enumerate(demo.rows) if row["policy"] in {"late-fee", "street-leak", "net-metering", "ev-plan"}
    ]
    return demo.keep([demo.rows[n] for n in rows], [demo.splits[n] for n in rows])
