"""Which rows a run used, by our own digest: MLflow's ignores nested chat columns."""

import json

from mlflow.entities import Dataset, DatasetInput, InputTag

from tunesmith.records import Split
from tunesmith.tracking import store
from tunesmith.tracking.runs import Run

DIGEST_LENGTH = 36  # the most that MLflow keeps


def log_dataset(run: Run, split: Split, *, context: str, source: str = "") -> None:
    """Log a split as an input of a run."""
    dataset = Dataset(
        name=split.name,
        digest=split.digest[:DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"num_rows": len(split.rows)}),
    )
    tags = [InputTag("mlflow.data.context", context)]
    store.client().log_inputs(run.id, [DatasetInput(dataset, tags)])
