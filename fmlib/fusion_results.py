"""What the models of `fmlib.fusion_study` make of pairs: pictures, scores, and the features they start from."""

import math
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fmlib.block_noise import block_noise
from fmlib.data import open_dataset
from fmlib.files import write_beside
from fmlib.fuse import fuse_folder, fuse_pair
from fmlib.fusion_metrics import METRICS, luma
from fmlib.fusion_pairs import Pairs
from fmlib.fusion_study import StudyParams, run_folders, slug
from fmlib.models.maefuse import SENSORS, MaeFuse, all_ids
from fmlib.recipe import pick_device
from fmlib.score_fusion import BASELINES, read_grey, score_folders
from fmlib.viz.images import stretch
from fmlib.weights import load

MS_SSIM_SIDE = 176  # pixels: five scales of 11
TITLES = {"ir": "infrared", "vi": "visible"}


def write_pairs(p: StudyParams) -> list[str]:
    """Write the test pairs as PNG into ``out/test/ir`` and ``out/test/vi``: their names."""
    data, names = open_dataset(p.data, "test", p.data_root, SENSORS), []
    for sample in (data[i] for i in range(min(p.test_pairs or len(data), len(data)))):
        names.append(sample["id"].replace("/", "_"))
        for sensor in SENSORS:
            pixels, path = sample[sensor].round().astype(np.uint8), source(p, sensor, names[-1])
            image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_beside(path, lambda beside, image=image: image.save(beside, "PNG"))
    return names


def source(p: StudyParams, sensor: str, pair: str) -> Path:
    """File of a written picture."""
    return Path(p.out) / "test" / sensor / f"{pair}.png"


def source_pictures(p: StudyParams, pairs: list[str]) -> dict[str, np.ndarray]:
    """The infrared pictures of some pairs, then the visible ones, grey (H, W) uint8, cut to one size."""
    found = {
        f"{title} {pair}": read_grey(source(p, sensor, pair)) for sensor, title in TITLES.items() for pair in pairs
    }
    rows, cols = np.min([picture.shape for picture in found.values()], axis=0)
    return {name: picture[:rows, :cols] for name, picture in found.items()}


def fused_folders(p: StudyParams) -> dict[tuple[str, int], Path]:
    """Folder of the fused pictures of each variant and seed."""
    return {(name, seed): Path(p.out) / "fused" / f"{slug(name)}-{seed}" for name, seed in run_folders(p)}


def fuse(p: StudyParams) -> None:
    """Fuse the written pairs with every model; what was fused before is kept.

    Raises:
        RuntimeError: a pair failed; the message says why.
    """
    for key, run in run_folders(p).items():
        where = (Path(p.out) / "test" / "ir", Path(p.out) / "test" / "vi", fused_folders(p)[key])
        report = fuse_folder(*where, f"{run}/model", device=str(pick_device(p.device)), batch=8)
        if report.failed:
            raise RuntimeError(f"{key[0]}: {report.failed}")


def pictures(p: StudyParams, pair: str, seed: int | None = None) -> dict[str, np.ndarray]:
    """Grey pictures (H, W) uint8 of one pair: both sources, the other baselines, and each variant's.

    Args:
        pair: one of the names of `write_pairs`.
        seed: of the variants; default: the first.
    """
    ir, vi = (read_grey(source(p, sensor, pair)) for sensor in SENSORS)
    wanted = p.seed if seed is None else seed
    files = {name: folder / f"{pair}.png" for (name, s), folder in fused_folders(p).items() if s == wanted}
    order = dict.fromkeys(("infrared alone", "visible alone", *BASELINES))
    return {name: BASELINES[name](ir, vi) for name in order} | {name: read_grey(f) for name, f in files.items()}


def colour_pictures(p: StudyParams, pair: str, variant: str) -> tuple[np.ndarray, np.ndarray]:
    """The visible picture of a pair and a variant's, as stored: (H, W) or (H, W, 3) uint8."""
    files = source(p, "vi", pair), fused_folders(p)[variant, p.seed] / f"{pair}.png"
    return tuple(np.asarray(Image.open(file)) for file in files)


def middle(p: StudyParams, pair: str, patches: int = 10) -> tuple[int, int, int]:
    """Top, left and side of a square in the middle of a pair's pictures, so many patches wide where they have room."""
    rows, cols = read_grey(source(p, "ir", pair)).shape
    side = min(patches * patch_side(p), rows, cols)
    return (rows - side) // 2, (cols - side) // 2, side


def patch_side(p: StudyParams) -> int:
    """Side in pixels of the models' patches: that of the encoder, which may come from elsewhere."""
    return load(f"{p.out}/runs/decoder/model").patch_size[0]


def score(p: StudyParams) -> list[dict]:
    """Mean scores of what `fuse` made, and of the baselines, in the standard convention.

    Returns:
        Rows {"method", "seed", "metric", "value"}; what is not defined is left out, and MS-SSIM of small pictures.
    """
    fused, rows = {f"{name} {seed}": folder for (name, seed), folder in fused_folders(p).items()}, []
    ir, vi = (Path(p.out) / "test" / sensor for sensor in SENSORS)
    smallest = min(min(read_grey(file).shape) for file in ir.iterdir())
    metrics = [metric for metric in METRICS if metric != "MS-SSIM" or smallest >= MS_SSIM_SIDE]
    for row in score_folders(ir, vi, fused, metrics=metrics):
        if row["image"] == "mean":
            name, _, seed = row["method"].rpartition(" ") if row["method"] in fused else (row["method"], "", p.seed)
            values = {metric: row[metric] for metric in metrics if not math.isnan(row[metric])}
            rows += [{"method": name, "seed": int(seed), "metric": m, "value": v} for m, v in values.items()]
    return rows


def block_rows(p: StudyParams, pairs: list[str], patch_size: int) -> list[dict]:
    """Mean `block_noise` of the pictures of some pairs, as rows of `score`; patch_size is the model's, in pixels."""
    rows = []
    for seed in range(p.seed, p.seed + p.seeds):
        found = [{name: block_noise(x, patch_size) for name, x in pictures(p, pair, seed).items()} for pair in pairs]
        new = [name for name in found[0] if seed == p.seed or name not in BASELINES]
        means = {name: fmean(noise[name] for noise in found) for name in new}
        rows += [{"method": m, "seed": seed, "metric": "block noise", "value": v} for m, v in means.items()]
    return rows


def fuse_radar(p: StudyParams, data: str, index: int = 0) -> dict[str, np.ndarray]:
    """`pictures` of a radar image, taken for the infrared one, and an optical image's luma.

    Args:
        data: manifest with the sensors "s1" and "s2".
        index: of its test samples.
    """
    held = open_dataset(data, "test", p.data_root, ("s1", "s2"))
    seen = (stretch(held[index][name], modality)[0] for name, modality in held.modalities.items())  # (H, W, 3), 0 to 1
    ir, vi = (luma(np.rint(255 * image.transpose(2, 0, 1)).astype(np.uint8)) for image in seen)
    models = {name: load(f"{run}/model").eval() for (name, seed), run in run_folders(p).items() if seed == p.seed}
    fused = {name: fuse_pair(model, ir, vi) for name, model in models.items()}
    trivial = {name: f(ir, vi) for name, f in BASELINES.items()}
    return {"radar": trivial.pop("infrared alone"), "optical": trivial.pop("visible alone")} | trivial | fused


# -- features -----------------------------------------------------------------------------------------------------


def token_maps(p: StudyParams, pairs: int = 8, columns: int = 5) -> dict:
    """What `fmlib.viz.token_maps` draws of the first test pair, with directions and cosines of several.

    Args:
        pairs: whose tokens are compared. columns: depths drawn, the first and the last among them.
    """
    images = Pairs([p.data], "test", p.data_root, p.img_size, samples=pairs).fixed()
    model = load(f"{p.out}/runs/decoder/model").eval()
    depths, grid = tokens_by_depth(model, images), model.encoder.embed.grid_of(images["ir"].shape[2:])
    chosen = np.unique(np.linspace(0, len(depths) - 1, columns).round().astype(int))
    cosines = [similarity(depths[depth]) for depth in chosen]
    return {
        "sources": {title: images[sensor][0, 0].numpy() for sensor, title in TITLES.items()},
        "colours": {f"block {n}" if n else "embedding": token_colours(depths[n], grid)[:, 0] for n in chosen},
        "notes": [f"same place {same:.2f}\nanother {other:.2f}" for same, other in cosines],
    }


@torch.no_grad()
def tokens_by_depth(model: MaeFuse, images: dict[str, Tensor]) -> list[Tensor]:
    """The encoder's tokens after its embedding and after each block: (2, B, L, D) of infrared and visible.

    The mean over all images at each place is taken away: what is left says what is there, not where it is.

    Args:
        images: {"ir": (B, 1, H, W), "vi": (B, 1, H, W)} from 0 to 255, whole patches.
    """
    encoder, depths = model.encoder, []
    patches = encoder.patches(torch.cat([images[name] for name in SENSORS]))
    x = encoder.embed(patches, all_ids(patches), encoder.embed.grid_of(images["ir"].shape[2:]))
    if encoder.cls_token is not None:
        x = torch.cat([encoder.cls_token.expand(len(x), -1, -1), x], dim=1)
    for block in (None, *encoder.blocks):
        x = block(x)[0] if block else x
        places = x[:, -patches.shape[1] :]
        depths.append((places - places.mean(0)).unflatten(0, (2, -1)))
    return depths


def similarity(tokens: Tensor) -> tuple[float, float]:
    """Mean cosine of infrared and visible tokens (2, B, L, D): at the same place, and at two places of one image."""
    ir, vi = F.normalize(tokens, dim=-1)
    cosines = ir @ vi.transpose(1, 2)  # (B, L, L)
    same = cosines.diagonal(dim1=1, dim2=2).mean()
    count = cosines.shape[1]
    return float(same), float((cosines.mean() * count - same) / (count - 1))


def token_colours(tokens: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Tokens (2, B, L, D) along their three main directions as red, green and blue: (2, B, rows, cols, 3), 0 to 1."""
    flat = tokens.flatten(0, 2)
    _, directions = torch.linalg.eigh(flat.T @ flat)  # the strongest last
    parts = flat @ directions[:, -3:].flip(1)
    scaled = (parts / (4 * parts.std(0)) + 0.5).clamp(0, 1)  # two standard deviations to either side
    return scaled.view(*tokens.shape[:2], *grid, 3).numpy()
