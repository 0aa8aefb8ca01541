"""A Llama's forward and backward pass over flat tokens, on the loaded model's own weights.

Only the gradients of the adapters are wanted, so the backward pass is written out: it keeps what they
need, frees each block's part as it goes, and stops where no adapter lies below.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from tunesmith.models.packed import COPIES, may_pack, onednn_pays
from tunesmith.models.prefix import at_least_float32
from tunesmith.train.slots import attention, linear, pieces
from tunesmith.train.slots.batch import Batch, Tokens
from tunesmith.train.slots.frozen import Frozen
from tunesmith.train.slots.index import Heads, Index, index_of
from tunesmith.train.slots.layout import MEMBERS
from tunesmith.train.slots.stack import Adapters

Groups = Mapping[tuple[int, str], Adapters]


@dataclass
class Block:
    """The frozen weights of one block."""

    norms: tuple[torch.Tensor, torch.Tensor]
    groups: dict[str, Frozen]


@dataclass
class Tape:
    """What one block keeps for its backward pass."""

    kept: dict[str, linear.Saved | None]
    inputs: tuple[torch.Tensor, torch.Tensor]
    inverses: tuple[torch.Tensor, torch.Tensor]
    attended: list[attention.Saved]
    gate: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines [nodes, 1, width] of a batch's positions, and its attention index."""

    cos: torch.Tensor
    sin: torch.Tensor
    index: Index


class Network:
    """The base as the engine runs it: on its own weights, or on copies laid out for oneDNN where those pay."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        first = model.model.layers[0].self_attn
        self.model = model
        self.epsilon = float(config.rms_norm_eps)
        self.heads = Heads(config.num_attention_heads, config.num_key_value_heads, first.head_dim)
        self.embedding = model.get_input_embeddings().weight
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        self.final_norm = model.model.norm.weight
        self.output = _frozen(model.get_output_embeddings())
        self.blocks = [_block(layer) for layer in model.model.layers]
        copies = COPIES * sum(group.bytes for group in self.frozen)
        self.onednn = onednn_pays(copies, self.device, self.dtype)
        self.prepack(may_pack(copies, self.device, self.dtype))
        exact = torch.promote_types(self.dtype, torch.float32)
        self.attention_dtype = exact if self.device.type == "cpu" else self.dtype

    @property
    def frozen(self) -> list[Frozen]:
        """All groups of frozen layers."""
        return [self.output, *(group for block in self.blocks for group in block.groups.values())]

    def prepack(self, pack: bool) -> None:
        """Multiply by copies of the weights that oneDNN has laid out, or by the weights themselves."""
        for group in self.frozen:
            group.pack = pack

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of each linear layer of the blocks, by name."""
        shapes = {}
        for layer, block in enumerate(self.blocks):
            for kind, members in MEMBERS.items():
                for suffix, weight in zip(members, block.groups[kind].weights, strict=True):
                    shapes[f"model.layers.{layer}.{suffix}"] = (weight.shape[0], weight.shape[1])
        return shapes

    @torch.no_grad()
    def losses(self, batch: Batch, groups: Groups) -> torch.Tensor:
        """Negative log-likelihoods [losses] of the batch's labels in nats, without gradients."""
        x, rotary = self._start(batch)
        with attention.onednn_products(pays=self.onednn):
            for layer in range(len(self.blocks)):
                x, _ = self._block_forward(layer, x, batch, rotary, groups)
        states = x.index_select(0, batch.states)
        losses, _ = pieces.head(self._final(states)[0], self.output, batch.labels, need_gradient=False)
        return losses

    @torch.no_grad()
    def train(self, batch: Batch, groups: Groups, slopes: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Write the gradients of an objective into the adapters' stack.

        `slopes` says how fast the objective rises with each of the negative log-likelihoods, both [losses].
        """
        x, rotary = self._start(batch)
        tapes = []
        with attention.onednn_products(pays=self.onednn):
            for layer in range(len(self.blocks)):
                x, tape = self._block_forward(layer, x, batch, rotary, groups)
                tapes.append(tape)
            states = x.index_select(0, batch.states)
            hidden, inverse = self._final(states)
            losses, gradient = pieces.head(hidden, self.output, batch.labels, need_gradient=True)
            gradient = pieces.norm_backward(gradient * slopes(losses)[:, None], states, self.final_norm, inverse)
            above = torch.zeros_like(x).index_add_(0, batch.states, gradient)
            lowest = min(layer for layer, _ in groups)
            for layer in range(len(self.blocks) - 1, lowest - 1, -1):
                walk = Walk(self.blocks[layer], layer, tapes.pop(), batch.tokens, groups)
                above = self._block_backward(walk, above, rotary, last=layer == lowest)

    def _start(self, batch: Batch) -> tuple[torch.Tensor, Rotary]:
        x = self.embedding.index_select(0, batch.ids)
        exact = at_least_float32(x[:1])
        cos, sin = self.model.model.rotary_emb(exact, batch.positions[None])
        index = index_of(batch.buckets, len(batch.ids), self.heads, self.attention_dtype)
        cos, sin = (part[0][:, None].to(self.attention_dtype) for part in (cos, sin))
        return x, Rotary(cos, sin, index)

    def _final(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return pieces.norm(states, self.final_norm, self.epsilon)

    def _block_forward(
        self, layer: int, x: torch.Tensor, batch: Batch, rotary: Rotary, groups: Groups
    ) -> tuple[torch.Tensor, Tape]:
        block, shape = self.blocks[layer], self.heads
        kept: dict[str, linear.Saved | None] = {}

        def run(kind: str, inputs: torch.Tensor) -> torch.Tensor:
            outputs, kept[kind] = linear.forward(block.groups[kind], groups.get((layer, kind)), inputs, batch.tokens)
            return outputs

        normed, first_inverse = pieces.norm(x, block.norms[0], self.epsilon)
        heads = run("qkv", normed).to(self.attention_dtype).view(len(x), shape.all, shape.width)
        turned = shape.query + shape.key_value
        heads[:, :turned] = pieces.rotate(heads[:, :turned], rotary.cos, rotary.sin)
        attended, saved = attention.forward(heads.view(-1, shape.width), rotary.index, shape)
        out = run("out", attended.view(len(x), -1).to(self.dtype))
        middle = out.add_(x)
        normed, second_inverse = pieces.norm(middle, block.norms[1], self.epsilon)
        gate, up = block.groups["up"].split(run("up", normed))
        out = run("down", pieces.gated(gate, up))
        tape = Tape(kept, (x, middle), (first_inverse, second_inverse), saved, gate, up)
        return out.add_(middle), tape

    def _block_backward(self, walk: "Walk", above: torch.Tensor, rotary: Rotary, *, last: bool) -> torch.Tensor:
        """Gradient of a block's input from that of its output; of the `last` block, its adapters' gradients only."""
        shape, tape, norms = self.heads, walk.tape, walk.block.norms
        below = walk.back("down", above)
        below = walk.back("up", pieces.gated_backward(below, tape.gate, tape.up))
        above = above + pieces.norm_backward(below, tape.inputs[1], norms[1], tape.inverses[1])
        heads = walk.back("out", above).view(-1, shape.width).to(self.attention_dtype)
        heads = attention.backward(heads, tape.attended, rotary.index, shape)
        turned = shape.query + shape.key_value
        heads[:, :turned] = pieces.rotate_backward(heads[:, :turned], rotary.cos, rotary.sin)
        gradient = heads.to(self.dtype).flatten(1)
        if last:
            walk.adapters("qkv", gradient)
            return above
        below = walk.back("qkv", gradient)
        return above.add_(pieces.norm_backward(below, tape.inputs[0], norms[0], tape.inverses[0]))


@dataclass(frozen=True)
class Walk:
    """A block on the way back."""

    block: Block
    layer: int
    tape: Tape
    tokens: Tokens
    groups: Groups

    def adapters(self, kind: str, gradient: torch.Tensor) -> torch.Tensor | None:
        """Write the gradients of a group's adapters, given that of its outputs."""
        adapters, saved = self.groups.get((self.layer, kind)), self.tape.kept.pop(kind)
        return linear.adapter_gradients(self.block.groups[kind], adapters, gradient, saved, self.tokens)

    def back(self, kind: str, gradient: torch.Tensor) -> torch.Tensor:
        """As `adapters`, and give the gradient of the group's input."""
        above = self.adapters(kind, gradient)
        adapters = self.groups.get((self.layer, kind))
        return linear.input_gradient(self.block.groups[kind], adapters, gradient, above, self.tokens)


def _block(layer: Any) -> Block:
    groups = {kind: _frozen(*(layer.get_submodule(m) for m in members)) for kind, members in MEMBERS.items()}
    return Block((layer.input_layernorm.weight, layer.post_attention_layernorm.weight), groups)


def _frozen(*modules: Any) -> Frozen:
    return Frozen([module.weight for module in modules], [getattr(module, "bias", None) for module in modules])
