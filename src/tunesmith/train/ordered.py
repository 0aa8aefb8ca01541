"""Trainers whose rows come in our order, each process of a team seeing its own."""

from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer

from tunesmith.train.order import EpochOrder
from tunesmith.train.team import team


class OwnRows(Trainer):
    """A trainer whose rows are this process's own already: accelerate is not to share them out once more."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """A loader of this process's rows, its last batch as it is and not filled up with rows seen before."""
        loader: DataLoader[Any] = super().get_train_dataloader()
        if self.accelerator.num_processes > 1:
            shard: Any = loader.batch_sampler
            shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
            loader._drop_last = True  # else TRL's means of an epoch's last pass are cut, as if rows came twice
        return loader


class OrderedRows(OwnRows):
    """A trainer that sees the rows of an epoch in the order that its seed and the epoch alone determine."""

    def row_lengths(self) -> list[int]:
        """The length in tokens of each training row."""
        raise NotImplementedError

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        own = team()
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * own.size
        return EpochOrder(self.row_lengths(), batch_size=size, seed=self.args.data_seed, team=own)
