"""Models from the weight files of others: Meta's masked autoencoders, timm's copies of them, MaeFuse as released.

Every tensor of a file is used, or dropped for a reason that the report gives; one that is neither is an error.

    model, report = maefuse_on("mae_pretrain_vit_large.pth")  # to be trained; also on a checkpoint folder of our own
    model, report = load_maefuse("final_new_60.pth")          # trained by MaeFuse's authors, or by us
    model, report = load_mae("mae_visualize_vit_large.pth")   # a MAE that reconstructs, as Meta's does
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from fmlib.masking import Masks
from fmlib.modality import Modality
from fmlib.models.fusmae import FusMAE
from fmlib.models.maefuse import MaeFuse
from fmlib.weight_files import Report, colour, decoder_sizes, encoder_sizes, need, sift, translate
from fmlib.weights import load, load_strictly

LICENCE = (
    "CC BY-NC 4.0 (Meta's masked autoencoders): no commercial use of these weights, nor of what is trained on them"
)
DECODER = dict.fromkeys(("decoder", "mask_token"), "MaeFuse has a decoder of its own")  # ours: decoders.…
NO_CLASS = {"cls_token": "MaeFuse has no class token"}


# -- loading ------------------------------------------------------------------------------------------------------


def maefuse_on(
    encoder: str | Path | FusMAE,
    class_token: bool | None = None,
    num_heads: int | None = None,
    licence: str = LICENCE,
    **options,
) -> tuple[MaeFuse, Report]:
    """A MaeFuse on the pretrained encoder of a masked autoencoder; its decoder and fusion layer are untrained.

    Args:
        encoder: checkpoint folder or model (`FusMAE` of one sensor), file in Meta's names, or timm's name of a MAE,
            e.g. ``"vit_base_patch16_224.mae"``, which is fetched.
        class_token: whether to keep its class token; default: that of our own, not that of others, as MaeFuse does.
        num_heads: of a file whose width is not that of ViT-B, L or H.
        licence: terms of a file's weights.
        options: further ones of `MaeFuse`, e.g. ``fusion="cfm"``.

    Raises:
        FileNotFoundError: neither a path nor a name known.
        ValueError: more than one sensor; tensors that are missing, unknown or misshapen, each named.
    """
    if isinstance(encoder, FusMAE) or Path(encoder).is_dir():
        modality, sizes, weights, report = _own_encoder(encoder, class_token is not False)
    else:
        modality, sizes, weights, report = _encoder_of_others(encoder, class_token, num_heads, licence)
    model = MaeFuse([modality], **sizes | options)
    load_strictly(model.encoder, weights, report.source)
    return model, report


def load_maefuse(
    *sources: str | Path, fusion_layer: bool = True, num_heads: int | None = None, decoder_num_heads: int = 16
) -> tuple[MaeFuse, Report]:
    """A whole MaeFuse: a checkpoint folder of ours, or files as its authors released them.

    Args:
        sources: one folder; or one file with model1. and model2. names; or two, one of encoder and decoder, one of the
            fusion layer. What comes from files does as the released code does (`MaeFuse`, `released`).
        fusion_layer: False: encoder and decoder are enough, to train a fusion layer; tokens are averaged until then.
        num_heads, decoder_num_heads: of files whose sizes are not the published ones.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a part is missing; tensors that are missing, unknown or misshapen, each named.
    """
    if Path(sources[0]).is_dir():
        model = load(sources[0])
        if not isinstance(model, MaeFuse):
            raise ValueError(f"{sources[0]} holds a {type(model).__name__}, not a MaeFuse; see fmlib.train_fusion")
        return model, Report(str(sources[0]), list(model.state_dict()), {}, model.config["licence"])
    name = " and ".join(map(str, sources))
    found, report = sift(sources, NO_CLASS | {"mask_token": "nothing is masked"}, LICENCE)
    need(found, name, "patch_embed.", "decoder_pred.", *(["cross_model.", "ln."] if fusion_layer else []))
    options = encoder_sizes(found, name, num_heads) | decoder_sizes(found, decoder_num_heads)
    options |= {"fusion": "cfm_mfm" if "ln.weight" in found else "mean", "released": True, "licence": LICENCE}
    model = MaeFuse([colour(found)], **options)
    load_strictly(model, translate(found, name) | _no_sensor(options, "encoder.embed.sensor"), name)
    return model.eval(), report


def load_mae(
    source: str | Path, norm_target: str | None = None, num_heads: int | None = None, decoder_num_heads: int = 16
) -> tuple["MetaMAE", Report]:
    """A masked autoencoder with its decoder, from Meta's file: it reconstructs what masks remove.

    Args:
        source: e.g. ``mae_pretrain_vit_base_full.pth`` or ``mae_visualize_vit_large.pth``.
        norm_target: ``"patch"`` (the targets of `…_full` files) or ``"none"`` (`mae_visualize_…`); default: by name.
        num_heads, decoder_num_heads: of files whose sizes are not the published ones.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of the encoder alone; tensors that are missing, unknown or misshapen, each named.
    """
    found, report = sift([source], {}, LICENCE)
    need(found, source, "patch_embed.", "decoder_pred.", "cls_token", "mask_token")
    options = encoder_sizes(found, source, num_heads) | decoder_sizes(found, decoder_num_heads)
    options |= {"norm_target": norm_target or ("none" if "visualize" in Path(source).name else "patch")}
    model = MetaMAE([colour(found)], fusion="none", pos_temperature=10_000, **options)
    renamed = (
        ("encoder.embed.", "embed.rgb."), ("encoder.", ""), ("decoder.head.", "decoders.rgb.heads.rgb."),
        ("decoder.", "decoders.rgb."), ("mask_token", "decoders.rgb.mask_token"),
    )  # fmt: skip
    weights = _no_sensor(options, "embed.rgb.sensor")
    for key, value in translate(found, source).items():
        before, after = next((pair for pair in renamed if key.startswith(pair[0])), ("", ""))
        weights[after + key.removeprefix(before)] = value.flatten() if key == "mask_token" else value
    load_strictly(model, weights, str(source))
    warnings.warn(f"{source}: {LICENCE}", stacklevel=2)
    return model.eval(), report


class MetaMAE(FusMAE):
    """Meta's masked autoencoder: `FusMAE` of one colour image whose decoder sees the class token, too."""

    def predict(self, images: dict[str, Tensor], masks: Masks):
        """As `FusMAE.predict`."""
        patches, grids = self.patches(images)
        encoded, (name, mask) = self.forward_encoder(patches, grids, masks), next(iter(masks.items()))
        decoder = self.decoders[name]
        x = decoder.tokens(encoded.tokens[name], mask, grids[name])
        x = torch.cat([decoder.embed(encoded.cls)[:, None], x], dim=1)
        return patches, decoder(x, mask)[0], grids


# -- parts --------------------------------------------------------------------------------------------------------


def _own_encoder(source, class_token: bool) -> tuple[Modality, dict, dict[str, Tensor], Report]:
    """Sensor, sizes, weights and report of a `FusMAE` of one sensor, or of a checkpoint that holds one."""
    model = source if isinstance(source, FusMAE) else load(source)
    name = "the model" if model is source else str(source)
    if not isinstance(model, FusMAE) or len(model.modalities) != 1 or model.early_fusion is not None:
        what = f"{type(model).__name__} of {', '.join(model.modalities)}"
        raise ValueError(f"{name} is a {what}; give a FusMAE of one sensor (fmlib.train --sensors=… --fusion=none)")
    [(sensor, modality)] = model.modalities.items()
    drop = DECODER | ({} if class_token else NO_CLASS)
    weights, dropped = {}, {}
    for key, value in model.state_dict().items():
        if why := next((why for start, why in drop.items() if key.startswith(start)), None):
            dropped[key] = why
        else:
            weights[key.replace(f"embed.{sensor}.", "embed.")] = value
    sizes = {key: model.config[key] for key in ("img_size", "embed_dim", "depth", "num_heads", "mlp_ratio")}
    sizes |= {"pos_temperature": model.config["pos_temperature"], "class_token": class_token}
    return modality, sizes, weights, Report(name, list(weights), dropped, "")


def _encoder_of_others(source, class_token, num_heads, licence) -> tuple[Modality, dict, dict[str, Tensor], Report]:
    """The same of a file in Meta's names."""
    found, report = sift([source], DECODER | ({} if class_token else NO_CLASS), licence)
    sizes = encoder_sizes(found, source, num_heads) | {"class_token": bool(class_token), "licence": licence}
    weights = {key.removeprefix("encoder."): value for key, value in translate(found, source).items()}
    return colour(found), sizes, weights | _no_sensor(sizes, "embed.sensor"), report


def _no_sensor(options: dict, key: str) -> dict[str, Tensor]:
    return {key: torch.zeros(options["embed_dim"])}
