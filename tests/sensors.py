"""Small made-up sensors for tests."""

import torch

from fmlib.modality import Modality


def sensor(name: str, in_chans: int, patch_size=(8, 8), **options) -> Modality:
    """A sensor of `in_chans` bands whose values are already normalised."""
    bands = tuple(f"{name}_{i}" for i in range(in_chans))
    zeros, ones = (0.0,) * in_chans, (1.0,) * in_chans
    return Modality(name, bands, "1", (-10, 10), zeros, ones, patch_size, **options)


def two_sensors(patch_size=(8, 8)) -> list[Modality]:
    """SAR with 2 bands and optical with 12."""
    return [sensor("s1", 2, patch_size), sensor("s2", 12, patch_size)]


def images(modalities, size=(32, 32), batch=3, seed=0) -> dict[str, torch.Tensor]:
    """Random images (B, C, H, W) for each sensor."""
    generator = torch.Generator().manual_seed(seed)
    return {m.name: torch.randn(batch, m.in_chans, *size, generator=generator) for m in modalities}


def generator(seed: int = 0) -> torch.Generator:
    """A seeded source of randomness."""
    return torch.Generator().manual_seed(seed)
