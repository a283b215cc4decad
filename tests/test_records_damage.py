"""Packed records that were damaged, or cannot be made: each is named, none is opened."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_records import Made, pack_made

from fmlib.data.pack import pack, verify
from fmlib.data.records import HEADER, INDEX, Records


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    return pack_made(source, tmp_path_factory.mktemp("packed"))


@pytest.fixture
def copy(packed, tmp_path):
    """A copy of the records that a test may damage."""
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


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
