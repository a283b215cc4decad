"""Several processes that train one model, on one machine or many:

    torchrun --standalone --nproc_per_node=8 -m fmlib.train params.json
    torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 -m fmlib.train params.json

A step is the same whatever the number of processes: samples, crops and masks are drawn for the whole batch, and each
process works off its rows of it. So a run may be taken up with more or fewer processes than it was begun with.
"""

import os
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(minutes=10)  # longer than reading the data or a validation takes


class Ranks(NamedTuple):
    """This process among those that train together; the first of them writes the files."""

    rank: int = 0
    world: int = 1
    feed: dist.ProcessGroup | None = None  # a channel of its own for threads that prepare batches

    @property
    def first(self) -> bool:
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This process's rows of a batch of so many."""
        share = count // self.world
        return slice(self.rank * share, (self.rank + 1) * share)


ALONE = Ranks()


@contextmanager
def joined(device: torch.device):
    """Join the processes that `torchrun` started, if it did, and leave them at the end.

    Yields:
        `Ranks`, and the device of this process: with CUDA a card for each process of a machine.

    Raises:
        RuntimeError: another process stopped; its own message, above or in its own log, says why.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield ALONE, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    ranks = Ranks(dist.get_rank(), world, dist.new_group(backend="gloo", timeout=PATIENCE))
    try:
        yield ranks, device
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "nccl" in str(error).lower():
            raise RuntimeError(
                f"process {ranks.rank} of {world} stops, because another one did; start the same command again to go "
                "on from the last checkpoint"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def replicate(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model as each process runs it: gradients become the mean over processes.

    A sensor that is missing in all of a process's samples leaves parameters without gradients there: they are looked
    for.
    """
    if ranks.world == 1:
        return model
    return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)


def without_exchange(model: nn.Module, last: bool):
    """Gradients stay in this process until the last part of a batch."""
    return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()


def summed(x: Tensor, ranks: Ranks) -> Tensor:
    """The sum over processes."""
    if ranks.world > 1:
        dist.all_reduce(x)
    return x


def gathered(x: Tensor, ranks: Ranks) -> Tensor:
    """Rows (b, …) of this process, on the CPU → those of all (world · b, …), in order."""
    if ranks.world == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(ranks.world)]
    dist.all_gather(parts, x.contiguous(), group=ranks.feed)
    return torch.cat(parts)
