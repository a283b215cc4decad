"""A Fus-MAE of seconds, and masks for it."""

import torch
from sensors import generator, two_sensors

from fmlib.masking import draw_masks
from fmlib.models.fusmae import FusMAE

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 4, "decoder_embed_dim": 16, "decoder_depth": 2}
SMALL |= {"decoder_num_heads": 4}


def build(modalities=None, img_size=(32, 32), **options) -> FusMAE:
    torch.manual_seed(0)
    return FusMAE(modalities or two_sensors(), img_size, **SMALL | options)


def draw(model, batch=3, ratio=0.5, seed=0, **options):
    options = {"strategy": "consistent" if model.fusion == "stack" else "independent"} | options
    return draw_masks(model.grids, batch, mask_ratio=ratio, generator=generator(seed), **options)
