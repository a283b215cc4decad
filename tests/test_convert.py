"""Weights of others: they compute what Meta's and MaeFuse's own arithmetic gives, and nothing is lost in silence."""

import argparse
import re
from functools import partial

import pytest
import timm
import torch
from fusion_files import (
    DEPTH,
    DIM,
    HEADS,
    PATCH,
    fusion_layer,
    mae_decoder,
    mae_encoder,
    released,
    write,
)
from sensors import generator, two_sensors
from timm.models.vision_transformer import Block
from torch import nn

from fmlib.convert import load_mae, load_maefuse, maefuse_on
from fmlib.layers import patchify
from fmlib.masking import masks_from_arrays
from fmlib.modality import Modality
from fmlib.models.fusmae import FusMAE
from fmlib.models.maefuse import luma
from fmlib.weight_files import read_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*CC BY-NC")
LIGHT = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}


def colours(size=64) -> torch.Tensor:
    return 255 * torch.rand(2, 3, size, size, generator=generator(1))


def normalised(image: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    return (image / 255 - mean) / std


def blocks(weights: dict, prefix: str, dim: int, depth: int, x: torch.Tensor, heads=HEADS) -> torch.Tensor:
    """Through timm's blocks, with weights under Meta's names."""
    for i in range(depth):
        block = Block(dim, heads, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
        start = f"{prefix}.{i}."
        block.load_state_dict({k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)})
        x = block(x)
    return x


def norm(weights: dict, name: str, x: torch.Tensor, eps=1e-6) -> torch.Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def linear(weights: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def encode(w: dict, image: torch.Tensor, class_token: bool) -> torch.Tensor:
    """Meta's encoder on a whole image (B, 3, H, W), with or without its class token."""
    x = nn.functional.conv2d(normalised(image), w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2) + w["pos_embed"][:, -x.shape[2] * x.shape[3] :]
    if class_token:
        x = torch.cat([(w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), -1, -1), x], dim=1)
    return norm(w, "norm", blocks(w, "blocks", DIM, DEPTH, x))


@pytest.mark.parametrize("class_token", [None, True])
@pytest.mark.parametrize("kind", [".pth", ".safetensors"])
def test_an_encoder_of_meta_gives_metas_features(tmp_path, class_token, kind):
    w, path = mae_encoder(), tmp_path / f"mae_pretrain{kind}"
    if kind == ".safetensors":
        from safetensors.torch import save_file

        save_file(w, path)
    else:  # a training checkpoint, with all that comes along
        write(path, w, epoch=3, args=argparse.Namespace(lr=1.0), optimizer={"state": {}, "param_groups": []})
    model, report = maefuse_on(path, class_token, num_heads=HEADS, **LIGHT)
    grey = luma(colours())
    expected = encode(w, grey.expand(-1, 3, -1, -1), bool(class_token))[:, -16:]
    assert torch.allclose(model.encoder(grey), expected, atol=1e-4)
    assert len(report.used) + len(report.dropped) == len(w)
    assert set(report.dropped) == {"pos_embed"} | (set() if class_token else {"cls_token"})
    assert model.config["img_size"] == (64, 64)


def test_timms_encoder_gives_timms_features(tmp_path, monkeypatch):
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "num_classes": 0}
    theirs = timm.create_model("vit_base_patch16_224", **sizes).eval()
    theirs.pos_embed.data = mae_encoder()["pos_embed"]
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)) or theirs)
    model, _ = maefuse_on("vit_base_patch16_224.mae", class_token=True, num_heads=HEADS, **LIGHT)
    assert asked == [("vit_base_patch16_224.mae", {"pretrained": True, "num_classes": 0})]
    image = luma(colours()).expand(-1, 3, -1, -1)
    assert torch.allclose(model.encoder(image[:, :1]), theirs.forward_features(normalised(image))[:, 1:], atol=1e-4)


def test_a_mae_that_cannot_be_fetched_is_named(monkeypatch):
    def offline(*args, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(OSError, match=r"vit_base_patch16_224.mae could not be fetched by timm \(no network\)"):
        maefuse_on("vit_base_patch16_224.mae")


def test_an_encoder_of_ours_gives_its_own_features(tmp_path):
    modality = Modality("vi", ("R", "G", "B"), "digital number", (0, 255), (90, 100, 110), (40, 50, 60))
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 4, "decoder_embed_dim": 16, "decoder_num_heads": 2}
    ours = FusMAE([modality], 64, fusion="none", **sizes).eval()
    grey = luma(colours())
    model, report = maefuse_on(ours, **LIGHT)
    expected = ours.encode({"vi": grey.expand(-1, 3, -1, -1)}).tokens["vi"]
    assert torch.allclose(model.encoder(grey), expected, atol=1e-4)
    assert all(name.startswith("decoders.") for name in report.dropped)
    assert report.licence == ""
    without, _ = maefuse_on(ours, class_token=False, **LIGHT)
    assert not torch.allclose(without.encoder(grey), expected, atol=1e-2)


def meta_forward(w: dict, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Meta's MAE: predictions (B, L, 768) in its order (row, column, channel); mask (L,), 1 remove."""
    x = nn.functional.conv2d(normalised(image), w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2) + w["pos_embed"][:, 1:]
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x[:, mask == 0]], dim=1)
    x = linear(w, "decoder_embed", norm(w, "norm", blocks(w, "blocks", DIM, DEPTH, x)))
    full = w["mask_token"].repeat(len(x), len(mask), 1)
    full[:, mask == 0] = x[:, 1:]
    x = torch.cat([x[:, :1], full], dim=1) + w["decoder_pos_embed"]
    x = norm(w, "decoder_norm", blocks(w, "decoder_blocks", 16, 2, x, 4))
    return linear(w, "decoder_pred", x)[:, 1:]


@pytest.mark.parametrize("name", ["mae_visualize_vit_x.pth", "mae_pretrain_vit_x_full.pth"])
def test_a_mae_of_meta_reconstructs_as_meta_does(tmp_path, name):
    w, image = mae_encoder() | mae_decoder(), colours()
    mask = (torch.arange(16) % 3 > 0).int()
    model, report = load_mae(write(tmp_path / name, w), num_heads=HEADS, decoder_num_heads=4)
    masks = masks_from_arrays({"rgb": mask.view(1, 4, 4).repeat(2, 1, 1)})
    loss, pred, _ = model({"rgb": image}, masks)
    theirs = meta_forward(w, image, mask)[:, mask == 1]
    ours = pred["rgb"].unflatten(-1, (3, PATCH, PATCH)).permute(0, 1, 3, 4, 2).flatten(2)
    assert torch.allclose(ours, theirs, atol=1e-4)
    target = patchify(normalised(image), (PATCH, PATCH))[:, mask == 1]
    if "full" in name:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    target = target.unflatten(-1, (3, PATCH, PATCH)).permute(0, 1, 3, 4, 2).flatten(2)
    assert loss.item() == pytest.approx(
        (theirs - target).square().mean().item(), rel=2e-3
    )  # n or n − 1 in the variance
    assert set(report.dropped) == {"pos_embed", "decoder_pos_embed"}
    assert model.grids == {"rgb": (4, 4)}


def released_forward(w: dict, ir: torch.Tensor, vi: torch.Tensor) -> torch.Tensor:
    """The released network by torch's own attention, batch and tokens mixed up as there: patches (B, L, 768)."""
    one, two = ({k.removeprefix(p): v for k, v in w.items() if k.startswith(p)} for p in ("model1.", "model2."))
    ir, vi = (encode(one, x.expand(-1, 3, -1, -1), False) + two["pos_embed"] for x in (ir, vi))
    ask = {}
    for name in ("cross_model", "merge_model"):
        ask[name] = nn.MultiheadAttention(DIM, HEADS)
        ask[name].load_state_dict({k.removeprefix(f"{name}."): v for k, v in two.items() if k.startswith(name)})
    guide = ask["cross_model"](ir, vi, vi)[0] + ask["cross_model"](vi, ir, ir)[0]
    x = ask["merge_model"](guide, vi, vi)[0] + ask["merge_model"](guide, ir, ir)[0]
    x = norm(two, "ln", x + linear(two, "fc2", nn.functional.gelu(linear(two, "fc1", x))), 1e-5)
    x = linear(one, "decoder_embed", x) + one["decoder_pos_embed"]
    return linear(one, "decoder_pred", norm(one, "decoder_norm", blocks(one, "decoder_blocks", 16, 2, x, 4)))


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_released_weights_mean_what_they_meant(tmp_path, prefix):
    w = released()
    path = write(tmp_path / "final.pth", {prefix + name: value for name, value in w.items()})
    model, report = load_maefuse(path, num_heads=HEADS, decoder_num_heads=4)
    assert model.released
    assert model.config["img_size"] == (64, 64)
    ir, vi = luma(colours()), luma(colours().flip(2))
    pixels = released_forward(w, ir, vi).unflatten(-1, (PATCH, PATCH, 3)).permute(0, 1, 4, 2, 3).flatten(2)
    expected = luma(model.encoder.embed.images(pixels, (4, 4)))
    assert torch.allclose(model({"ir": ir, "vi": vi}).image, expected, atol=0.05)  # of 255
    assert set(report.dropped) == {"model1.pos_embed", "model1.decoder_pos_embed", "model2.pos_embed"}
    assert len(report.used) == len(w) - 3
    assert "3 tensors" not in str(report)
    assert "CC BY-NC 4.0" in str(report)


def test_two_files_make_one_model(tmp_path):
    whole, _ = load_maefuse(write(tmp_path / "all.pth", released()), num_heads=HEADS)
    mae = write(tmp_path / "mae.pth", mae_encoder(class_token=False) | mae_decoder(class_token=False))
    parts, _ = load_maefuse(mae, write(tmp_path / "fusion.pth", fusion_layer()), num_heads=HEADS)
    own = whole.state_dict()
    assert all(torch.equal(own[name], value) for name, value in parts.state_dict().items())
    with pytest.raises(ValueError, match=r"mae.pth: no cross_model\..* give the file of that, too, or train one"):
        load_maefuse(mae, num_heads=HEADS)
    decoder_alone, _ = load_maefuse(mae, fusion_layer=False, num_heads=HEADS)
    assert decoder_alone.fusion == "mean"


def test_the_licence_is_stated_and_stays(tmp_path):
    path = write(tmp_path / "mae.pth", mae_encoder())
    with pytest.warns(UserWarning, match="CC BY-NC 4.0 .* no commercial use"):
        model, _ = maefuse_on(path, num_heads=HEADS, **LIGHT)
    assert model.config["licence"].startswith("CC BY-NC 4.0")
    model, report = maefuse_on(path, num_heads=HEADS, licence="", **LIGHT)
    assert report.licence == model.config["licence"] == ""


def test_tables_that_are_no_sine_cosine_are_told(tmp_path):
    w = mae_encoder()
    w["pos_embed"] = w["pos_embed"] + 0.5
    with pytest.warns(UserWarning, match="pos_embed is up to 0.5 from the sine-cosine table"):
        maefuse_on(write(tmp_path / "learned.pth", w), num_heads=HEADS, **LIGHT)


def test_an_encoder_cannot_reconstruct(tmp_path):
    path = write(tmp_path / "mae_pretrain_vit_base.pth", mae_encoder())
    for load in (load_mae, load_maefuse):
        with pytest.raises(ValueError, match=r"mae_pretrain_vit_base.pth: .* encoder alone and cannot reconstruct"):
            load(path, num_heads=HEADS)


def refused(path, match, load=maefuse_on, **options):
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        load(path, num_heads=options.pop("heads", HEADS), **options)


def test_what_does_not_fit_is_named(tmp_path):
    w = mae_encoder()
    lacking = {name: value for name, value in w.items() if name != "blocks.1.norm2.bias"}
    refused(write(tmp_path / "a.pth", lacking), r"a.pth do not fit Encoder: missing: blocks.1.norm2.bias")
    wrong = w | {"norm.weight": torch.ones(7)}
    refused(write(tmp_path / "b.pth", wrong), r"of another shape: norm.weight \(7,\) for \(32,\)")
    refused(write(tmp_path / "c.pth", w | {"head.weight": torch.ones(2)}), "c.pth: head.weight .1 of .* classifiers")
    refused(write(tmp_path / "d.pth", w), "its width, 32, is none of .768, 1024, 1280.*; give num_heads", heads=None)
    other = {"vit.embeddings.cls_token": torch.ones(1)}
    refused(write(tmp_path / "e.pth", other), re.escape("e.pth: no patch_embed.* among its tensors"))
    early = {name: value for name, value in released().items() if not re.search(r"fc\d|ln", name)}
    early |= {name: value for name, value in released().items() if "mlp" in name}
    refused(write(tmp_path / "f.pth", early), "early one, without MLP and norm", load_maefuse)
    two = FusMAE(two_sensors(), 32, embed_dim=32, depth=2, num_heads=4, decoder_num_heads=2, decoder_embed_dim=16)
    refused(two, "the model is a FusMAE of s1, s2; give a FusMAE of one sensor")


def test_files_that_are_no_weights(tmp_path):
    refused(tmp_path / "none.pth", "none.pth is no file, nor timm's name of a MAE")
    path = write(tmp_path / "cut.pth", mae_encoder())
    path.write_bytes(path.read_bytes()[:1000])
    refused(path, "cut.pth cannot be read as weights")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list.pth holds no tensors by name"):
        read_weights(tmp_path / "list.pth")
    (tmp_path / "text.safetensors").write_text("hello, this is no file of tensors")
    with pytest.raises(ValueError, match=r"text.safetensors cannot be read as weights"):
        read_weights(tmp_path / "text.safetensors")
