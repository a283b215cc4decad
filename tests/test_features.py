"""Frozen features: what is shown, how it is pooled, and that nothing else changes."""

import numpy as np
import pytest
import torch
from archives import make_ombria
from held import Made, hold, make_samples, weights
from sensors import two_sensors

from fmlib.data import open_dataset, preload
from fmlib.evaluate import dense_probe, extract, pair_views, standardise
from fmlib.evaluate.features import embed, grid_of
from fmlib.evaluate.probe import ProbeParams
from fmlib.models.baselines import InfoNCE, SmallResNet
from fmlib.models.fusmae import fusmae

POOLS = {"cls": (6, 128), "mean": (6, 128), "sensors": (6, 256), "dense": (6, 4, 4, 256)}


def model_of(fusion="xaed", **options):
    torch.manual_seed(0)
    return fusmae("nano", two_sensors(), img_size=32, fusion=fusion, **options).eval()


@pytest.mark.parametrize(("pool", "shape"), POOLS.items())
def test_shapes_labels_and_names(pool, shape):
    found = extract(model_of(), hold(make_samples(6)), pool=pool, batch_size=4)
    assert found.x.shape == shape
    assert found.labels.tolist() == [0, 1] * 3
    assert (found.ids[5], found.places[5]) == ("005", "p2")
    some = found.take([5, 0])
    assert torch.equal(some.x, found.x[[5, 0]])
    assert (some.ids, some.labels.tolist()) == (["005", "000"], [1, 0])


def test_pools_are_what_they_are_called():
    """Pooled by hand from the tokens of one encoding."""
    model, data = model_of(), hold(make_samples(3))
    batch = data.batch(range(3))
    with torch.no_grad():
        encoded = model.encode({n: batch[n] for n in ("s1", "s2")})
    tokens = torch.cat([encoded.tokens["s1"], encoded.tokens["s2"]], 1)
    found = {pool: extract(model, data, pool=pool).x for pool in POOLS}
    torch.testing.assert_close(found["cls"], encoded.cls)
    torch.testing.assert_close(found["mean"], tokens.mean(1))
    torch.testing.assert_close(found["sensors"][:, 128:], encoded.tokens["s2"].mean(1))
    torch.testing.assert_close(found["dense"][1, 2, 3, :128], encoded.tokens["s1"][1, 2 * 4 + 3])


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("fusion", ["none", "xaed", "stack"])
def test_a_sensor_that_is_not_shown_does_not_matter(fusion, pool):
    """S1-only features are the same whatever S2 shows, or if there is none; features of both are not."""
    samples, model = make_samples(4), model_of(fusion)
    changed = [s | {"s2": s["s2"] + 1} for s in samples]
    without = [{k: v for k, v in s.items() if k != "s2"} for s in samples]
    alone = [extract(model, hold(x), sensors=["s1"], pool=pool).x for x in (samples, changed, without)]
    assert torch.equal(alone[0], alone[1])
    assert torch.equal(alone[0], alone[2])
    both = [extract(model, hold(x), pool=pool).x for x in (samples, changed)]
    assert not torch.allclose(*both)
    assert torch.equal(extract(model, hold(without), pool=pool).x, alone[0])  # its part is left out


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("fusion", ["none", "xaed"])
def test_a_sample_that_lacks_a_sensor_is_encoded_without_it(fusion, pool):
    samples, model = make_samples(4), model_of(fusion)
    whole = extract(model, hold(samples), pool=pool).x
    samples[1] = {k: v for k, v in samples[1].items() if k != "s2"}
    found = extract(model, hold(samples), pool=pool).x
    torch.testing.assert_close(found[[0, 2, 3]], whole[[0, 2, 3]])
    alone = extract(model, hold(samples[1:2]), sensors=["s1"], pool=pool).x[0]
    torch.testing.assert_close(found[1][..., : alone.shape[-1]], alone)
    assert (found[1][..., alone.shape[-1] :] == 0).all()  # of its part, where there is one
    with pytest.raises(ValueError, match=r"\['001'\] have none of \['s2'\]"):
        extract(model, hold(samples), sensors=["s2"], pool=pool)


def test_extraction_leaves_the_model_as_it_was():
    model = model_of()
    before = weights(model)
    found = extract(model, hold(make_samples(4)), pool="dense")
    assert not found.x.requires_grad
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with pytest.raises(AssertionError, match=r"model\.eval\(\)"):
        extract(model.train(), hold(make_samples(4)))


def test_larger_images_and_central_windows():
    """A model made for 32 pixels takes 64; a window shows the same as cutting the images beforehand."""
    model, samples = model_of(), make_samples(2, side=64, task="segmentation")
    whole = extract(model, hold(samples), pool="dense")
    assert whole.x.shape == (2, 8, 8, 256)
    window = extract(model, hold(samples), pool="dense", crop=32)
    cut = [s | {k: np.ascontiguousarray(s[k][..., 16:48, 16:48]) for k in ("s1", "s2", "label")} for s in samples]
    by_hand = extract(model, hold(cut), pool="dense")
    assert torch.equal(window.x, by_hand.x)
    assert torch.equal(window.labels, by_hand.labels)


def test_class_tokens_of_several_blocks():
    model, data = model_of(), hold(make_samples(2))
    found = extract(model, data, cls_layers=3).x
    assert found.shape == (2, 384)
    torch.testing.assert_close(found[:, 256:], extract(model, data).x)  # the last one comes last
    assert not torch.allclose(found[:, :128], found[:, 128:256])
    with pytest.raises(ValueError, match="cls_layers is 4, but this encoder has 3 shared blocks"):
        extract(model, data, cls_layers=4)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("make", [InfoNCE, SmallResNet])
def test_baselines_have_features_of_every_kind(make, pool):
    """A convnet has one set of features for all sensors, on its own coarser grid; a missing sensor is no error."""
    options = {"embed_dim": 64, "depth": 2, "num_heads": 4} if make is InfoNCE else {}
    model = make(two_sensors(), img_size=64, **options).eval()
    samples = make_samples(3, side=64)
    del samples[1]["s2"]
    found = extract(model, hold(samples), pool=pool).x
    parts, dim, side = (1, 512, 2) if make is SmallResNet else (2, 64, 8)
    width = parts * dim if pool in ("sensors", "dense") else dim
    assert found.shape == ((3, side, side, width) if pool == "dense" else (3, width))
    assert torch.isfinite(found).all()
    alone = extract(model, hold(samples), sensors=["s1"], pool=pool).x
    torch.testing.assert_close(found[1][..., : alone.shape[-1]], alone[1])


def test_any_data_set_will_do_and_views_are_joined():
    """Not preloaded, two views: the features of each side by side, the label of the last."""
    samples, model = make_samples(4), model_of()
    pair = extract(model, Made(samples), [[0, 1], [2, 3]], pool="mean")
    single = extract(model, hold(samples), pool="mean")
    torch.testing.assert_close(pair.x[1], torch.cat([single.x[2], single.x[3]]))
    assert pair.labels.tolist() == [1, 1]
    assert pair.ids == ["001", "003"]


def test_views_of_one_place():
    dates = [("q/2/before", "2"), ("q/1/after", "1"), ("q/1/before", "1"), ("q/2/after", "2")]
    data = Made([{"id": identity, "place": place} for identity, place in dates])
    assert pair_views(data).tolist() == [[0, 3], [2, 1]]
    assert pair_views(data, ["after"]).tolist() == [[3], [1]]
    data.samples.pop()
    with pytest.raises(ValueError, match=r"place '2' lacks \['after'\]; it has \['before'\]"):
        pair_views(data)


def test_standardising_takes_the_training_parts_statistics():
    train = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2
    train[:, 2] = 7.0
    first, second = standardise(train, train[:10] + 5)
    torch.testing.assert_close(first[:, :2].mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(first[:, :2].std(0, correction=0), torch.ones(2))
    torch.testing.assert_close(second[:, :2], first[:10, :2] + 5 / train[:, :2].std(0, correction=0))
    assert (first[:, 2] == 0).all()  # constant: no noise blown up
    assert torch.isfinite(second).all()


def test_grids_follow_the_shape_of_image_and_patch():
    assert grid_of(32, (64, 32), (8, 8)) == (8, 4)
    assert grid_of(32, (32, 32), (4, 8)) == (8, 4)
    with pytest.raises(ValueError, match="33 tokens do not fill a grid"):
        grid_of(33, (64, 32), (8, 8))


def test_bad_requests_are_named():
    model, data = model_of(), hold(make_samples(2))
    with pytest.raises(ValueError, match=r"sensors \['s3'\] are not known to both"):
        extract(model, data, sensors=["s3"])
    with pytest.raises(ValueError, match="pool is 'max'; choose one of cls, mean, sensors, dense"):
        extract(model, data, pool="max")
    with pytest.raises(ValueError, match="no samples to look at"):
        extract(model, data, indices=[])
    batch = data.batch(range(2))
    assert embed(model, {"s1": batch["s1"]}, batch["present"], "mean").requires_grad  # for fine-tuning


def test_the_whole_way_on_a_small_archive_of_floods(tmp_path):
    """Before and after, both sensors, features, maps: better than chance where the flood is what is bright."""
    root = make_ombria(tmp_path, train=8, test=2)
    parts = [preload(open_dataset("ombria", split, root), progress=False) for split in ("train", "validation", "test")]
    model = fusmae("nano", list(parts[0].modalities.values()), img_size=64).eval()
    train, validation, test = (extract(model, data, pair_views(data), pool="dense", crop=64) for data in parts)
    assert train.x.shape == (len(parts[0]) // 2, 8, 8, 2 * 2 * 128)
    assert test.labels.shape == (2, 64, 64)
    params = ProbeParams("adamw", lrs=(1e-2,), weight_decays=(1e-3,), epochs=20, batch_size=4)
    result = dense_probe(train, validation, test, params=params)
    assert result.chosen["miou"] > 0.6
    assert result.outputs.shape == (2, 2, 2)
