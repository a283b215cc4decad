"""Statistics against images whose answer is known."""

import numpy as np
import pytest

from fmlib import quality
from fmlib.modality import Modality

DB = Modality("s1", ("VV",), "dB", (-50, 20), (-10.0,), (5.0,))
OPTICAL = Modality("s2", ("B03", "B04", "B08"), "reflectance", (0, 1), (0.1, 0.1, 0.3), (0.1, 0.1, 0.1))


def speckle(looks, shape=(240, 240), seed=0):
    """Gamma speckle of mean 1."""
    return np.random.default_rng(seed).gamma(looks, 1 / looks, shape)


def smooth_field(shape=(160, 160), seed=0):
    """A landscape: noise with a correlation length of some pixels."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4, mode="wrap")


@pytest.mark.parametrize("looks", [1, 4.4, 12])
def test_looks_of_gamma_speckle(looks):
    assert quality.equivalent_number_of_looks(speckle(looks)) == pytest.approx(looks, rel=0.1)


def test_looks_of_images_of_several_sizes():
    images = [speckle(5, (120, 90)), speckle(5, (60, 200), seed=1), speckle(5, (90, 90), seed=2)]
    assert quality.equivalent_number_of_looks(images) == pytest.approx(5, rel=0.15)


def test_looks_in_front_of_a_landscape():
    landscape = np.where(smooth_field((480, 480)) > 0, 5.0, 1.0)  # fields with edges
    found = quality.equivalent_number_of_looks(landscape * speckle(5, (480, 480)))
    assert found == pytest.approx(5, rel=0.15)


def test_looks_do_not_depend_on_decibels_or_brightness():
    power = speckle(4)
    decibels = 10 * np.log10(30 * power)
    back = quality.to_power(decibels, DB)
    assert back == pytest.approx(30 * power)
    assert quality.equivalent_number_of_looks(back) == pytest.approx(quality.equivalent_number_of_looks(power))


def test_looks_refuse_decibels_and_small_images():
    with pytest.raises(ValueError, match=r"look like decibels.*to_power"):
        quality.equivalent_number_of_looks(10 * np.log10(speckle(4)))
    with pytest.raises(ValueError, match="smaller than a window of 9"):
        quality.equivalent_number_of_looks(speckle(4, (5, 5)))
    with pytest.raises(ValueError, match="only 0 usable windows"):
        quality.equivalent_number_of_looks(np.ones((64, 64)))


def test_homogeneous_window_avoids_the_edge():
    power = speckle(5, (96, 96))
    power[:, 40:] *= np.linspace(1, 60, 56)  # only the left part is homogeneous
    row, col, side = quality.homogeneous_window(power, 5, 32)
    assert col + side <= 48
    assert power[row : row + side, col : col + side].shape == (32, 32)


def test_information_of_an_image_with_itself_and_with_noise():
    a, b = np.random.default_rng(0).normal(size=(2, 256, 256))
    assert quality.mutual_information(a, a) == pytest.approx(1)
    assert quality.mutual_information(a, np.exp(a), sigma=0) == pytest.approx(1)  # any monotonic change of unit
    assert 0 <= quality.mutual_information(a, b, sigma=0) < 0.001
    assert quality.mutual_information(a, b) < 0.02  # smoothing leaves fewer independent pixels


def test_information_of_a_constant_image_is_zero():
    assert quality.mutual_information(np.ones((32, 32)), smooth_field((32, 32))) == 0


@pytest.mark.parametrize(("shift", "axis"), [(0, 1), (3, 1), (-5, 1), (4, 0)])
def test_information_peaks_at_the_shift(shift, axis):
    a = smooth_field()
    b = np.roll(-a, shift, axis) + 0.01 * np.random.default_rng(1).normal(size=a.shape)
    shifts, values = quality.mutual_information_against_shift(a, b, max_shift=8, axis=axis)
    assert list(shifts) == list(range(-8, 9))
    assert shifts[values.argmax()] == shift


@pytest.mark.parametrize("shift", [(0, 0), (2, 3), (-5, 1)])
def test_the_map_of_information_peaks_at_the_shift(shift):
    a = smooth_field()
    b = np.roll(-a, shift, (0, 1)) + 0.01 * np.random.default_rng(1).normal(size=a.shape)
    shifts, found = quality.mutual_information_map(a, b, max_shift=6)
    assert found.shape == (13, 13)
    assert tuple(shifts[list(np.unravel_index(found.argmax(), found.shape))]) == shift
    along = quality.mutual_information_against_shift(a[6:-6], b[6:-6], 6)[1]  # the same rows, shifted along columns
    assert np.abs(along - found[6]).max() < 0.02


def test_information_refuses_different_shapes_and_large_shifts():
    with pytest.raises(ValueError, match="one shape"):
        quality.mutual_information(np.zeros((8, 8)), np.zeros((8, 9)))
    with pytest.raises(ValueError, match="max_shift is 40"):
        quality.mutual_information_against_shift(np.ones((64, 64)), np.ones((64, 64)), 40)
    with pytest.raises(ValueError, match="max_shift is 8, but the images are 16 pixels long"):
        quality.mutual_information_map(np.ones((64, 16)), np.ones((64, 16)), 8)


def test_true_pairs_know_more_than_wrong_ones():
    fields = [smooth_field(seed=i) for i in range(4)]
    shifts, curves = quality.information_curves(fields, [-f for f in fields], max_shift=6, step=2)
    assert shifts.tolist() == [-6, -4, -2, 0, 2, 4, 6]
    assert curves["true pair"].shape == curves["wrong pair"].shape == (4, 7)
    assert (curves["true pair"][:, 3] == curves["true pair"].max(axis=1)).all()
    assert curves["wrong pair"].max() < 0.5 * curves["true pair"][:, 3].min()
    with pytest.raises(ValueError, match="at least two"):
        quality.information_curves(fields[:1], fields[:1])


def test_wrong_pairs_may_differ_in_size():
    sizes = [(160, 120), (100, 140), (130, 130), (110, 160)]
    fields = [smooth_field(size, seed=i) for i, size in enumerate(sizes)]
    curves = quality.information_curves(fields, [-f for f in fields], max_shift=4, step=4)[1]
    assert (curves["true pair"].argmax(axis=1) == 1).all()
    finer = [np.kron(-f, np.ones((2, 2))) for f in fields]  # the second sensor on a grid twice as fine
    again = quality.information_curves(fields, finer, max_shift=4, step=4)[1]
    assert again["true pair"] == pytest.approx(curves["true pair"])


def test_ndvi():
    image = np.array([0.1, 0.1, 0.3])[:, None, None] * np.ones((1, 2, 2))
    image[:, 0, 0] = 0
    found = quality.ndvi(image, OPTICAL)
    assert found[1, 1] == pytest.approx(0.5)
    assert found[0, 0] == 0
    assert quality.ndvi(image, OPTICAL.replace(bands=("green", "red", "NIR"), rgb=(), groups=())) == pytest.approx(
        found
    )
    with pytest.raises(ValueError, match=r"'s1' has bands .* NDVI needs"):
        quality.ndvi(image[:1], DB)


def test_band_statistics_agree_with_numpy_and_pass_over_pixels_without_data():
    images = np.random.default_rng(0).normal(3, 2, (5, 3, 40, 40))
    mean, std = quality.band_statistics([{"s2": image} for image in images], "s2")
    flat = np.moveaxis(images, 1, 0).reshape(3, -1)
    assert mean == pytest.approx(flat.mean(1))
    assert std == pytest.approx(flat.std(1))
    rest = np.concatenate([images[0, :, 20:].reshape(3, -1), images[1:].swapaxes(0, 1).reshape(3, -1)], axis=1)
    holed = images.copy()
    holed[0, 1, :20] = np.nan
    assert quality.band_statistics([{"s2": image} for image in holed], "s2")[0] == pytest.approx(rest.mean(1))
    half = np.repeat(np.repeat(np.arange(2), 10), 20).reshape(20, 20) > 0  # on a coarser grid than the image
    marked = [{"s2": images[0], "valid": half}, *({"s2": image} for image in images[1:]), {"id": "without"}]
    assert quality.band_statistics(marked, "s2")[0] == pytest.approx(rest.mean(1))
    with pytest.raises(ValueError, match="no sample of these 1 samples has pixels of 's2'"):
        quality.band_statistics([{"id": "without"}], "s2")


def test_measured_statistics_stand_beside_the_manifests():
    samples = [{"s2": np.random.default_rng(i).normal(0.2, 0.1, (3, 8, 8))} for i in range(3)]
    table = quality.compare_with_manifest(samples, {"s1": DB, "s2": OPTICAL})
    assert [(row["sensor"], row["band"]) for row in table] == [("s2", band) for band in OPTICAL.bands]
    assert [row["manifest mean"] for row in table] == list(OPTICAL.mean)
    assert table[2]["mean"] == quality.band_statistics(samples, "s2")[0][2]
    assert table[0]["samples"] == 3


def test_labels_are_counted_whatever_their_kind():
    classes = ("dry", "flood", "wet")
    assert quality.count_labels([0, 2, 2], classes).tolist() == [1, 0, 2]
    assert quality.count_labels([np.array([1.0, 0, 1]), np.array([0, 0, 1.0])], classes).tolist() == [1, 0, 2]
    label_map = np.array([[0, 1], [1, 255]], np.uint8)  # 255: no data
    assert quality.count_labels([label_map], classes).tolist() == [1, 2, 0]


class Holed:
    """Ten samples; the even ones lack a sensor or pixels."""

    modalities = {"s1": DB, "s2": OPTICAL}  # noqa: RUF012

    def __len__(self):
        return 10

    def __getitem__(self, index):
        sample = {"s1": np.zeros((1, 4, 4)), "s2": np.zeros((3, 4, 4)), "id": index}
        if index % 4 == 0:
            del sample["s1"]
        return sample | ({"valid": np.eye(4) > 0} if index % 4 == 2 else {})


def test_complete_pairs():
    found = [sample["id"] for sample in quality.complete_pairs(Holed(), 3, seed=1)]
    assert len(set(found)) == 3
    assert all(number % 2 for number in found)
    assert found == [sample["id"] for sample in quality.complete_pairs(Holed(), 3, seed=1)]
    assert len(quality.complete_pairs(Holed(), 99)) == 5
