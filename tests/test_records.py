"""Packed records: round trips, resuming, damage of every kind."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import make_ombria
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sensors import sensor

from fmlib.data import open_dataset
from fmlib.data.batches import collate
from fmlib.data.pack import pack, verify
from fmlib.data.records import HEADER, INDEX, Records, read_header
from fmlib.data.sample import Raw, to_sample
from fmlib.train import train


class Made:
    """Samples of a radar and an optical sensor with three native sizes; sample 3 lacks radar, sample 5 its map.

    Their values follow from the file that stands for each, so that a changed file is a changed source.
    """

    name, split, classes = "made", "train", ("a", "b", "c")
    size, resample = None, "nearest"

    def __init__(self, folder: Path, count: int = 23):
        self.modalities = {
            "s1": sensor("s1", 2).replace(unit="dB", mean=(-12, -19), valid_range=(-50, 10), on_nodata="mean"),
            "s2": sensor("s2", 4).replace(unit="reflectance × 10000", valid_range=(0, 10000)),
        }
        self.folder, self.count = folder, count
        folder.mkdir(exist_ok=True, parents=True)
        for index in range(count):
            if not (folder / f"{index}.txt").exists():
                (folder / f"{index}.txt").write_text(str(index))

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return to_sample(self.read(index), self.modalities, self.size, self.resample)

    def files(self, index):
        return {"s2": (self.folder / f"{index}.txt",)}

    def read(self, index):
        rng = np.random.default_rng(int((self.folder / f"{index}.txt").read_text()))
        sizes = (12, 6, 12, 3)
        bands = {"s2": [rng.integers(1, 9999, (side, side), dtype=np.uint16) for side in sizes]}
        if index != 3:
            bands["s1"] = list(rng.normal(-15, 3, (2, 12, 12)).astype(np.float32))
            bands["s1"][1][0, index % 12] = np.nan
        extras = {"id": f"patch/{index}ä", "place": f"tile{index // 4}", "lonlat": np.array([index / 7, 50.0])}
        extras["label"] = (rng.random(3) < 0.5).astype(np.float32)
        if index != 5:
            extras["map"] = rng.integers(0, 3, (40, 40), dtype=np.uint8)
        return Raw(bands, extras, self.files(index) | {"s1": self.files(index)["s2"]}, {"s2": 0.0})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    return pack(source, tmp_path_factory.mktemp("packed") / "train", {"dates": ("after",)}, shard_size=8, workers=0)


@pytest.fixture
def copy(packed, tmp_path):
    """A copy of the records that a test may damage."""
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


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
    _ = records[0]  # maps are open here, and must not travel
    assert pickle.loads(pickle.dumps(records))._maps == []
    loader = torch.utils.data.DataLoader(range(23), 8, collate_fn=records.batch, num_workers=2)
    assert torch.equal(torch.cat([batch["s2"] for batch in loader]), records.batch(range(23))["s2"])


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


# -- damage -------------------------------------------------------------------------------------------------------


def test_a_torn_shard_is_named(copy):
    shard = copy / "shard-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"shard-00001.bin is torn: [\d,]+ bytes, expected [\d,]+; remove it"):
        Records(copy)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001.bin is missing; run the same fmlib data pack"):
        Records(copy)


def test_a_flipped_bit_is_found_by_its_checksum(copy, source):
    shard = copy / "shard-00002.bin"
    data = bytearray(shard.read_bytes())
    data[1234] ^= 1
    shard.write_bytes(data)
    states = [row["state"] for row in verify(copy)]
    assert states == ["verified", "verified", "wrong checksum: remove it and pack again"]


def test_a_sample_that_does_not_fit_is_named(tmp_path):
    class Odd(Made):
        def read(self, index):
            raw = super().read(index)
            if index == 20:
                raw.bands["s2"][0] = raw.bands["s2"][0][:6]
            return raw

    # the odd one lies beyond those from which the fields are found
    class Late(Odd):
        def __len__(self):
            return 23

    from fmlib.data import fields

    fields_seen = fields.LOOKED_AT
    fields.LOOKED_AT = 8
    try:
        with pytest.raises(ValueError, match=r"patch/20ä: s2 s2_0 is <u2\[6, 12\], in the first samples <u2\[12, 12\]"):
            pack(Late(tmp_path / "source"), tmp_path / "train", shard_size=8, workers=0)
    finally:
        fields.LOOKED_AT = fields_seen
    assert not (tmp_path / "train" / HEADER).exists()


def test_no_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match=r"the records take .* GiB more, but 0.0 GiB are free"):
        pack(Made(tmp_path / "source"), tmp_path / "train", workers=0)
    assert not list((tmp_path / "train").glob("*"))


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="made/train is empty"):
        pack(Made(tmp_path / "source", count=0), tmp_path / "train")


def opens_or_complains(folder: Path) -> bool:
    """Whole records, or an error that names the folder."""
    try:
        return len(Records(folder)) == 23
    except (ValueError, FileNotFoundError) as error:
        return str(folder) in str(error)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happens_to_header_or_index_they_open_or_are_called_damaged(packed, tmp_path, data):
    """Bytes changed, cut off or put in, at random places: never another error, never silence about a shape."""
    for name in (HEADER, INDEX):
        (tmp_path / name).write_bytes((packed / name).read_bytes())
    for shard in packed.glob("*.bin"):
        if not (tmp_path / shard.name).exists():
            (tmp_path / shard.name).symlink_to(shard)
    victim = tmp_path / data.draw(st.sampled_from([HEADER, INDEX]))
    content = victim.read_bytes()
    first = data.draw(st.integers(0, len(content) - 1))
    last = data.draw(st.integers(first, min(first + 8, len(content))))
    victim.write_bytes(content[:first] + data.draw(st.binary(max_size=8)) + content[last:])
    assert opens_or_complains(tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_header_with_other_values_opens_or_is_called_damaged(packed, tmp_path, data):
    header = json.loads((packed / HEADER).read_text())
    key = data.draw(st.sampled_from(sorted(header)))
    junk = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
        max_leaves=4,
    )
    header[key] = data.draw(junk)
    (tmp_path / HEADER).write_text(json.dumps(header))
    (tmp_path / INDEX).write_bytes((packed / INDEX).read_bytes())
    for shard in packed.glob("*.bin"):
        if not (tmp_path / shard.name).exists():
            (tmp_path / shard.name).symlink_to(shard)
    assert opens_or_complains(tmp_path)


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
