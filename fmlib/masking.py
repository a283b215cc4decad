"""Masking strategies: which patches of which sensor the encoder sees.

Convention, here and in every loss: **mask is 0 where a patch is kept and 1 where it is removed**.

Every strategy answers two questions: in which order would patches be kept (`rank`), and how many of them (`num_keep`).
Everything else follows from these two and is done once, in `_masks_from_ranks`.

Shapes: B batch, L tokens of one sensor, K kept slots, R removed slots.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STRATEGIES = ("independent", "consistent", "disjoint", "dirichlet", "sensor")
Grid = tuple[int, int]


@dataclass
class SensorMask:
    """The mask of one sensor in a batch.

    Samples may keep different numbers of patches; the slots of a sample beyond its own number are padding.

    Args:
        ids_keep: (B, K) patch numbers that the encoder sees.
        ids_remove: (B, R) patch numbers that the decoder predicts.
        ids_restore: (B, L) puts [kept, removed] tokens back into image order.
        mask: (B, L) float, 0 keep, 1 remove.
        pad_keep: (B, K) True where a slot of `ids_keep` is padding; None if there is no padding.
        pad_remove: (B, R) the same for `ids_remove`.
        present: (B,) False where the sample lacks this sensor; None if every sample has it.
        share: of the removed patches of a larger batch, where this is a part of one; the loss counts so much.
    """

    ids_keep: Tensor
    ids_remove: Tensor
    ids_restore: Tensor
    mask: Tensor
    pad_keep: Tensor | None = None
    pad_remove: Tensor | None = None
    present: Tensor | None = None
    share: float | Tensor = 1.0

    def to(self, device: torch.device | str) -> "SensorMask":
        """The same mask on another device."""
        return self._each(lambda x: x.to(device))

    def __getitem__(self, rows) -> "SensorMask":
        """The masks of some samples of the batch."""
        return self._each(lambda x: x[rows])

    def part(self, rows) -> "SensorMask":
        """The same as a part of the batch: the losses of all its parts sum up to that of the whole."""
        part, all_targets = self[rows], self.num_targets()
        part.share = self.share * part.num_targets() / (all_targets + (all_targets == 0))
        return part

    def num_targets(self) -> int | Tensor:
        """How many removed patches can be compared with something; a tensor if it had to be counted, on its device."""
        if self.pad_remove is None and self.present is None:
            return self.ids_remove.numel()
        counts = torch.ones_like(self.ids_remove, dtype=torch.bool)
        if self.pad_remove is not None:
            counts &= ~self.pad_remove
        return (counts if self.present is None else counts & self.present.bool()[:, None]).sum()

    def _each(self, change) -> "SensorMask":
        fields = vars(self) | {"share": None}
        return SensorMask(**{k: None if v is None else change(v) for k, v in fields.items()} | {"share": self.share})


Masks = dict[str, SensorMask]


def draw_masks(
    grids: dict[str, Grid],
    batch_size: int,
    strategy: str = "independent",
    mask_ratio: float = 0.75,
    *,
    generator: torch.Generator,
    block_size: int = 1,
    alpha: float = 1.0,
    sensor_drop: float = 0.0,
    present: dict[str, Tensor] | None = None,
) -> Masks:
    """Draw one batch of masks.

    Args:
        grids: rows and columns of patches of each sensor, e.g. ``{"s1": (15, 15), "s2": (15, 15)}``.
        strategy: relation between the sensors' masks.
            ``independent``: a permutation a sensor. ``consistent``: the same patches in every sensor.
            ``disjoint``: a patch kept in one sensor is removed in the others while there are patches enough.
            ``dirichlet``: one budget of kept patches over all sensors, its split drawn from Dirichlet(alpha) for
            each sample (MultiMAE, arXiv 2204.01678). ``sensor``: one sensor, drawn for each sample, is removed whole.
        mask_ratio: share of patches removed, 0 to 1; over all sensors together for ``dirichlet``.
        generator: source of all randomness; a CPU generator.
        block_size: side in patches of the squares that are removed together; 1 removes single patches.
        alpha: concentration of the Dirichlet; small values favour one sensor.
        sensor_drop: probability that one sensor, drawn at random, is removed whole (any strategy).
        present: (B,) bool for each sensor, False where a sample lacks it; absent sensors keep nothing.

    Returns:
        One `SensorMask` a sensor; each sample keeps at least one patch in at least one sensor.

    Raises:
        ValueError: unknown strategy, ratio outside 0..1, unequal grids where equal ones are needed, or a sample
            without any sensor.
    """
    _check(grids, strategy, mask_ratio)
    lengths = [rows * cols for rows, cols in grids.values()]
    here = _presence(list(grids), batch_size, present)  # (M, B) bool
    num_keep = torch.tensor([_count(n, mask_ratio) for n in lengths])[:, None].repeat(1, batch_size)  # (M, B)
    ranks = _ranks(grids, batch_size, strategy, int(num_keep[0, 0]), block_size, generator)
    if strategy == "dirichlet":
        num_keep = _dirichlet_split(lengths, here, mask_ratio, alpha, generator)
    if strategy == "sensor" or sensor_drop > 0:
        num_keep[drawn_sensor(here, 1.0 if strategy == "sensor" else sensor_drop, generator)] = 0
    num_keep = _at_least_one(num_keep * here, here, generator)
    return {
        name: _masks_from_ranks(ranks[m], num_keep[m], None if bool(here[m].all()) else here[m])
        for m, name in enumerate(grids)
    }


def masks_from_arrays(masks: dict[str, Tensor]) -> Masks:
    """Masks that a person has drawn.

    Args:
        masks: (B, L) or (B, rows, cols) for each sensor, 0 keep, 1 remove.

    Returns:
        One `SensorMask` a sensor.
    """
    flat = {name: mask.flatten(1).round().long() for name, mask in masks.items()}
    return {
        name: _masks_from_ranks(_inverse(mask.argsort(dim=1, stable=True)), (1 - mask).sum(1), None)
        for name, mask in flat.items()
    }


def keep_all(grids: dict[str, Grid], batch_size: int, present: dict[str, Tensor] | None = None) -> Masks:
    """Masks that remove nothing, for encoding whole images; absent sensors (`present` False) keep nothing."""
    here = _presence(list(grids), batch_size, present)
    lengths = {name: rows * cols for name, (rows, cols) in grids.items()}
    return {
        name: _masks_from_ranks(
            torch.arange(n).repeat(batch_size, 1), n * here[m], None if bool(here[m].all()) else here[m]
        )
        for m, (name, n) in enumerate(lengths.items())
    }


def examples(grids: dict[str, Grid], mask_ratio: float = 0.75, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """One mask of each strategy, and one of removed blocks, for pictures: {strategy: {sensor: (rows, cols)}}."""
    looks = {strategy: {"strategy": strategy} for strategy in STRATEGIES} | {"blocks": {"block_size": 3}}
    pictures = {}
    for look, options in looks.items():
        masks = draw_masks(grids, 1, mask_ratio=mask_ratio, generator=torch.Generator().manual_seed(seed), **options)
        pictures[look] = {name: mask.mask[0].unflatten(0, grids[name]) for name, mask in masks.items()}
    return pictures


# -- parts ------------------------------------------------------------------------------------------------------


def _check(grids, strategy, mask_ratio):
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown masking strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    if not 0 <= mask_ratio <= 1:
        raise ValueError(f"mask_ratio is {mask_ratio}, but must lie in 0..1 (the share of patches removed)")
    if strategy in ("consistent", "disjoint") and len(set(grids.values())) > 1:
        raise ValueError(
            f"{strategy} masks need the same grid of patches in every sensor, got {grids}; choose patch sizes that "
            "cover the same ground, or another strategy"
        )


def _presence(names, batch_size, present) -> Tensor:
    """(M, B) bool: does the sample have the sensor?"""
    every = torch.ones(batch_size, dtype=torch.bool)
    here = torch.stack([every if present is None else present.get(n, every).cpu() for n in names])
    if not here.any(0).all():
        empty = (~here.any(0)).nonzero().flatten().tolist()
        raise ValueError(f"samples {empty} of the batch have none of the sensors {names}; leave them out")
    return here


def _count(length: int, mask_ratio: float) -> int:
    return round(length * (1 - mask_ratio))


def _ranks(grids, batch_size: int, strategy: str, num_keep: int, block_size: int, generator) -> list[Tensor]:
    """Each sensor's patches ranked in the order in which they are kept, M × (B, L)."""
    noise = [_noise(grid, batch_size, block_size, generator) for grid in grids.values()]
    if strategy in ("consistent", "disjoint"):
        noise = [noise[0]] * len(noise)
    ranks = [_inverse(n.argsort(dim=1)) for n in noise]
    if strategy == "disjoint":  # each sensor goes on where the one before it stopped keeping
        ranks = [(rank - m * num_keep) % rank.shape[1] for m, rank in enumerate(ranks)]
    return ranks


def _noise(grid: Grid, batch_size: int, block_size: int, generator) -> Tensor:
    """(B, L) uniform noise; patches of one block share theirs, so that they are kept or removed together."""
    if block_size == 1:
        return torch.rand(batch_size, grid[0] * grid[1], generator=generator)
    rows, cols = (torch.arange(n) for n in grid)
    across = -(-grid[1] // block_size) + 1
    start = torch.randint(block_size, (2, batch_size, 1, 1), generator=generator)  # the lattice starts anywhere
    block = (rows[:, None] + start[0]) // block_size * across + (cols[None] + start[1]) // block_size  # (B, rows, cols)
    draws = torch.rand(batch_size, int(block.max()) + 1, generator=generator)
    within = torch.rand(batch_size, grid[0] * grid[1], generator=generator)  # breaks ties, so that the ratio is exact
    return draws.gather(1, block.flatten(1)) + 1e-6 * within


def _dirichlet_split(lengths, here, mask_ratio, alpha, generator) -> Tensor:
    """(M, B) numbers of kept patches that sum to one budget, none above the sensor's length."""
    rng = np.random.default_rng(torch.randint(2**62, (1,), generator=generator).item())
    shares = rng.gamma(alpha, size=tuple(here.shape)) * here.numpy() + 1e-12 * here.numpy()
    limit = np.array(lengths)[:, None] * here.numpy()
    budget = np.minimum(_count(sum(lengths), mask_ratio), limit.sum(0))
    upto = np.round(np.cumsum(shares / shares.sum(0), 0) * budget)  # rounding the running sum spends all of it
    keep = np.minimum(np.diff(upto, axis=0, prepend=0), limit)
    while (left := budget - keep.sum(0)).any():  # what a full sensor leaves over goes where there is room
        room = (limit - keep) > 0
        order = np.where(room, shares, -1).argmax(0), np.arange(keep.shape[1])
        keep[order] += np.minimum(left, (limit - keep)[order])
    return torch.from_numpy(keep).long()


def drawn_sensor(here: Tensor, probability: float, generator) -> Tensor:
    """(M, B) True at one present sensor of each drawn sample that has another one left."""
    draws = torch.rand(here.shape, generator=generator).masked_fill(~here, -1)
    chosen = torch.zeros_like(here).scatter(0, draws.argmax(0, keepdim=True), True)
    hit = torch.rand(here.shape[1], generator=generator) < probability
    return chosen & hit & (here.sum(0) > 1)


def _at_least_one(num_keep: Tensor, here: Tensor, generator) -> Tensor:
    """Let a random present sensor keep one patch in samples that would show nothing."""
    draws = torch.rand(here.shape, generator=generator).masked_fill(~here, -1)
    lucky = torch.zeros_like(num_keep).scatter(0, draws.argmax(0, keepdim=True), 1)
    return torch.where(num_keep.sum(0) == 0, lucky, num_keep)


def _inverse(order: Tensor) -> Tensor:
    """The inverse of each row's permutation (B, L), without sorting anew."""
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def _masks_from_ranks(rank: Tensor, num_keep: Tensor, present: Tensor | None) -> SensorMask:
    """Build ids and mask from each patch's rank (B, L) and the number kept in each sample (B,)."""
    most, fewest = int(num_keep.max()), int(num_keep.min())
    ids_shuffle = _inverse(rank)  # patch numbers, first kept first
    ids_keep, ids_remove = ids_shuffle[:, :most], ids_shuffle[:, fewest:]
    mask = (rank >= num_keep[:, None]).float()  # 0 keep, 1 remove
    ragged = most != fewest
    return SensorMask(
        ids_keep,
        ids_remove,
        ids_restore=rank,
        mask=mask,
        pad_keep=mask.gather(1, ids_keep).bool() if ragged else None,
        pad_remove=~mask.gather(1, ids_remove).bool() if ragged else None,
        present=present,
    )
