"""Small models of each kind, and attention made by hand, to watch."""

import torch
from sensors import generator, two_sensors

from fmlib.attention.places import Layer, Part, Seen
from fmlib.masking import draw_masks
from fmlib.modality import Modality
from fmlib.models.fusmae import FusMAE
from fmlib.models.maefuse import MaeFuse
from fmlib.models.msift import MsIFT

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 4, "decoder_embed_dim": 16, "decoder_depth": 2}
SMALL |= {"decoder_num_heads": 2, "img_size": 32}
NARROW = {"embed_dim": 32, "depth": 2, "num_heads": 1, "mlp_dim": 48, "head_dim": 8, "num_classes": 3, "neck_dim": 16}
NARROW |= {"extractor": "resnet10t", "widths": [8, 8, 16, 16], "img_size": 32}


def fusmae(modalities=None, **options) -> FusMAE:
    torch.manual_seed(0)
    return FusMAE(modalities or two_sensors(), **SMALL | {"decoder_queries": "grid"} | options).eval()


def maefuse(**options) -> MaeFuse:
    torch.manual_seed(0)
    grey = Modality("grey", ("grey",), "digital number", (0, 255), (127.5,), (60.0,), (8, 8))
    sizes = {k: v for k, v in SMALL.items() if k != "img_size"} | {"img_size": 32}
    return MaeFuse([grey], **sizes | options).eval()


def msift(modalities=None, **options) -> MsIFT:
    torch.manual_seed(0)
    return MsIFT(modalities or two_sensors(), **NARROW | {"task": "segmentation", "patch_size": 2} | options).eval()


def masks_for(model, batch=3, strategy="independent", ratio=0.5, **options):
    return draw_masks(model.grids, batch, strategy, ratio, generator=generator(), **options)


def hand_made(grid=(2, 2), **layers) -> Seen:
    """What was seen, by hand: layer=(map (h, N, M), sensors that ask, sensors that answer), all patches in order."""
    ids = torch.arange(grid[0] * grid[1])[None]
    made = {
        name: Layer(weights[None], tuple(Part(n, ids) for n in asks), tuple(Part(n, ids) for n in answers))
        for name, (weights, asks, answers) in layers.items()
    }
    names = dict.fromkeys(part.sensor for layer in made.values() for part in (*layer.queries, *layer.keys))
    stages = {name: (name,) for name in made}
    return Seen(made, stages, tuple(stages), dict.fromkeys(names, grid), (8 * grid[0], 8 * grid[1]), None)
