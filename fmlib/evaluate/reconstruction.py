"""How well does a pretrained model reconstruct, and does one sensor help it to see the other?

Errors are **relative**: squared error over the removed patches, divided by that of predicting each removed patch's own
mean in each band. 1 is thus the error of an oracle that knows every patch's colour but nothing inside it, and
1 − error is the share of the detail inside patches that was explained (R²).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fmlib.layers import gather_tokens
from fmlib.masking import Masks, SensorMask, draw_masks, keep_all
from fmlib.tables import pivot

NAMES = {"true": "true partner", "wrong": "wrong partner", "none": "no partner"}
PARTNERS = tuple(NAMES)


def relative_error(
    model: nn.Module, name: str, patches: Tensor, pred: Tensor, mask: SensorMask
) -> tuple[Tensor, Tensor]:
    """Squared error of predictions, and of each patch's own mean in each band, summed for each sample and band.

    Args:
        patches: (B, L, C·p·q) normalised. pred: (B, R, C·p·q) as targets, in the order of `mask.ids_remove`.

    Returns:
        Two tensors (B, C); the ratio of their sums is the relative error.
    """
    embed = model.embed[name]
    true = gather_tokens(patches, mask.ids_remove)
    mean, std = embed.target_stats(true)
    bands = true.unflatten(-1, (embed.modality.in_chans, -1))  # (B, R, C, p·q)
    flat = bands - bands.mean(-1, keepdim=True)
    count = 1.0 if mask.pad_remove is None else (~mask.pad_remove).float()[..., None, None]
    error = (pred.float() * std + mean - true).unflatten(-1, bands.shape[2:])
    return tuple((x.square() * count).sum((1, 3)) for x in (error, flat))


@torch.no_grad()
def sensor_losses(model: nn.Module, images: dict[str, Tensor], masks: Masks, batch_size: int = 64) -> dict[str, float]:
    """The training loss of each sensor over all samples, worked off in parts.

    Args:
        images: {sensor: (N, C, H, W)} in physical units. masks: one a sensor, for all N samples.
    """
    _check_eval(model)
    count, sums = len(next(iter(images.values()))), {}
    for some, hidden in _parts(images, masks, batch_size):
        for name, loss in model.losses(some, hidden, model(some, hidden).pred).items():
            sums[name] = sums.get(name, 0.0) + float(loss) * len(some[name]) / count
    return sums


@torch.no_grad()
def reconstruction_error(
    model: nn.Module, images: dict[str, Tensor], masks: Masks, batch_size: int = 64, by_band: bool = False
) -> dict:
    """Relative error of each sensor over all samples.

    Args:
        images: {sensor: (N, C, H, W)} in physical units.
        masks: one a sensor, for all N samples (0 keep, 1 remove).

        by_band: each band for itself.

    Returns:
        {sensor: relative error}, or {sensor: {band: relative error}}.
    """
    _check_eval(model)
    sums: dict[str, Tensor] = {}
    for some, hidden in _parts(images, masks, batch_size):
        patches, pred, _ = model.predict(some, hidden)
        for name in (n for n in pred if n in patches):
            pair = relative_error(model, name, patches[name], pred[name], hidden[name])
            sums[name] = sums.get(name, 0) + torch.stack([s.sum(0) for s in pair])  # (2, C)
    if not by_band:
        return {name: float(error.sum() / flat.sum()) for name, (error, flat) in sums.items()}
    bands = {name: model.modalities[name].bands for name in sums}
    return {n: dict(zip(bands[n], (error / flat).tolist(), strict=True)) for n, (error, flat) in sums.items()}


def partner_test(
    model: nn.Module,
    images: dict[str, Tensor],
    places: Sequence[str],
    mask_ratio: float = 0.75,
    seed: int = 0,
    batch_size: int = 64,
) -> list[dict]:
    """Reconstruct each sensor beside its true partners, beside those of another place, and alone.

    The sensor under test is masked in the same patches all three times; its partners are shown whole.

    Args:
        images: {sensor: (N, C, H, W)} in physical units.
        places: where each sample was taken; a wrong partner always comes from another place.

    Returns:
        One row for each sensor and partner: {"sensor", "partner", "error"} (relative error).
    """
    other = wrong_partner(places)
    rows = []
    for name in images:
        masks = partner_masks(model, name, len(places), mask_ratio, seed)
        for partner in PARTNERS:
            shown = with_partner(images, name, partner, other)
            error = reconstruction_error(model, shown, _masks_for(model, masks, shown, name), batch_size)[name]
            rows.append({"sensor": name, "partner": partner, "error": error})
    return rows


@torch.no_grad()
def partner_pictures(
    model: nn.Module, images: dict[str, Tensor], places: Sequence[str], name: str, show: Sequence[int], **options
) -> dict:
    """Some samples of `partner_test` as pictures, named as `fmlib.viz.partner_gallery` takes them.

    Args:
        name: the sensor that is reconstructed; its first other sensor is shown as the partner.
        show: numbers of the samples.
        options: `mask_ratio` and `seed`, as in `partner_test`.
    """
    show, partner = torch.as_tensor(show), next(n for n in images if n != name)
    other = wrong_partner(places)
    masks = {n: mask[show] for n, mask in partner_masks(model, name, len(places), **options).items()}
    predictions = {}
    for kind in PARTNERS:
        shown = {n: x[show] for n, x in with_partner(images, name, kind, other).items()}
        predictions[kind] = model.reconstruct(shown, _masks_for(model, masks, shown, name)).pasted[name]
    pictures = {"target": images[name][show], "partner": images[partner][show]}
    pictures |= {
        "wrong_partner": images[partner][other[show]],
        "mask": masks[name].mask.unflatten(1, model.grids[name]),
    }
    return pictures | {"predictions": predictions}


def _masks_for(model: nn.Module, masks: Masks, shown: dict[str, Tensor], name: str) -> Masks:
    """Masks of the sensors shown; channel stacking has one token for all, so partners are masked like `name`."""
    return dict.fromkeys(shown, masks[name]) if model.fusion == "stack" else {n: masks[n] for n in shown}


def partner_masks(model: nn.Module, name: str, count: int, mask_ratio: float = 0.75, seed: int = 0) -> Masks:
    """Masks for `count` samples that hide part of sensor `name` and nothing of the others."""
    generator = torch.Generator().manual_seed(seed)
    hidden = draw_masks({name: model.grids[name]}, count, mask_ratio=mask_ratio, generator=generator)
    return keep_all(model.grids, count) | hidden


def with_partner(images: dict[str, Tensor], name: str, partner: str, other: Tensor) -> dict[str, Tensor]:
    """The images of sensor `name` beside its ``"true"`` partners, ``"wrong"`` ones (`other`) or ``"none"``."""
    if partner not in PARTNERS:
        raise ValueError(f"partner is {partner!r}; choose one of {', '.join(PARTNERS)}")
    if partner == "none":
        return {name: images[name]}
    return {n: x if n == name or partner == "true" else x[other] for n, x in images.items()}


def wrong_partner(places: Sequence[str]) -> Tensor:
    """(N,) for each sample another one that was taken at another place."""
    count = len(places)
    for shift in range(count // 2, count):
        other = [(i + shift) % count for i in range(count)]
        if all(places[i] != places[j] for i, j in enumerate(other)):
            return torch.tensor(other)
    raise ValueError(f"{count} samples of {len(set(places))} places: no other place for each; give more places")


@torch.no_grad()
def baseline_errors(model: nn.Module, images: dict[str, Tensor], mask_ratio: float = 0.75, seed: int = 0) -> list[dict]:
    """Relative errors of predictions that need no model, with the masks of `partner_test`.

    ``"data set mean"`` is one colour for everything, ``"image mean"`` the mean of the image's visible patches,
    ``"patch mean"`` each removed patch's own mean: an oracle, 1 by definition.

    Returns:
        One row a prediction: {"prediction": its name, sensor: relative error, …}.
    """
    rows = {label: {"prediction": label} for label in ("data set mean", "image mean", "patch mean")}
    for name, image in images.items():
        mask = partner_masks(model, name, len(image), mask_ratio, seed)[name]
        bands = model.embed[name].patches(image).unflatten(-1, (model.embed[name].modality.in_chans, -1))
        true, visible = (gather_tokens(bands.flatten(2), ids) for ids in (mask.ids_remove, mask.ids_keep))
        true, visible = true.unflatten(-1, bands.shape[2:]), visible.unflatten(-1, bands.shape[2:])  # (N, ·, C, p·q)
        own = true.mean(-1, keepdim=True)
        guesses = (torch.zeros(()), visible.mean((1, 3), keepdim=True), own)
        for label, guess in zip(rows, guesses, strict=True):
            rows[label][name] = float((true - guess).square().sum() / (true - own).square().sum())
    return list(rows.values())


def partner_gains(rows: Sequence[dict]) -> list[dict]:
    """What the true partner takes off the error, from the rows of several `partner_test`.

    Args:
        rows: {"fusion", "seed", "sensor", "partner", "error"}.

    Returns:
        One row a fusion and sensor: the error with each partner and the gain (wrong minus true, taken within each run),
        each as [mean, standard deviation over seeds], or the number alone where there is one run.
    """
    error = {tuple(row[key] for key in ("fusion", "sensor", "seed", "partner")): row["error"] for row in rows}
    gains = [
        row | {"partner": "gain", "error": error[row["fusion"], row["sensor"], row["seed"], "wrong"] - row["error"]}
        for row in rows
        if row["partner"] == "true"
    ]
    column = lambda row: NAMES.get(row["partner"], "gain")  # noqa: E731
    return pivot([*rows, *gains], ("fusion", "sensor"), column, "error")


def _check_eval(model: nn.Module):
    assert not model.training, "evaluate in evaluation mode: call model.eval() first"


def _parts(images: dict[str, Tensor], masks: Masks, batch_size: int):
    count = len(next(iter(images.values())))
    for part in (slice(i, i + batch_size) for i in range(0, count, batch_size)):
        yield {n: x[part] for n, x in images.items()}, {n: m[part] for n, m in masks.items()}
