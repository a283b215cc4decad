"""Which files of a folder are in which split: folders, lists, shares of places."""

import pytest
from folder_pairs import opened, touch
from rasters import write_pairs

from fmlib.data.paths import draw


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path)


def test_split_folders(tmp_path):
    touch(
        tmp_path,
        *(f"{split}/rgb/{n}.png" for split, count in (("train", 6), ("val", 2), ("Test", 1)) for n in range(count)),
    )
    options = {"sensors": ("rgb",), "paths": {"rgb": "{split}/rgb/{id}.png"}}
    folders = {"validation": "val", "test": "Test"}
    counts = {split: len(opened(tmp_path, split, split_folders=folders, **options)) for split in ("train", *folders)}
    assert counts == {"train": 6, "validation": 2, "test": 1}
    with pytest.raises(FileNotFoundError, match=r"no file .* fits the path of 'rgb'"):
        opened(tmp_path, "validation", **options)
    part = opened(tmp_path, "validation", split_folders={"test": "Test"}, shares={"validation": 0.5}, **options)
    rest = opened(tmp_path, "train", split_folders={"test": "Test"}, shares={"validation": 0.5}, **options)
    assert sorted(part.ids.tolist() + rest.ids.tolist()) == [b"%d" % n for n in range(6)]
    assert all(b"train/" in path for path in part._paths["rgb"])


def test_a_packaging_without_split_folders_is_all_training_data(pairs):
    paths = {"rgb": ["{split}/rgb/{id}.png", "rgb/{id}.png"]}
    assert len(opened(pairs, sensors=("rgb",), paths=paths)) == 12
    with pytest.raises(ValueError, match=r"no sample .* is in 'test' \(samples: train 12\); give this split a list"):
        opened(pairs, "test", sensors=("rgb",), paths=paths)


def test_lists_of_any_kind(pairs):
    (pairs / "test.csv").write_bytes(b"\xef\xbb\xbfimage,mask\r\nrgb/03.png,x\r\n04.png,y\r\n\r\n")
    (pairs / "val.txt").write_text("05\n06")
    lists = {"test": "test.csv", "validation": "val.txt"}
    ids = {split: opened(pairs, split, lists=lists).ids.tolist() for split in ("train", *lists)}
    assert ids["test"] == [b"03", b"04"]
    assert ids["validation"] == [b"05", b"06"]
    assert len(ids["train"]) == 8
    assert opened(pairs, "hard", lists={"hard": ["03", "07"]}).ids.tolist() == [b"03", b"07"]
    assert opened(pairs, lists={"train": ["03", "07"]}).ids.tolist() == [b"03", b"07"]  # and nothing else


def test_a_listed_name_without_file_follows_the_rule(pairs):
    lists = {"test": ["03.png", "99.png", "98.png"]}
    with pytest.raises(FileNotFoundError, match=r"list of 'test' names 2 samples .*, first '99'; .*on_missing='skip'"):
        opened(pairs, "test", lists=lists)
    assert opened(pairs, "test", lists=lists, on_missing="skip").ids.tolist() == [b"03"]
    assert len(opened(pairs, lists=lists)) == 11
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt is missing: it lists a split; .*lists={}"):
        opened(pairs, lists={"test": "nowhere.txt"})


def test_lists_that_contradict_are_an_error(pairs, tmp_path):
    with pytest.raises(ValueError, match=r"sar/03\.tif is in the lists of 'test' and of 'validation'"):
        opened(pairs, lists={"test": ["03"], "validation": ["03.png"]})
    touch(tmp_path, "a/1.tif", "b/1.tif")
    with pytest.raises(ValueError, match=r"'1' in a list of a split is both a/1\.tif and b/1\.tif"):
        opened(tmp_path, sensors=("sar",), paths={"sar": "{scene}/{id}.tif"}, lists={"test": ["1"]})
    (pairs / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"list\.txt: cannot be read as text"):
        opened(pairs, lists={"test": "list.txt"})


def test_a_place_is_in_one_split_and_stays_there(tmp_path):
    touch(tmp_path, *(f"sar/scene{scene}_{n}.tif" for scene in range(60) for n in range(3)))
    options = {"sensors": ("sar",), "paths": {"sar": "sar/{scene}_{n}.tif"}, "place": "scene"}
    options["shares"] = {"validation": 0.2, "test": 0.2}
    before = {split: set(opened(tmp_path, split, **options).places) for split in ("train", "validation", "test")}
    assert sum(map(len, before.values())) == len(set.union(*before.values())) == 60
    assert all(4 <= len(before[split]) <= 22 for split in ("validation", "test"))
    touch(tmp_path, *(f"sar/more{scene}_{n}.tif" for scene in range(60) for n in range(3)))
    assert all(before[split] < set(opened(tmp_path, split, **options).places) for split in before)


def test_the_draw_never_changes():
    assert [draw(f"place {n}", {"test": 0.3, "validation": 0.3}) for n in range(6)] == [
        draw(f"place {n}", {"validation": 0.3, "test": 0.3}) for n in range(6)
    ]
    drawn = [draw(str(n), {"validation": 0.25}) for n in range(4000)]
    assert abs(drawn.count("validation") / 4000 - 0.25) < 0.03
    assert [draw(name, {"validation": 0.5}) for name in ("a", "b", "c", "d")] == [
        "train",
        "validation",
        "validation",
        "validation",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split 'val' is not one of .'train', 'validation', 'test'"),
        ({"lists": {"val": ["03"]}}, "unknown split 'val'; call it 'validation'"),
        ({"split_folders": {"testing": "x"}}, "unknown split 'testing'; call it 'test'"),
        ({"shares": {"valid": 0.1}}, "shares: split 'valid' is not one of"),
        ({"shares": {"train": 0.8}}, "shares: split 'train' is not one of"),
        ({"shares": {"test": 0.8, "validation": 0.3}}, "are not parts of one"),
        ({"shares": {"test": -0.1}}, "are not parts of one"),
        ({"shares": {"test": 0.1}, "split_folders": {"test": "t"}}, r"\['test'\] has a folder and a list or share"),
        ({"place": "scene"}, r"place: no field \['scene'\] in the paths; they have \('id',\)"),
        ({"on_missing": "ignore"}, "on_missing 'ignore' is not one of"),
        ({"resample": "cubic"}, "resample 'cubic' is not one of"),
        ({"file_bands": {"dem": ["z"]}}, r"file_bands: \['dem'\] have no path"),
        ({"sensors": ()}, "sensors: none to read"),
    ],
)
def test_faulty_options_are_named(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        opened(pairs, **options)
