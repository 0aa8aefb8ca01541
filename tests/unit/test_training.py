"""Encoding, the loss and what the curves tell."""

import pytest
import torch

from tunesmith.errors import DataError, TrainingError
from tunesmith.models.prefix import shared_length
from tunesmith.train.curves import marks, overfitting_step
from tunesmith.train.encode import IGNORED, encode_row, encode_rows, mask_preview, supervised_share
from tunesmith.train.loss import collate, mean_loss, shared_prompt, supervised_nll
from tunesmith.train.recorder import check_finite

SYSTEM = {"role": "system", "content": "You are the desk of a utility."}


def row(*texts: str, system: bool = True):
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"id": "r", "group": "g", "messages": [SYSTEM, *turns] if system else turns}


ROWS = [
    row("When is it due?", "In 21 days.\nRoute: billing"),
    row("Who are you?", "The desk.", "And the fee?", "It is $8.\nRoute: billing"),
    row("hm", "Pardon?"),
]


def test_only_the_assistants_turns_and_their_ends_are_supervised(tokenizer):
    encoded = encode_row(ROWS[1], tokenizer, max_length=512)
    supervised = tokenizer.decode([label for label in encoded.labels if label != IGNORED])
    assert supervised == "The desk.<|end|>It is $8.\nRoute: billing<|end|>"
    assert len(encoded.labels) == len(encoded.input_ids)
    assert mask_preview(ROWS[0], tokenizer).endswith("<|assistant|>⟦In 21 days.\nRoute: billing<|end|>⟧")


def test_rows_are_cut_at_the_end_and_counted(tokenizer):
    whole = encode_row(ROWS[0], tokenizer, max_length=512)
    cut = encode_row(ROWS[0], tokenizer, max_length=len(whole.input_ids) - 5)
    assert cut.truncated
    assert not whole.truncated
    assert cut.input_ids == whole.input_ids[:-5]
    assert 0 < supervised_share([cut]) < supervised_share([whole]) < 1


def test_a_row_without_a_supervised_token_is_refused(tokenizer):
    with pytest.raises(DataError, match=r"row r: no token of its reply fits into model.max_length 20"):
        encode_rows([ROWS[0]], tokenizer, max_length=20)


def plain_nll(model, batch):
    """The loss as transformers computes it, over all positions, without sharing."""
    ids, mask, labels = batch
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="sum")


def test_the_lean_loss_equals_the_plain_one_gradients_included(tuned_model, tokenizer):
    batch = collate(encode_rows(ROWS, tokenizer, max_length=512), pad=tokenizer.pad_token_id)
    base = tuned_model.get_base_model()
    weights = [weight for weight in tuned_model.parameters() if weight.requires_grad]
    assert shared_prompt(base, batch[0], batch[2]) > 30  # the system prompt
    lean, count = supervised_nll(base, *batch)
    plain = plain_nll(base, batch)
    assert count == int((batch[2][:, 1:] != IGNORED).sum())
    assert lean.item() == pytest.approx(plain.item(), rel=1e-12)
    for ours, theirs in zip(torch.autograd.grad(lean, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)  # norms compute in float32


def test_the_mean_loss_weighs_tokens_not_batches(tuned_model, tokenizer):
    rows = encode_rows(ROWS, tokenizer, max_length=512)
    base, pad = tuned_model.get_base_model(), tokenizer.pad_token_id
    batches = [mean_loss(base, rows, pad=pad, batch_size=size) for size in (1, 2, 3)]
    assert batches == pytest.approx([batches[0]] * 3, rel=1e-12)
    nll, count = supervised_nll(base, *collate(rows, pad=pad))
    assert batches[0] == pytest.approx(nll.item() / count, rel=1e-12)


def test_a_label_is_never_part_of_the_shared_prompt(tuned_model, tokenizer):
    same = encode_rows([ROWS[0], ROWS[0]], tokenizer, max_length=512)
    ids, _, labels = collate(same, pad=0)
    shared = shared_prompt(tuned_model.get_base_model(), ids, labels)
    assert (labels[:, : shared + 1] == IGNORED).all() or labels[0, shared] != IGNORED
    assert labels[0, shared] != IGNORED or shared == ids.shape[1]


@pytest.mark.parametrize(
    ("rows", "length"), [([[1] * 20, [1] * 19 + [2]], 19), ([[1] * 5, [1] * 5], 0), ([[1] * 20], 0)]
)
def test_the_shared_length(rows, length):
    assert shared_length(torch.tensor(rows)) == length


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_a_training(loss):
    with pytest.raises(TrainingError, match=r"at step 7; lower method\.learning_rate"):
        check_finite(loss, step=7)


FALLING = [(step, 3.0 - 0.1 * step) for step in range(1, 21)]


def test_tune_loss_that_rises_while_train_loss_falls_is_overfitting():
    assert overfitting_step(FALLING, [(5, 2.0), (10, 1.5), (15, 1.6), (20, 1.8)]) == 10
    assert overfitting_step(FALLING, [(5, 2.0), (10, 1.5), (15, 1.4), (20, 1.41)]) is None
    assert overfitting_step([(s, 1.0 + 0.1 * s) for s in range(1, 21)], [(5, 2.0), (10, 1.5), (20, 1.8)]) is None
    assert overfitting_step(FALLING, [(20, 1.0)]) is None


def test_marks_round_up_and_always_hold_the_end():
    assert marks(10, (0.2, 0.6, 1.0)) == {2: 0.2, 6: 0.6, 10: 1.0}
    assert marks(3, (0.2, 0.6)) == {1: 0.2, 2: 0.6, 3: 1.0}
    assert marks(1, (0.2, 1.0)) == {1: 1.0}
