"""Infrared–visible pairs for training a fusion: luma of both, of one size, by random crops or squeezed whole."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fmlib.data import open_dataset
from fmlib.data.batches import batch_indices
from fmlib.models.maefuse import luma, mirror

IN_MEMORY = 2 * 2**30  # bytes of luma that are kept; what is beyond is read again
_CROP_SEED = 2  # a stream of random numbers of its own


class Pairs:
    """Pairs of one or several data sets.

    Args:
        names: manifests with the sensors "ir" and "vi".
        split: of each.
        root: folder that holds the data sets.
        img_size: side of the images in pixels.
        whole: squeeze whole images to it, instead of crops.
        zoom: of crops: take them up to so many times as large, and squeeze them to that side.
        samples: use the first so many; 0: all.
    """

    def __init__(
        self, names: list[str], split: str, root: str | Path, img_size: int, whole=False, samples: int = 0, zoom=1.0
    ):
        sets = [open_dataset(name, split, root, ("ir", "vi")) for name in names]
        self.rows = [(data, row) for data in sets for row in range(len(data))][: samples or None]
        self.img_size, self.whole, self.zoom = img_size, whole, zoom
        self._held: dict[int, Tensor] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.rows)

    def pair(self, index: int) -> Tensor:
        """Luma (2, H, W) uint8 of infrared and visible."""
        if index in self._held:
            return self._held[index]
        data, row = self.rows[index]
        sample = data[row]
        both = torch.cat([luma(torch.from_numpy(sample[name])[None]) for name in ("ir", "vi")])  # (2, 1, H, W)
        if self.whole:
            both = F.interpolate(both, (self.img_size, self.img_size), mode="bilinear", antialias=True)
        pair = both[:, 0].round().clamp(0, 255).byte()
        if self._bytes + pair.numel() <= IN_MEMORY:
            self._held[index], self._bytes = pair, self._bytes + pair.numel()
        return pair

    def batch(self, step: int, batch_size: int, seed: int, device="cpu") -> dict[str, Tensor]:
        """Images {"ir", "vi": (B, 1, S, S)} from 0 to 255 of one step; they follow from seed and step alone."""
        per_epoch = max(len(self) // batch_size, 1)
        indices = batch_indices(len(self), batch_size, step // per_epoch, seed)[step % per_epoch]
        generator = torch.Generator().manual_seed((seed * 8 + _CROP_SEED) * 1_000_003 + step)
        return _stack([self._view(self.pair(int(i)), generator) for i in indices], device)

    def fixed(self, device="cpu") -> dict[str, Tensor]:
        """All pairs as `batch` gives them, cropped in the middle and not flipped."""
        return _stack([self._view(self.pair(i), None) for i in range(len(self))], device)

    def _view(self, pair: Tensor, generator: torch.Generator | None) -> Tensor:
        """A crop (2, S, S), flipped left to right or not; from the middle, and not flipped, without a generator."""
        side = self.img_size
        if generator is not None and self.zoom > 1:  # log-uniform, as far as there is room
            most = max(min(self.zoom * side, *pair.shape[1:]) / side, 1)
            side = round(side * most ** float(torch.rand((), generator=generator)))
        pair = mirror(pair, tuple(max(side, n) for n in pair.shape[1:]))
        spare = [n - side for n in pair.shape[1:]]
        if generator is None:
            top, left = (n // 2 for n in spare)
            return pair[:, top : top + side, left : left + side]
        top, left = (int(torch.randint(n + 1, (), generator=generator)) for n in spare)
        crop = pair[:, top : top + side, left : left + side]
        crop = crop if side == self.img_size else _squeeze(crop[None], self.img_size)[0]
        return crop.flip(2) if torch.rand((), generator=generator) < 0.5 else crop


def _squeeze(images: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) uint8 at `side` pixels each way."""
    return F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True).round().clamp(0, 255).byte()


def _stack(views: list[Tensor], device) -> dict[str, Tensor]:
    """Views (2, S, S) → {"ir", "vi": (B, 1, S, S) float}."""
    both = torch.stack(views).to(device).float()  # (B, 2, S, S)
    return {"ir": both[:, :1], "vi": both[:, 1:]}
