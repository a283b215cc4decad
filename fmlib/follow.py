"""Does attention across sensors follow what has moved?  Where queries look, beside where their counterpart truly is.

When the content of one source is displaced, a token of another source can go on looking at its own place, look
everywhere, or look where its counterpart has gone. Distances tell which; the true displacement is known, because
`fmlib.misalign` made it.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fmlib.attention import between, watch
from fmlib.data import center_crop, preload
from fmlib.evaluate.metrics import IGNORE
from fmlib.misalign import Displacement, compass, misalign
from fmlib.modality import Modality
from fmlib.models.msift import MsIFT
from fmlib.recipe_msift import Part

NUMBERS = ("distance", "peak", "ignores", "chance", "followed")


def token_places(grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Middles of the tokens of a grid: (L, 2) rows and columns in pixels of an image of `size`, row by row."""
    rows, cols = ((torch.arange(n) + 0.5) * side / n for n, side in zip(grid, size, strict=True))
    return torch.cartesian_prod(rows, cols)


def following(
    aligned: Tensor,
    displaced: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    shift: tuple[float, float],
    asked: Tensor | None = None,
) -> dict[str, float]:
    """How far from the true place of their counterparts queries look.

    Args:
        aligned: (B, L, L) attention of one source's tokens to the other's, rows summing to 1; images as they are.
        displaced: the same with the content of the source that answers moved.
        grid: rows and columns of tokens, L in all.
        size: height and width of the images in pixels.
        shift: where the content went, rows down and columns to the right, in pixels; not (0, 0).
        asked: (B, L) bool, the queries that count; default: all. Those whose counterpart left the image never do.

    Returns:
        Means over the queries that count: ``"distance"`` in pixels between the attention's centre of mass and the true
        place; ``"peak"``, the same of the token looked at most; ``"ignores"``, of a query that looks at its own place;
        ``"chance"``, of one that looks at all tokens alike; ``"followed"``, the share of the displacement by which the
        centre of mass went along: 1 all the way, 0 not at all. And ``"queries"``, their number.

    Raises:
        ValueError: maps of another size, no displacement, or no query that counts.
    """
    places, shift = token_places(grid, size).to(displaced), torch.tensor(shift, dtype=displaced.dtype)
    shift = shift.to(displaced.device)
    if aligned.shape != displaced.shape or displaced.shape[1:] != (len(places), len(places)):
        raise ValueError(
            f"maps of {tuple(aligned.shape)} and {tuple(displaced.shape)}, expected (B, {len(places)}, {len(places)}) "
            f"both for {grid[0]} × {grid[1]} tokens; take the mean over heads, without class tokens"
        )
    if not shift.any():
        raise ValueError("the displacement is 0, so following it and ignoring it are the same; give another")
    true = places + shift
    counts = ((true >= 0) & (true <= places.new_tensor(size))).all(1).expand(len(displaced), -1)
    counts = counts if asked is None else counts & asked.to(counts.device)
    if not counts.any():
        raise ValueError(f"no query counts: the counterparts of all asked ones left the image by {shift.tolist()}")
    before, now = aligned @ places, displaced @ places  # (B, L, 2) centres of mass
    looks = {"distance": now, "peak": places[displaced.argmax(-1)], "ignores": places, "chance": places.mean(0)}
    found = {key: (x - true).norm(dim=-1).expand(counts.shape)[counts] for key, x in looks.items()}
    found["followed"] = ((now - before) @ shift / (shift @ shift))[counts]
    return {key: float(x.mean()) for key, x in found.items()} | {"queries": int(counts.sum())}


def follow_rows(
    model: MsIFT,
    images: dict[str, Tensor],
    sensor: str,
    distance: float,
    crop: int | None = None,
    asked: Tensor | None = None,
) -> list[dict]:
    """`following` in every layer in which another source asks the displaced one; means over four directions.

    Args:
        model: of two sources, in evaluation mode.
        images: {sensor: (B, C, H, W)} of one size, in physical units.
        sensor: whose content is moved.
        distance: in pixels, up, down, to the left and to the right.
        crop: side of the central window that is looked at after moving, so that real ground comes in at the border.
        asked: (B, H, W) bool, pixels that count (a token does if half of it does), cropped as the images are.

    Returns:
        One row a layer: {"layer", "asks" (the other source), and the numbers of `following`}.
    """
    (asks,) = [name for name in images if name != sensor]
    rows: dict[str, list[dict]] = {}
    before = _look(model, images, asks, sensor, crop)
    for step in compass(distance):
        now = _look(model, misalign(images, sensor, step), asks, sensor, crop)
        for layer, (attn, grid, size) in now.items():
            chosen = None if asked is None else _tokens(asked, grid, crop)
            found = following(before[layer][0], attn, grid, size, step[:2], chosen)
            rows.setdefault(layer, []).append(found)
    return [
        {"layer": layer, "asks": asks}
        | {key: sum(row[key] for row in found) / len(found) for key in NUMBERS}
        | {"queries": sum(row["queries"] for row in found)}
        for layer, found in rows.items()
    ]


def example(
    model: MsIFT,
    images: dict[str, Tensor],
    sensor: str,
    shift: tuple[int, int],
    query: tuple[int, int],
    crop: int | None = None,
) -> dict:
    """One query of one sample before and after a displacement, as `fmlib.viz.followed_query` takes it.

    Args:
        images: {sensor: (1, C, H, W)}. sensor: whose content is moved. shift: rows and columns in pixels.
        query: row and column of a pixel of the image that asks, after cropping; the token around it asks.
        crop: as for `follow_rows`. The last layer is shown.
    """
    (asks,) = [name for name in images if name != sensor]
    found = {"answers": {}, "maps": {}, "true": {}}
    for title, step in (("aligned", (0, 0)), ("displaced", shift)):
        moved = misalign(images, sensor, Displacement(*step))
        attn, grid, size = list(_look(model, moved, asks, sensor, crop).values())[-1]
        moved = center_crop(moved, crop) if crop else moved
        token = [place * n // side for place, n, side in zip(query, grid, size, strict=True)]
        middle = token_places(grid, size)[token[0] * grid[1] + token[1]] - 0.5  # pixels count from the middle of one
        found["answers"][title], found["maps"][title] = (
            moved[sensor][0],
            attn[0, token[0] * grid[1] + token[1]].view(grid),
        )
        found["true"][title] = tuple((middle + torch.tensor(step)).tolist())
    return found | {"asks": moved[asks][0], "query": tuple(middle.tolist()), "names": (asks, sensor)}


def _look(model, images, asks: str, answers: str, crop) -> dict[str, tuple[Tensor, tuple, tuple]]:
    """{layer: (attention (B, L, L), mean over heads; grid; size)} of the layers in which `asks` asks `answers`."""
    seen = watch(model, center_crop(images, crop) if crop else images)
    layers = [name for name in seen.layers if name.endswith(f".cross.{asks}")]
    count = len(next(iter(images.values())))
    maps = {n: torch.stack([between(seen, n, asks, answers, i).mean(0) for i in range(count)]) for n in layers}
    return {name: (attn, seen.grids[asks], seen.size) for name, attn in maps.items()}


def _tokens(asked: Tensor, grid: tuple[int, int], crop: int | None) -> Tensor:
    """Pixels (B, H, W) → tokens (B, L): those of which half or more are asked."""
    pixels = asked[:, None].float()
    pixels = center_crop({"asked": pixels}, crop)["asked"] if crop else pixels
    return F.adaptive_avg_pool2d(pixels, grid).flatten(1) >= 0.5


# -- made images in which following pays ----------------------------------------------------------------------------


class Twins:
    """Made images of two sources that only looking across can label.

    Both show the same few objects, each in a colour of its own. The second also has a band in which an object is bright
    or dark, and that is the label; the first source has no such band. Labels lie where the *first* source shows the
    objects, so when the second is displaced a model has to find each object's twin by its colour.

    A sample is ``{"first": (3, side, side), "second": (4, side, side), "label": (side, side) uint8, 255 where there is
    no object, "id": str}``.

    Args:
        count: of samples. seed: decides all of them.
        side: of the images in pixels. objects: in each. size: side of an object in pixels; divides the other sizes.
        margin: pixels that are cut off all around. 0: displace images first and look at their middle then, so that no
            reflected border comes into view.
        shift: the second source's content is displaced by up to so many pixels each way, in steps of `size`; not more
            than the margin, from which real content comes in.
    """

    name, split, classes = "twins", "made", ("dark", "bright")
    colours = ("red", "green", "blue")

    def __init__(
        self,
        count: int,
        seed: int = 0,
        side: int = 40,
        objects: int = 30,
        size: int = 4,
        margin: int = 0,
        shift: int = 0,
    ):
        if shift > margin or any(number % size for number in (side, margin, shift)):
            raise ValueError(
                f"side {side}, margin {margin}, shift {shift}: give multiples of {size}, shift not above margin"
            )
        self.count, self.seed, self.side, self.objects, self.size = count, seed, side, objects, size
        self.margin, self.shift = margin, shift
        bands = {"first": self.colours, "second": (*self.colours, "shine")}
        self.modalities = {
            name: Modality(
                name, b, "1", (-9, 9), (0.0,) * len(b), (1.0,) * len(b), rgb=self.colours, title=f"{name} source"
            )
            for name, b in bands.items()
        }

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        rng, cells = np.random.default_rng([self.seed, index]), self.side // self.size
        first, second = (rng.normal(0, 0.2, (c, self.side, self.side)).astype(np.float32) for c in (3, 4))
        label = np.full((self.side, self.side), IGNORE, np.uint8)
        for cell in rng.permutation(cells**2)[: self.objects]:
            row, col = self.size * (cell // cells), self.size * (cell % cells)
            here = (..., slice(row, row + self.size), slice(col, col + self.size))
            colour, bright = rng.normal(size=3), rng.integers(2)
            colour *= 2 / np.linalg.norm(colour)
            first[here] += colour[:, None, None]
            second[here] += np.append(colour, 4 * bright - 2)[:, None, None]
            label[here] = bright
        steps = self.shift // self.size
        moved = self.margin - self.size * rng.integers(-steps, steps + 1, 2)  # a window from above has all further down
        still, sample = (self.margin, self.margin), {"id": str(index)}
        for name, image, start in (("first", first, still), ("second", second, moved), ("label", label, still)):
            rows, cols = (slice(place, place + self.side - 2 * self.margin) for place in start)
            sample[name] = image[..., rows, cols]
        return sample


def twin_parts(shift: int, train: int = 4000, test: int = 64, seed: int = 0) -> dict[str, Part]:
    """`Twins` to train and to test on, as `fmlib.train_msift.train` takes them; none are held back for validation.

    Args:
        shift: displaces the second source in training, see `Twins`; those of the test are whole and lie in place.
    """
    parts = {"train": Twins(train, 2 * seed, margin=8, shift=shift), "test": Twins(test, 2 * seed + 1)}
    return {n: Part(preload(data, progress=False), np.arange(len(data))[:, None]) for n, data in parts.items()}
