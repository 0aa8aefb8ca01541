"""A sweep that is resumed must be the same, or say what is not."""

import pytest
from tests.studies import make

from tunesmith.config import overrides
from tunesmith.errors import StudyError
from tunesmith.sweep import drift
from tunesmith.sweep import study as studies


def test_a_resumed_sweep_must_be_the_same_or_say_that_it_is_not(experiment, space):
    make(experiment, space)
    with pytest.raises(StudyError, match="changed since one began: data; undo that, start anew"):
        studies.load(experiment, space, prints={"data": "other"})
    drifted = studies.load(experiment, space, prints={"data": "other"}, allow_drift=True)
    assert drifted.study.user_attrs["drift"] == ["data"]
    studies.load(experiment, space, prints={"data": "other"})
    other = overrides.apply(experiment, {"name": "other"})
    with pytest.raises(StudyError, match="--resume: no sweep of other is recorded"):
        studies.load(other, space, prints={"data": "d"})


def resume(experiment, space, **options):
    prints = studies.fingerprint(experiment, space, data="d")
    return studies.load(experiment, space, prints=prints, **options)


def test_what_was_changed_is_named_by_key(experiment, space):
    studies.create(
        experiment, space, name="one", prints=studies.fingerprint(experiment, space, data="d"), parent_run="p"
    )
    changed = overrides.apply(experiment, {"model.max_length": 128, "method.epochs": 2})
    other = space.model_copy(update={"halving": None})
    with pytest.raises(StudyError) as caught:
        resume(changed, other)
    assert str(caught.value) == (
        "--resume: changed since one began: experiment, space, model (model.max_length was 256, is 128; "
        'method.epochs was 1, is 2; space.halving was {"reduction": 3, "first_rung": 0.2, "ru…, is null); '
        "undo that, start anew, or accept it with --allow-drift"
    )
    resume(changed, other, allow_drift=True)
    assert resume(changed, other).study.user_attrs["drift"] == ["experiment", "model", "space"]
    many = {"seed": 1, "data.train_rows": 9, "method.batch_size": 2, "adapter.rank": 2, "evaluation.batch_size": 1}
    with pytest.raises(StudyError, match=r"began: experiment \(seed was 5, is 1; .*; and 1 more\); undo"):
        resume(overrides.apply(changed, many), other)


def test_what_was_changed_is_named_by_word_where_no_more_is_known(experiment, space, monkeypatch):
    """A file so large that not every database takes it as an attribute; or a sweep that was begun before."""
    monkeypatch.setattr(drift, "MOST_CHARACTERS", 0)
    prints = studies.fingerprint(experiment, space, data="d")
    studies.create(experiment, space, name="one", prints=prints, parent_run="p")
    with pytest.raises(StudyError, match=r"began: experiment, model; undo that"):
        resume(overrides.apply(experiment, {"model.max_length": 128}), space)
    monkeypatch.setattr(drift, "remember", lambda *_: None)
    studies.create(experiment, space, name="two", prints=prints, parent_run="p")
    assert resume(experiment, space).study.study_name == "two"
    with pytest.raises(StudyError, match=r"began: experiment, model; undo that"):
        resume(overrides.apply(experiment, {"model.max_length": 128}), space)


def test_the_fingerprint_names_what_changed(experiment, space):
    before = studies.fingerprint(experiment, space, data="d")
    after = studies.fingerprint(overrides.apply(experiment, {"model.max_length": 128}), space, data="d")
    assert {key for key in before if before[key] != after[key]} == {"experiment", "model"}
