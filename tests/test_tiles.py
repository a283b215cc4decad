"""Windows, central crops and questions: other looks at the same images give what they must, and nothing else."""

import numpy as np
import pytest
import torch
from archives import make_ombria

from fmlib.data import open_dataset, preload
from fmlib.evaluate import Features, cropped, extract, fill_missing, in_tiles, presence, with_labels
from fmlib.evaluate.windows import with_coarse_classes
from fmlib.manifest import load_manifest
from fmlib.models.fusmae import fusmae


def views(count=2, side=8):
    generator = torch.Generator().manual_seed(0)
    images = {
        "s1": torch.randn(count, 1, side, side, generator=generator),
        "s2": torch.randn(count, 3, side // 2, side // 2, generator=generator),
    }
    return [(images, {name: torch.ones(count, dtype=torch.bool) for name in images})]


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    root = make_ombria(tmp_path_factory.mktemp("data"), train=14, test=2)
    return preload(open_dataset("ombria", "test", root), progress=False)


def test_tiles_are_put_together_where_they_came_from():
    given = views()
    seen = []

    def run(cut):
        seen.append({name: tuple(x.shape) for name, x in cut[0][0].items()})
        return cut[0][0]["s1"]

    assert torch.equal(in_tiles(run, given, 4), given[0][0]["s1"])
    assert seen == [{"s1": (8, 1, 4, 4), "s2": (8, 3, 2, 2)}]  # a coarser sensor is cut at the same places
    assert torch.equal(in_tiles(run, given, 8), given[0][0]["s1"])


def test_single_answers_are_averaged_over_tiles():
    given = views()
    found = in_tiles(lambda cut: cut[0][0]["s1"].mean((2, 3)), given, 2)
    assert torch.allclose(found, given[0][0]["s1"].mean((2, 3)), atol=1e-6)


def test_a_missing_sensor_is_missing_in_every_tile():
    images, present = views()[0]
    present["s2"] = torch.tensor([True, False])
    here = in_tiles(lambda cut: cut[0][1]["s2"].float()[:, None], [(images, present)], 4)
    assert here.flatten().tolist() == [1.0, 0.0]


def test_images_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"images of \(8, 8\) pixels do not divide into windows of 3"):
        in_tiles(lambda cut: cut[0][0]["s1"], views(), 3)


def test_tiled_features_are_those_of_windows_alone(held):
    torch.manual_seed(0)
    model = fusmae("nano", list(load_manifest("ombria").sensors.values()), img_size=64).eval()
    tiled = extract(model, held, [1], pool="dense", tile=64).x
    corner = {name: torch.from_numpy(held.arrays[name][[1], :, 64:128, :64]).float() for name in held.modalities}
    tokens = model.encode(corner).tokens
    alone = torch.cat([tokens[name].unflatten(1, model.grids[name]) for name in model.modalities], -1)
    rows, cols = model.grids["s1"]
    assert tiled.shape[1:3] == (4 * rows, 4 * cols)
    assert torch.allclose(tiled[:, rows : 2 * rows, :cols], alone, atol=1e-5)
    mean = extract(model, held, [1], pool="mean", tile=64).x  # over both sensors' tokens
    assert torch.allclose(mean, tiled.unflatten(-1, (2, -1)).mean((1, 2, 3)), atol=1e-5)


def test_cropped_cuts_the_middle_and_leaves_the_original(held):
    small = cropped(held, 100)
    assert small.arrays["s1"].shape == (4, 1, 100, 100)
    assert np.array_equal(small.arrays["label"], held.arrays["label"][:, 78:178, 78:178])
    assert held.arrays["s1"].shape[-1] == 256
    assert [sample["id"] for sample in small.extras] == [sample["id"] for sample in held.extras]
    with pytest.raises(ValueError, match="a window of 300 pixels does not fit"):
        cropped(held, 300)
    with pytest.raises(ValueError, match="preload it first"):
        cropped(object_like(held), 10)


def object_like(held):
    return type("Lazy", (), {"name": held.name, "split": held.split})()


def test_another_field_as_label(held):
    other = with_labels(held, "valid")
    assert np.array_equal(other.arrays["label"], held.arrays["valid"])
    with pytest.raises(ValueError, match="has no 'map'"):
        with_labels(held, "map")


def test_maps_in_coarse_classes(held):
    fine = with_labels(held, "label")
    fine.classes = ("Pastures", "Marine waters")
    coarse = with_coarse_classes(fine)
    known = fine.arrays["label"] != 255
    assert np.array_equal(coarse.arrays["label"][known], np.array([1, 4])[fine.arrays["label"][known]])
    assert (coarse.arrays["label"][~known] == 255).all()
    assert (coarse.classes[4], len(coarse.classes), fine.classes[0]) == ("Water bodies", 5, "Pastures")
    with pytest.raises(ValueError, match="have no CORINE codes"):
        with_coarse_classes(held)


def test_presence_asks_one_question_of_each_map():
    maps = torch.tensor([[[1, 0], [0, 0]], [[1, 255], [255, 0]], [[255, 255], [255, 255]]])
    x = torch.arange(3.0)[:, None, None, None].expand(3, 2, 2, 5)
    found = presence(Features(x, maps, list("abc"), list("abc")), 1, 0.3)
    assert found.labels.tolist() == [0, 1, 255]  # a quarter, half of what is known, nothing known
    assert torch.equal(found.x, torch.arange(3.0)[:, None].expand(3, 5))


def test_missing_features_are_the_training_mean_and_the_others_stay():
    train = torch.randn(10, 2, 2, 12)  # two views × three sensors × two features
    x = torch.randn(4, 2, 2, 8)  # the same without the second sensor
    full = fill_missing(x, ("a", "c"), ("a", "b", "c"), train, views=2).unflatten(-1, (2, 3, 2))
    assert torch.equal(full[..., [0, 2], :], x.unflatten(-1, (2, 2, 2)))
    mean = train.flatten(0, 2).mean(0).unflatten(0, (2, 3, 2))[:, 1]
    assert torch.allclose(full[..., 1, :], mean.expand(4, 2, 2, 2, 2))
    assert fill_missing(train, ("a",), ("a", "b", "c"), train) is train  # one part for all sensors
