"""A shortlist's parts: which candidate is recommended, intervals, licences, windows, percentiles, likelihoods."""

import pytest
import torch

from tunesmith.models.licences import UNKNOWN, Licence, licence_of, named
from tunesmith.models.references import LocalModel
from tunesmith.shortlist.choice import Limits, recommend, unfit
from tunesmith.shortlist.entry import BITS, FEW_SHOT, Entry, Facts
from tunesmith.shortlist.facts import context_window, percentiles
from tunesmith.shortlist.scoring import estimate

ITEMS = 60
GROUPS = {str(n): str(n) for n in range(ITEMS)}
LIMITS = Limits(memory_mb=1000.0, adapter="lora")
METRIC = "intent/exact_match"


def candidate(name, *, right=0, bits=1.0, parameters=100, **facts):
    values = {str(n): float(n < right) for n in range(ITEMS)}
    likely = {item: bits + 0.01 * (int(item) % 3) for item in values}
    known = {
        "parameters": parameters,
        "kind": "llama",
        "encoder_decoder": False,
        "context": 1024,
        "tokens": (50, 80, 90),
        "per_word": 1.3,
        "per_byte": 0.25,
        "licence": Licence("mit"),
        "memory_mb": {"lora": 500.0},
    }
    scores = {FEW_SHOT: {METRIC: estimate(values, GROUPS), BITS: estimate(likely, GROUPS)}}
    return Entry(name, Facts(**known | facts), scores)


def choose(*entries):
    return recommend(entries, LIMITS, primary=METRIC, groups=GROUPS)


def test_the_best_few_shot_score_wins_where_it_is_beyond_doubt():
    choice = choose(candidate("small", right=6, parameters=10), candidate("big", right=40))
    assert (choice.reference, choice.metric) == ("big", METRIC)
    assert choice.reason == "best few-shot intent/exact_match (0.667) of 2 candidates that fit"


def test_a_smaller_model_wins_where_the_difference_is_not_beyond_doubt():
    choice = choose(candidate("big", right=22, parameters=200), candidate("small", right=20, parameters=50))
    assert choice.reference == "small"
    assert "0.333 against 0.367 of big, a difference that is not beyond doubt" in choice.reason
    assert "with 25% of its weights" in choice.reason


def test_a_rival_that_finds_the_references_likelier_is_named():
    choice = choose(candidate("big", bits=0.9), candidate("small", right=20, bits=1.2, parameters=50))
    assert choice.reference == "small"
    assert choice.reason.endswith("likelier under big, though: 0.910 bits a byte against 1.210")
    assert "though" not in choose(candidate("big"), candidate("small", right=20, parameters=50)).reason


def test_where_nobody_answers_right_the_likelihood_decides():
    choice = choose(candidate("small", bits=1.4, parameters=10), candidate("big", bits=0.9))
    assert (choice.reference, choice.metric) == ("big", BITS)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"memory_mb": {"lora": 2000.0}}, "needs about 2000 MiB to tune, 1000 are there"),
        ({"context": 64}, "1% of the rows have 90 tokens or more, its window is 64"),
    ],
)
def test_what_does_not_fit_is_not_recommended(changed, why):
    best = candidate("best", right=60, **changed)
    assert unfit(best, LIMITS) == why
    assert choose(candidate("fits", right=6), best).reference == "fits"
    none = choose(best)
    assert none.reference is None
    assert why in none.reason


def test_a_candidate_that_was_not_scored_is_not_recommended():
    choice = choose(Entry("broken", notes=("its tokenizer has no chat template",)), candidate("fits"))
    assert choice.reference == "fits"
    assert "the only candidate" in choice.reason


def test_a_licence_with_limits_is_named_with_the_recommendation():
    choice = choose(candidate("gemma", right=9, licence=Licence("gemma")))
    assert "mind its licence: Gemma Terms of Use" in choice.reason
    assert Licence("apache-2.0").limits == ""
    assert "700 million" in Licence("llama3.1").limits
    assert Licence("seldom").limits == "not known here: check the model's page"


def test_an_interval_of_wrong_answers_alone_has_a_width():
    none = estimate(dict.fromkeys(GROUPS, 0.0), GROUPS)
    assert (none.mean, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.0602, abs=1e-4)  # z² / (n + z²)
    real = estimate({item: int(item) / 100 for item in GROUPS}, GROUPS)
    assert real.mean == pytest.approx(0.295)
    assert real.low < real.mean < real.high


@pytest.mark.parametrize(
    ("front", "name"),
    [
        ("---\nlicense: Apache-2.0\n---\n# Card", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama4\n---\n", "llama4"),
        ("# No front matter", UNKNOWN),
        ("---\nlicense: [broken\n---\n", UNKNOWN),
    ],
)
def test_a_licence_is_read_from_the_card(tmp_path, front, name):
    (tmp_path / "README.md").write_text(front)
    assert licence_of(LocalModel("./model", tmp_path, sha256="")).name == name
    assert named(["mit"], None) == "mit"


def test_context_windows_and_percentiles():
    from transformers import LlamaConfig, T5Config

    assert context_window(LlamaConfig(max_position_embeddings=77)) == 77
    assert context_window(T5Config()) in {None, 512}
    assert percentiles(range(1, 102)) == (51, 96, 100)
    assert percentiles([7]) == (7, 7, 7)


def test_rows_by_themselves_score_as_shared_ones_do_and_as_the_network_says(tiny_model):
    from tunesmith.models.prefix import continuation_logprobs, plain_logprobs

    contexts, continuations = [[1, 2, 3, 4], [5, 6]], [[[7, 8], [9]], [[10, 11, 12]]]
    plain = plain_logprobs(tiny_model, contexts, continuations)
    shared = continuation_logprobs(tiny_model, contexts, continuations)
    for ours, theirs in zip(plain, shared, strict=True):
        assert [pair[1] for pair in ours] == [pair[1] for pair in theirs]
        assert [pair[0] for pair in ours] == pytest.approx([pair[0] for pair in theirs], abs=1e-9)


def test_a_model_with_sliding_windows_is_scored_as_the_network_says():
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    from tunesmith.models.prefix import can_share, plain_logprobs

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma3TextConfig(
        vocab_size=64, sliding_window=4, layer_types=["sliding_attention", "full_attention"], **sizes, **heads
    )
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(config).double().eval()
    assert not can_share(model)
    context, reply = list(range(3, 20)), [30, 31, 32]
    ((found, _),), _ = plain_logprobs(model, [context, [9, 8]], [[reply], [[1]]])
    with torch.inference_mode():
        logprobs = model(torch.tensor([context + reply])).logits[0, len(context) - 1 : -1].log_softmax(-1)
    assert found == pytest.approx(float(logprobs.gather(1, torch.tensor(reply)[:, None]).sum()), abs=1e-9)
