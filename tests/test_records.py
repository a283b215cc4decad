"""Packed records: round trips, resuming, damage of every kind."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from archives import make_ombria
from made_records import Made, pack_made

from fmlib.data import open_dataset
from fmlib.data.batches import collate
from fmlib.data.pack import pack, verify
from fmlib.data.records import INDEX, Records, read_header
from fmlib.data.sample import Raw, to_sample
from fmlib.train import train


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    return pack_made(source, tmp_path_factory.mktemp("packed"))


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert np.array_equal(a[key], b[key]), key
        assert getattr(a[key], "dtype", None) == getattr(b[key], "dtype", None), key


def test_every_stored_value_comes_back_bit_by_bit(source, packed):
    records = Records(packed)
    assert len(records) == 23
    assert records.header["options"] == {"dates": ["after"]}
    for index in range(23):
        raw, again = source.read(index), records.read(index)
        assert raw.bands.keys() == again.bands.keys()
        for name, bands in raw.bands.items():
            for band, back in zip(bands, again.bands[name], strict=True):
                assert band.dtype == back.dtype
                assert band.tobytes() == back.tobytes()  # NaN, too
        equal(source[index], records[index])


def test_batches_equal_those_of_samples(source, packed):
    records = Records(packed)
    indices = [3, 22, 0, 8, 7]
    batch, expected = records.batch(indices), collate([source[i] for i in indices], ["s1", "s2"])
    assert batch.keys() == expected.keys()
    for key in ("s1", "s2", "label", "map", "valid"):
        assert torch.equal(batch[key], expected[key]), key
    assert batch["present"]["s1"].tolist() == [False, True, True, True, True]
    assert (batch["id"], batch["place"]) == (expected["id"], expected["place"])
    assert "map" not in records.batch([4, 5])  # sample 5 has none


def test_labels_are_known_without_reading_a_record(source, packed):
    expected = [source.read(index).extras["label"] for index in range(23)]
    np.testing.assert_array_equal(Records(packed).labels, expected)


def test_sensors_bands_and_sizes_are_chosen_as_with_any_reader(source, packed):
    s2 = source.modalities["s2"].replace(bands=("s2_3", "s2_0"), mean=(0, 0), std=(1, 1), groups=(), rgb=())
    records = Records(packed, {"s2": s2}, size=6, resample="area")
    raw = source.read(1)
    raw = Raw({"s2": [raw.bands["s2"][3], raw.bands["s2"][0]]}, raw.extras, raw.files, raw.nodata)
    equal(records[1], to_sample(raw, {"s2": s2}, 6, "area"))
    assert torch.equal(records.batch([1])["s2"][0], torch.from_numpy(records[1]["s2"]))
    with pytest.raises(ValueError, match=r"no \['B99'\] of 's2' in these records"):
        Records(packed, {"s2": s2.replace(bands=("s2_3", "B99"), rgb=(), groups=())})


def test_workers_read_the_same(packed):
    records = Records(packed)
    _ = records[0]  # files are open here, and must not travel
    assert pickle.loads(pickle.dumps(records))._files == []
    loader = torch.utils.data.DataLoader(range(23), 8, collate_fn=records.batch, num_workers=2)
    assert torch.equal(torch.cat([batch["s2"] for batch in loader]), records.batch(range(23))["s2"])


def test_a_shard_cut_while_it_is_open_is_named(packed, tmp_path):
    folder = shutil.copytree(packed, tmp_path / "cut")
    records = Records(folder)
    os.truncate(folder / "shard-00001.bin", 3 * records.dtype.itemsize + 1)
    assert len(records.batch(range(11))["id"]) == 11  # what is whole is read
    with pytest.raises(ValueError, match=r"shard-00001.bin became shorter"):
        records.batch([2, 11])


def test_parallel_packing_writes_the_same_bytes(packed, tmp_path):
    source = Made(tmp_path / "source")
    again = pack(source, tmp_path / "train", {"dates": ("after",)}, shard_size=8, workers=2)
    sums = [[shard["sha256"] for shard in read_header(folder)["shards"]] for folder in (packed, again)]
    assert sums[0] == sums[1]
    assert (again / INDEX).read_bytes() == (packed / INDEX).read_bytes()


# -- resuming -----------------------------------------------------------------------------------------------------


class Counting(Made):
    """Counts what is read, and dies after so many samples when told to."""

    count_read, dies_after = 0, None

    def read(self, index):
        if self.count_read == self.dies_after:
            raise KeyboardInterrupt
        self.count_read += 1
        return super().read(index)


def test_a_killed_packing_goes_on_and_nothing_opens_before_its_end(tmp_path, packed):
    source = Counting(tmp_path / "source")
    source.dies_after = 23 + 19  # once through to find the fields
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "train", {"dates": ("after",)}, shard_size=8, workers=0)
    with pytest.raises(
        FileNotFoundError, match=r"records.json is missing: no packed records, or packing was interrupted"
    ):
        Records(tmp_path / "train")
    assert not (tmp_path / "train" / "shard-00002.bin").exists()
    source.dies_after, source.count_read = None, 0
    pack(source, tmp_path / "train", {"dates": ("after",)}, shard_size=8, workers=0)
    assert source.count_read == 23 + 7  # all once to find the fields, then the last shard alone
    assert read_header(tmp_path / "train")["shards"] == read_header(packed)["shards"]


def test_a_changed_source_is_noticed_and_packed_anew(tmp_path):
    source = Made(tmp_path / "source")
    folder = pack(source, tmp_path / "train", shard_size=8, workers=0)
    before = Records(folder)[9]["s2"]
    (tmp_path / "source" / "9.txt").write_text("999")
    states = [row["state"] for row in verify(folder, source)]
    assert states == ["verified", "its source has changed: pack again", "verified"]
    old = [os.stat(folder / f"shard-0000{i}.bin").st_mtime_ns for i in range(3)]
    pack(source, folder, shard_size=8, workers=0)
    new = [os.stat(folder / f"shard-0000{i}.bin").st_mtime_ns for i in range(3)]
    assert [a == b for a, b in zip(old, new, strict=True)] == [True, False, True]
    assert not np.array_equal(Records(folder)[9]["s2"], before)
    assert {row["state"] for row in verify(folder, source)} == {"verified"}


def test_other_options_pack_all_anew(tmp_path):
    source = Counting(tmp_path / "source")
    pack(source, tmp_path / "train", {"with_map": False}, shard_size=8, workers=0)
    source.count_read = 0
    pack(source, tmp_path / "train", {"with_map": True}, shard_size=8, workers=0)
    assert source.count_read == 23 + 23


# -- in place of the files ----------------------------------------------------------------------------------------


def test_open_dataset_takes_records_that_were_packed_with_the_same_options(tmp_path):
    root = make_ombria(tmp_path, train=20, test=2)
    files = open_dataset("ombria", "test", root)
    folder = tmp_path / "ombria" / "records" / "test"
    pack(files, folder, {}, workers=0)
    records = open_dataset("ombria", "test", root)
    assert isinstance(records, Records)
    for index in range(4):
        equal(files[index], records[index])
    assert not isinstance(open_dataset("ombria", "test", root, records=False), Records)
    assert not isinstance(open_dataset("ombria", "test", root, dates=("after",)), Records)
    assert open_dataset("ombria", "test", root, ("s2",), size=64)[0]["s2"].shape == (3, 64, 64)
    with pytest.raises(FileNotFoundError, match="no records of ombria/test with these options"):
        open_dataset("ombria", "test", root, records=True, dates=("after",))


def test_training_from_records_equals_training_from_files(tmp_path, monkeypatch):
    """Read from disk as they are needed, records give the weights that the files give, bit by bit."""
    root = make_ombria(tmp_path, train=20, test=2)
    settings = {"data": "ombria", "data_root": str(root), "preset": "nano", "img_size": 32, "batch_size": 4, "steps": 3}
    settings |= {"num_threads": 1, "validate_every": 0, "device": "cpu"}
    weights = [train(settings | {"out": str(tmp_path / "files")}).state_dict()]
    pack(open_dataset("ombria", "train", root), root / "ombria" / "records" / "train", workers=0)
    monkeypatch.setattr("fmlib.train.IN_MEMORY", 0)
    monkeypatch.setattr("fmlib.train.preload", None)  # nothing is read ahead
    weights.append(train(settings | {"out": str(tmp_path / "records")}).state_dict())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
