"""What a candidate's files say: architecture, size, context window, licence, tokens of the data, memory to tune it."""

import statistics
from collections.abc import Sequence

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from tunesmith.config.experiment import Experiment
from tunesmith.models.licences import licence_of
from tunesmith.models.references import LocalModel
from tunesmith.records import Row
from tunesmith.shortlist.entry import Facts
from tunesmith.train.encode import encode_rows, render
from tunesmith.train.memory import estimate_memory
from tunesmith.train.plan import count_parameters

KINDS = ("lora", "qlora", "full")
WINDOWS = ("max_position_embeddings", "n_positions", "max_seq_len")


def facts_of(model: LocalModel, experiment: Experiment, rows: Sequence[Row]) -> Facts:
    """Facts about a model and how its tokenizer reads `rows`; loads no weights."""
    config = AutoConfig.from_pretrained(model.path)
    tokenizer = AutoTokenizer.from_pretrained(model.path, trust_remote_code=False)
    both = bool(config.is_encoder_decoder)
    weights = (encoder_decoder_size(config), 0) if both else count_parameters(model, experiment.adapter)
    texts = [message["content"] for row in rows for message in row["messages"]]
    tokens = sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    trained = not both and tokenizer.chat_template
    return Facts(
        parameters=weights[0],
        kind=str(config.model_type),
        encoder_decoder=both,
        context=context_window(config),
        tokens=percentiles([row_tokens(row, tokenizer) for row in rows]),
        per_word=tokens / sum(len(text.split()) for text in texts),
        per_byte=tokens / sum(len(text.encode()) for text in texts),
        licence=licence_of(model),
        memory_mb=memory(experiment, config, tokenizer, rows, weights) if trained else {},
    )


def encoder_decoder_size(config: PretrainedConfig) -> int:
    """Number of weights, counted without allocating them."""
    with torch.device("meta"):
        return int(AutoModelForSeq2SeqLM.from_config(config).num_parameters())


def context_window(config: PretrainedConfig) -> int | None:
    """The most tokens a model was made for; None where its configuration names no such number."""
    text = config.get_text_config()
    found = [value for name in WINDOWS if isinstance(value := getattr(text, name, None), int)]
    return found[0] if found else None


def row_tokens(row: Row, tokenizer: PreTrainedTokenizerBase) -> int:
    """Length of a row in its chat template, or of its texts where there is none."""
    plain = "\n".join(message["content"] for message in row["messages"])
    text = render(row["messages"], tokenizer) if tokenizer.chat_template else plain
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def percentiles(lengths: Sequence[int]) -> tuple[int, int, int]:
    """The 50th, 95th and 99th percentile."""
    if len(lengths) < 2:
        return (lengths[0],) * 3
    cuts = statistics.quantiles(lengths, n=100, method="inclusive")
    return round(cuts[49]), round(cuts[94]), round(cuts[98])


def memory(
    experiment: Experiment,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    weights: tuple[int, int],
) -> dict[str, float]:
    """Estimated peak MiB of training with each kind of adapter, by `estimate_memory`, batch and rank as configured."""
    encoded = encode_rows(rows, tokenizer, max_length=experiment.model.max_length)
    row = (max(len(row.input_ids) for row in encoded), max(row.supervised for row in encoded))
    found = {}
    for kind in KINDS:
        adapter = experiment.adapter.model_copy(update={"kind": kind})
        trainable = weights[0] if kind == "full" else weights[1]
        changed = experiment.model_copy(update={"adapter": adapter})
        text = config.get_text_config()
        found[kind] = estimate_memory(changed, text, weights=(weights[0], trainable), row=row) / 2**20
    return found
