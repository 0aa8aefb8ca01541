"""Continuations scored as a tree: what runs, and that the values are those of plain forward passes."""

import pytest

from tunesmith.models import tree
from tunesmith.models.decoding import greedy
from tunesmith.models.prefix import plain_logprobs
from tunesmith.models.tree import passes, takes_trees, tree_logprobs

TRUNK = list(range(3, 3 + tree.TRUNK_GROWTH))
DEEP = [*TRUNK, *TRUNK]
CONTEXTS = [[*TRUNK, 7, 8, 9], [5], [*TRUNK, 7, 9], [*DEEP, 4], [5, 6, 7], [*DEEP, 5], [*TRUNK[:9], 50]]
CONTINUATIONS = [[[9, 8, 7], [9, 8], [6]], [[6, 7, 8]], [[1]], [[2, 3], [2, 4, 5, 6]], [[8], [9]], [[13]], [[11, 12]]]


@pytest.mark.parametrize(("kernel", "tolerance"), [("sdpa", 1e-9), ("eager", 1e-6)])  # eager: softmax in float32
@pytest.mark.parametrize(("batch_size", "nodes"), [(1, 512), (2, 512), (16, 512), (16, 12)])
def test_a_tree_gives_what_plain_passes_give(tiny_model, monkeypatch, kernel, tolerance, batch_size, nodes):
    tiny_model.set_attn_implementation(kernel)
    monkeypatch.setattr(tree, "PASS_NODES", nodes)
    monkeypatch.setattr(tree, "HEAD_ROWS", 3)
    found = tree_logprobs(tiny_model, CONTEXTS, CONTINUATIONS, batch_size=batch_size)
    expected = plain_logprobs(tiny_model, CONTEXTS, CONTINUATIONS)
    for values, plain in zip(found, expected, strict=True):
        assert [value for value, _ in values] == pytest.approx([value for value, _ in plain], abs=tolerance)
        assert [hit for _, hit in values] == [hit for _, hit in plain]


def test_greedy_replies_are_told_from_others(tiny_model):
    reply = greedy(tiny_model, [CONTEXTS[0]], limit=4, ends=set())[0]
    other = [*reply[:-1], (reply[-1] + 1) % 50]
    ((found, wrong),) = tree_logprobs(tiny_model, CONTEXTS[:1], [[reply, other]], batch_size=1)
    assert (found[1], wrong[1]) == (True, False)


def test_what_texts_share_runs_once(tiny_model):
    """Every distinct beginning is one position of the network, and one row of the output layer if it predicts."""
    ran, predicted = [], []
    tiny_model.get_input_embeddings().register_forward_hook(lambda _, ids, __: ran.append(ids[0].numel()))
    tiny_model.get_output_embeddings().register_forward_hook(lambda _, rows, __: predicted.append(len(rows[0])))
    texts = list(zip(CONTEXTS, CONTINUATIONS, strict=True))[:-1]  # the last's tokens are too few to be kept
    tree_logprobs(tiny_model, *zip(*texts, strict=True), batch_size=2)
    pairs = [(context, reply) for context, group in texts for reply in group]
    read = {tuple([*context, *reply][:end]) for context, reply in pairs for end in range(1, len(context) + len(reply))}
    asked = {(*context, *reply[:end]) for context, reply in pairs for end in range(len(reply))}
    assert sum(ran) == len(read)
    assert sum(predicted) == len(asked)


def test_a_pass_is_bounded_beside_its_trunk():
    contexts = [[*range(2000), n, *range(40)] for n in range(30)]
    assert [len(part) for part in passes(contexts, [[[1, 2], [3, 4]]] * 30, batch_size=16)] == [11, 11, 8]
    assert passes(contexts, [[[1]]] * 30, batch_size=1) == [[n] for n in range(30)]


def test_a_model_with_windows_or_another_kernel_takes_no_tree(tiny_model):
    assert takes_trees(tiny_model)
    tiny_model.config._attn_implementation = "flash_attention_2"
    assert not takes_trees(tiny_model)
    tiny_model.config._attn_implementation = "sdpa"
    tiny_model.config.layer_types = ["sliding_attention"] * tiny_model.config.num_hidden_layers
    assert not takes_trees(tiny_model)
