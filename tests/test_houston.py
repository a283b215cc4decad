import numpy as np
import pytest
from houston_rows import COLS, IMAGES, LABELS, ROWS, SENSORS, opened, save, write_rows
from scipy.io import savemat

from fmlib.data import READERS, open_dataset
from fmlib.data.houston_files import cut_windows, read_mat
from fmlib.data.houston_roi import clusters_of_map, clusters_of_windows, deal, neighbours


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "houston2013")


# -- clusters and folds ---------------------------------------------------------------------------------------------


def test_clusters_are_rebuilt_from_windows_that_overlap():
    place = np.stack(np.nonzero(LABELS), 1)
    found = clusters_of_windows(cut_windows(IMAGES["lidar"], *place.T, 7))
    known = clusters_of_map(LABELS)
    np.testing.assert_array_equal(found.number, known.number)
    assert found.number.max() == 29
    assert found.certain.all()
    for number in range(30):
        own = found.number == number
        np.testing.assert_array_equal(found.position[own], place[own] - place[own][0])
        np.testing.assert_array_equal(known.position[own], place[own] - place[own][0])


def test_windows_without_relief_make_a_cluster_without_positions():
    flat = np.zeros((2, 12, 30))
    flat[:, :, 15:] = np.random.default_rng(0).random((2, 12, 15))
    labels = np.zeros((12, 30), int)
    labels[5:7, 4:7] = labels[5:7, 20:23] = 1
    found = clusters_of_windows(cut_windows(flat, *np.nonzero(labels), 7))
    assert found.certain.tolist() == [False] * 3 + [True] * 3 + [False] * 3 + [True] * 3
    own = neighbours(found, 3)[~found.certain]
    assert (own == np.flatnonzero(~found.certain)[:, None, None]).all()  # each stands for its whole window


def test_windows_that_do_not_overlap_are_refused():
    with pytest.raises(ValueError, match=r"LiDAR\.mat: no two windows overlap.*band after band"):
        clusters_of_windows(np.random.default_rng(0).random((9, 2, 7, 7)), "LiDAR.mat")


def test_windows_of_spectra_are_reflected_inside_the_cluster():
    labels = np.zeros((9, 12), int)
    labels[2:6, 3:8] = 1  # 4 × 5 pixels
    labels[7, 10] = 2
    labels[4, 5] = 0  # a gap
    clusters = clusters_of_map(labels)
    index = neighbours(clusters, 5)
    assert (clusters.number[index] == clusters.number[:, None, None]).all()
    names = np.full((9, 12), -1)
    names[labels > 0] = np.arange((labels > 0).sum())
    rows, cols = np.nonzero(labels)
    corner = index[0]
    assert corner[2, 2] == names[2, 3]
    np.testing.assert_array_equal(corner[2:4, 2:5], names[2:4, 3:6])
    assert corner[0, 2] == names[4, 3]  # two rows above the edge: two rows below it
    assert corner[4, 4] in (names[3, 5], names[5, 5], names[4, 4], names[4, 6])  # the gap: a neighbour of it
    assert (index[-1] == names[7, 10]).all()
    assert (rows[0], cols[0]) == (2, 3)


def test_deal_keeps_clusters_whole_and_classes_everywhere():
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(5), [2, 3, 8, 20, 1])
    clusters = np.repeat(np.arange(len(kinds)), rng.integers(4, 40, len(kinds)))
    labels = kinds[clusters]
    part = deal(labels, clusters, (0.5, 0.5), seed=3)
    assert all(len(set(part[clusters == number])) == 1 for number in range(len(kinds)))
    assert [set(part[labels == kind]) for kind in range(4)] == [{0, 1}] * 4
    assert abs((part[labels == 3] == 0).mean() - 0.5) < 0.05
    np.testing.assert_array_equal(part, deal(labels, clusters, (0.5, 0.5), seed=3))
    assert (part != deal(labels, clusters, (0.5, 0.5), seed=4)).any()
    held_back = deal(labels, clusters, (0.85, 0.15), seed=0)
    assert set(held_back[labels == 4]) == {0}  # its only cluster stays in the larger part
    assert set(held_back[labels == 0]) == {0, 1}


# -- the data set ---------------------------------------------------------------------------------------------------


def test_rows_are_read_band_after_band_and_column_by_column(rows, tmp_path):
    whole = write_rows(tmp_path, spectra=False)
    data = opened(whole)
    place = np.stack(np.nonzero(LABELS), 1)[data.numbers]
    for name in SENSORS:
        expected = cut_windows(IMAGES[name], *place.T, 7).astype(np.float32)
        np.testing.assert_array_equal(data.windows[name], expected)
        np.testing.assert_array_equal(opened(whole, window=3).windows[name], expected[:, :, 2:5, 2:5])
    sample, (row, col) = data[4], place[4]
    assert sample.keys() == {"hsi", "lidar", "label", "id", "place"}
    assert (sample["hsi"].shape, sample["lidar"].shape, sample["hsi"].dtype) == ((144, 7, 7), (21, 7, 7), np.float32)
    assert sample["label"] == LABELS[row, col] - 1
    assert sample["id"] == f"train/{data.numbers[4]:04}"
    assert [path.name for paths in data.files(4).values() for path in paths] == [
        *("HSI_TrSet.mat", "LiDAR_TrSet.mat", "TrLabel.mat")
    ]
    np.testing.assert_array_equal(opened(rows).windows["lidar"], data.windows["lidar"])


def test_windows_of_spectra_come_from_their_own_cluster(rows):
    data = opened(rows, scheme="published")
    place = np.stack(np.nonzero(LABELS), 1)
    np.testing.assert_array_equal(data.windows["hsi"][:, :, 3, 3], IMAGES["hsi"][:, *place.T].T.astype(np.float32))
    inner = [i for i, (r, c) in enumerate(place) if (LABELS[r - 1 : r + 2, c - 1 : c + 2] == LABELS[r, c]).all()]
    true = cut_windows(IMAGES["hsi"], *place[inner].T, 3).astype(np.float32)
    assert len(inner) > 30
    np.testing.assert_array_equal(data.windows["hsi"][inner][:, :, 2:5, 2:5], true)


def test_folds_part_no_cluster_and_do_not_depend_on_the_sensors(rows):
    sets = [opened(rows, "test", fold=fold) for fold in (0, 1)]
    assert sorted(np.concatenate([data.numbers for data in sets])) == list(range((LABELS > 0).sum()))
    assert not set(sets[0].clusters) & set(sets[1].clusters)
    assert all(set(data.labels) == set(range(15)) for data in sets)
    np.testing.assert_array_equal(opened(rows, fold=1).numbers, sets[0].numbers)
    np.testing.assert_array_equal(opened(rows, fold=1, sensors=("hsi",)).numbers, sets[0].numbers)
    assert (opened(rows, "test", seed=5).numbers.tolist()) != sets[0].numbers.tolist()


def test_validation_is_whole_clusters_of_the_training_fold(tmp_path):
    labels = np.zeros((ROWS, COLS), np.uint8)
    for number in range(30):
        labels[1 + 8 * (number // 7) :, 1 + 10 * (number % 7) :][:3, :3] = 1 + number % 5  # six clusters a class
    root = write_rows(tmp_path, labels=labels)
    parts = {split: opened(root, split, validation=0.3) for split in ("train", "validation", "test")}
    clusters = [set(data.clusters) for data in parts.values()]
    assert sum(map(len, clusters)) == len(set.union(*clusters)) == 30
    assert set(parts["validation"].labels) == set(range(5))
    assert len(parts["validation"]) == 5 * 9
    both = opened(root, "train", validation=0.3, scheme="published").numbers
    assert not set(both) & set(opened(root, "validation", validation=0.3, scheme="published").numbers)


def test_the_leaky_split_says_so_and_parts_clusters(rows):
    train, test = (opened(rows, split, scheme="leaky_random") for split in ("train", "test"))
    assert set(train.clusters) & set(test.clusters)
    assert not set(train.numbers) & set(test.numbers)


def test_published_parts(rows, tmp_path):
    root = write_rows(write_rows(tmp_path), "Te", labels=np.flipud(LABELS))
    test = opened(root, "test", scheme="published")
    assert len(test) == (LABELS > 0).sum() == len(opened(root, "train", scheme="published"))
    assert test[0]["id"] == "test/0000"
    with pytest.raises(FileNotFoundError, match=r"no test pixels.*HSI_TeSet\.mat.*TSLabel\.mat.*Samples_VA\.txt"):
        opened(rows, "test", scheme="published")


# -- bad files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("TrLabel.mat", np.full((9, 1), 16), r"TrLabel\.mat: labels \[16\], expected 0 \(none\) and 1 to 15"),
        ("TrLabel.mat", np.zeros((9, 1)), r"TrLabel\.mat: holds 0"),
        ("TrLabel.mat", np.ones((9, 1)), r"LiDAR_TrSet\.mat: .* but there are 9 labels"),
        ("HSI_TrSet.mat", np.ones(((LABELS > 0).sum(), 100)), "HSI_TrSet.mat: 100 values a row, expected 144"),
        ("LiDAR_TrSet.mat", np.random.default_rng(0).random(((LABELS > 0).sum(), 1029)), "no two windows overlap"),
        ("LiDAR_TrSet.mat", np.ones(((LABELS > 0).sum(), 21)), r"HSI_TrSet\.mat: holds single pixels.*HSI_LiDAR_CNN"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, file, array, message):
    save(write_rows(tmp_path) / file, array)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


def test_single_pixels_have_no_clusters(tmp_path):
    save(write_rows(tmp_path) / "LiDAR_TrSet.mat", IMAGES["lidar"][:, *np.nonzero(LABELS)].T)
    with pytest.raises(ValueError, match=r"clusters cannot be told from single pixels.*leaky_random"):
        opened(tmp_path, window=1)
    assert opened(tmp_path, window=1, scheme="leaky_random")[0]["lidar"].shape == (21, 1, 1)


@pytest.mark.parametrize("keep", [0, 100, 200, 5000])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = write_rows(tmp_path) / "HSI_TrSet.mat"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"HSI_TrSet\.mat: (cannot be read as MATLAB|holds no array)"):
        opened(tmp_path)


def test_several_arrays_need_the_name_of_the_file(tmp_path):
    savemat(tmp_path / "HSI.mat", {"one": np.eye(3), "two": np.eye(4), "note": "text"})
    with pytest.raises(ValueError, match=r"holds \['one', 'two'\], expected one array, or one named HSI"):
        read_mat(tmp_path / "HSI.mat")
    savemat(tmp_path / "HSI.mat", {"one": np.eye(3), "HSI": np.eye(4)})
    assert read_mat(tmp_path / "HSI.mat").shape == (4, 4)


def test_matlab_7_3(tmp_path):
    array = np.random.default_rng(0).random((3, 4, 5))
    path = tmp_path / "HSI.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")  # its head: version 2.0, little endian
    try:
        import h5py
    except ModuleNotFoundError:
        with pytest.raises(ModuleNotFoundError, match=r"HSI\.mat: MATLAB 7\.3 \(HDF5\) needs h5py"):
            read_mat(path)
        return
    with pytest.raises(ValueError, match=r"cannot be read as MATLAB 7\.3"):
        read_mat(path)
    with h5py.File(path, "w", userblock_size=512) as file:
        file["HSI"] = array.T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    np.testing.assert_array_equal(read_mat(path), array)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, r"split \['val'\]; choose from"),
        ({"scheme": "random"}, r"scheme \['random'\]; choose from .*leaky_random"),
        ({"sensors": ("s1",)}, r"sensors \['s1'\]"),
        ({"fold": 2}, "fold 2 of 2"),
        ({"validation": 0.8}, "share of the training pixels, 0 to 0.5"),
        ({"split": "validation"}, "validation=0 holds nothing back"),
        ({"window": 4}, "window is an odd number"),
        ({"window": 9}, "windows of 7 × 7 pixels at most"),
    ],
)
def test_an_unknown_choice_is_named(rows, options, message):
    with pytest.raises(ValueError, match=message):
        opened(rows, **options)


# -- the published pixels -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(real_data):
    if not (real_data / "houston2013").is_dir():
        pytest.skip(f"no houston2013 in {real_data}")
    return real_data


def test_published_pixels_form_the_known_clusters(real):
    data = opened(real / "houston2013", scheme="published")
    counts = [198, 190, 192, 188, 186, 182, 196, 191, 193, 191, 181, 192, 184, 181, 187]
    assert np.bincount(data.labels).tolist() == counts
    centre = read_mat(real / "houston2013/LiDAR_TrSet_center.mat")  # a file of its own
    np.testing.assert_array_equal(data.windows["lidar"][:, :, 3, 3], centre.astype(np.float32))
    clusters = [set(data.clusters[data.labels == k]) for k in range(15)]
    assert list(map(len, clusters)) == [8, 19, 2, 17, 13, 7, 25, 26, 22, 9, 7, 19, 7, 2, 2]
    assert len(set.union(*clusters)) == 185  # so none mixes classes
    open_ones = clusters_of_windows(data.windows["lidar"])
    assert sorted(np.unique(open_ones.number[~open_ones.certain], return_counts=True)[1]) == [9, 30]
    flat = data[int(np.flatnonzero(~open_ones.certain)[0])]  # without relief, and still a sample
    assert (flat["hsi"] == flat["hsi"][:, :1, :1]).all()


def test_published_pixels_split_by_cluster(real, monkeypatch):
    monkeypatch.setitem(READERS, "houston2013", ("houston", "Houston2013"))
    train, test = (open_dataset("houston2013", split, real) for split in ("train", "test"))
    assert len(train) + len(test) == 2832
    assert not set(train.clusters) & set(test.clusters)
    assert set(train.labels) == set(test.labels) == set(range(15))
    assert abs(len(test) / 2832 - 0.5) < 0.03
    sample = test[0]
    assert (sample["hsi"].shape, sample["lidar"].shape) == ((144, 7, 7), (21, 7, 7))
