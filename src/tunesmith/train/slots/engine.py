"""The slots engine: adapters join, take optimiser steps together, and leave."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tunesmith import manifest
from tunesmith.errors import TrainingError
from tunesmith.models.loading import attach_fresh, detach, save
from tunesmith.train import checkpoint as checkpoints
from tunesmith.train.checkpoint import Checkpoint
from tunesmith.train.encode import Labelled
from tunesmith.train.pairs import labelled
from tunesmith.train.reference import Asked
from tunesmith.train.slots.batch import build
from tunesmith.train.slots.coverage import covers_adapter, covers_model, targeted
from tunesmith.train.slots.layout import layout_of
from tunesmith.train.slots.network import Network
from tunesmith.train.slots.objective import Tally
from tunesmith.train.slots.passes import Key, Limits, plan_passes
from tunesmith.train.slots.slot import Plan, Slot, StepResult
from tunesmith.train.slots.stack import Stack

DEFAULT_LIMITS = Limits(fuse=1024, most=4096)


class Engine:
    """K adapters on one frozen base, trained side by side, each as if alone.

    `base` is the loaded model without adapters; its weights are shared, never changed. Between calls it
    may be used like any model, also with an adapter attached (`attached`).
    """

    def __init__(self, base: PreTrainedModel, limits: Limits = DEFAULT_LIMITS) -> None:
        reason = covers_model(base)
        if reason:
            raise TrainingError(f"the slots engine does not cover this base: {reason}")
        self.base, self.limits = base, limits
        self.network = Network(base)
        self.slots: dict[Key, Slot] = {}
        self.exact = torch.promote_types(self.network.dtype, torch.float32)

    def join(self, key: Key, plan: Plan, checkpoint: Checkpoint | None = None) -> Slot:
        """Add a slot: its weights drawn as PEFT draws them from the plan's seed, its parent's, or a checkpoint's.

        Raises `TrainingError` for an adapter that the engine does not cover or a checkpoint of another plan,
        `ModelError` for a parent that the plan's adapter does not fit.
        """
        reason = covers_adapter(self.base, plan.adapter)
        if reason or key in self.slots:
            raise TrainingError(reason or f"slot {key} has joined already")
        slot = self._slot(plan)
        if checkpoint is None:
            self._begin(slot)
        else:
            slot.restore(checkpoint)
        self.slots[key] = slot
        return slot

    def _slot(self, plan: Plan) -> Slot:
        layout = layout_of(self.network.shapes, targeted(self.base, plan.adapter.targets), plan.adapter.rank)
        return Slot(plan, layout, torch.zeros(layout.size, dtype=self.exact, device=self.network.device))

    def _begin(self, slot: Slot) -> None:
        """Give a slot the weights that its training begins with."""
        with self._peft(slot.plan, parent=slot.plan.parent) as model:
            drawn = peft_weights(model)
        for name, own in slot.layout.named(slot.weights.data).items():
            own.copy_(drawn.pop(name))
        assert not drawn  # noqa: S101 - coverage has checked that PEFT adapts just these layers

    def ask(self, plan: Plan, asked: Sequence[Asked]) -> list[float]:
        """Summed log-probability in nats of each reply under the policy that a plan begins with."""
        slot = self._slot(plan)
        self._begin(slot)
        stack, found = Stack([slot.member], self.network.dtype), []
        for part in plan_passes({0: [labelled(*one) for one in asked]}, self.limits):
            losses = self.network.losses(build([part[0]], device=self.network.device), stack.groups)
            found += [-float(own.sum()) for own in torch.split(losses, [row.supervised for row in part[0]])]
        return found

    def leave(self, key: Key) -> None:
        """Remove a slot; the others go on as before."""
        del self.slots[key]

    def step(self, keys: Sequence[Key] | None = None) -> dict[Key, StepResult]:
        """One optimiser step of each of `keys`, of every slot by default."""
        chosen = list(self.slots) if keys is None else list(keys)
        rows = {key: self.slots[key].next_rows() for key in chosen}
        tally = Tally({key: self.slots[key].plan.objective for key in rows}, rows)
        for part in self._passes(rows):
            stack, batch = self._stack(list(part)), build(list(part.values()), device=self.network.device)
            self.network.train(batch, stack.groups, partial(tally.add, part, batch.loss_spans))
            stack.collect()
        return {key: self.slots[key].update(means, rows[key]) for key, means in tally.means().items()}

    def forget_gradients(self) -> None:
        """Drop what a step that was broken off has summed up."""
        for slot in self.slots.values():
            slot.gradient.zero_()

    def measure(self, keys: Sequence[Key], rows: Sequence[Labelled]) -> dict[Key, dict[str, float]]:
        """The figures of each slot's yardstick over the same rows, its loss among them; as the methods measure them."""
        own = dict.fromkeys(keys, sorted(rows, key=lambda row: len(row.input_ids)))
        tally = Tally({key: self.slots[key].plan.judge for key in own}, own)
        for part in self._passes(own):
            stack, batch = self._stack(list(part)), build(list(part.values()), device=self.network.device)
            tally.add(part, batch.loss_spans, self.network.losses(batch, stack.groups))
        return tally.means()

    def _passes(self, rows: Mapping[Key, Sequence[Labelled]]) -> list[dict[Key, list[Labelled]]]:
        """Passes within the limits, of slots with the same targets."""
        kinds: dict[tuple[str, ...], dict[Key, Sequence[Labelled]]] = {}
        for key, own in rows.items():
            kinds.setdefault(tuple(self.slots[key].layout.names), {})[key] = own
        return [part for group in kinds.values() for part in plan_passes(group, self.limits)]

    def _stack(self, keys: Sequence[Key]) -> Stack:
        return Stack([self.slots[key].member for key in keys], self.network.dtype)

    def save(self, key: Key, folder: pathlib.Path, *, keep: int = 2) -> pathlib.Path:
        """Write a checkpoint of a slot below `folder`; see `train.checkpoint.save`."""
        return checkpoints.save(folder, self.slots[key].checkpoint(), keep=keep)

    def export(self, key: Key, folder: pathlib.Path) -> None:
        """Write a slot's adapter as PEFT does, with a manifest, in place of what `folder` holds."""
        with self.attached(key) as model, manifest.writing(folder) as aside:
            save(model, aside)

    @contextlib.contextmanager
    def attached(self, key: Key) -> Iterator[PeftModel]:
        """The base with a slot's adapter attached through PEFT, for scoring; bare again afterwards."""
        slot = self.slots[key]
        with self._peft(slot.plan) as model:
            theirs = peft_weights(model)
            for name, own in slot.layout.named(slot.weights.data).items():
                theirs[name].copy_(own)
            yield model

    @contextlib.contextmanager
    def _peft(self, plan: Plan, parent: pathlib.Path | None = None) -> Iterator[PeftModel]:
        with torch.random.fork_rng(devices=[self.network.device] if self.network.device.type == "cuda" else []):
            model = attach_fresh(self.base, plan.adapter, seed=plan.seed, parent=parent)
        try:
            yield model.eval()
        finally:
            detach(model)


def peft_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's matrices in a PEFT model, by the names that `Layout.named` uses."""
    weights = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            plain = name.removeprefix("base_model.model.").replace(".default.weight", ".weight")
            weights[plain] = parameter.data
    return weights
