import numpy as np
import pytest
from PIL import Image

from fmlib.data import READERS, open_dataset
from fmlib.data.batches import collate
from fmlib.data.vais import Vais, read_annotations
from fmlib.manifest import load_manifest

MANIFEST = load_manifest("vais")
NIGHT, NO_INFRARED = (3, 7), (5,)  # of each ten observations


def write_ships(root, count=120):
    """Observations of thirty ships: of each ten, two at night without a visible picture, one without infrared."""
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        ship, kind, night = number // 4, MANIFEST.classes[number // 4 % 6], number % 10 in NIGHT
        names = {"vi": f"vi\\{number:04}.png", "ir": f"ir/{number:04}.png"}  # published under another system
        names |= {"vi": "null"} if night else {"ir": "null"} if number % 10 in NO_INFRARED else {}
        for sensor, name in names.items():
            if name != "null":
                path = root / name.replace("\\", "/")
                path.parent.mkdir(parents=True, exist_ok=True)
                rows_cols = (20 + number % 7, 30 + number % 5)
                shape = (*rows_cols, 3) if sensor == "vi" else rows_cols
                Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(path)
        rows.append(f"{names['vi']} {names['ir']} fine-{kind} {kind} {ship} {int(ship < 20)} {int(night)}")
    (root / "annotations.txt").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def ships(tmp_path):
    return write_ships(tmp_path / "vais")


def opened(root, split="train", sensors=MANIFEST.sensors, **options):
    return Vais(root, split, {name: MANIFEST.sensors.get(name) for name in sensors}, MANIFEST.classes, **options)


def test_a_missing_sensor_is_absent(ships):
    data = opened(ships, validation=0)
    assert len(data) == 80
    by_name = {sample["id"]: sample for sample in (data[index] for index in range(10))}
    pair, night, day = by_name["vi\\0000.png".replace("\\", "/")], by_name["ir/0003.png"], by_name["vi/0005.png"]
    assert (pair["ir"].shape, pair["vi"].shape, pair["vi"].dtype) == ((1, 20, 30), (3, 20, 30), np.float32)
    stored = np.asarray(Image.open(ships / "vi/0000.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(pair["vi"], stored)
    assert "vi" not in night
    assert "ir" not in day
    assert (night["place"], MANIFEST.classes[night["label"]]) == ("0", "cargo")
    assert data.files(3) == {"ir": (ships / "ir/0003.png",)}


def test_pairs_alone(ships):
    pairs = opened(ships, validation=0, unpaired="skip")
    assert len(pairs) == 80 * 7 // 10
    assert all({"ir", "vi"} <= pairs[index].keys() for index in range(len(pairs)))
    assert len(opened(ships, validation=0, sensors=("vi",))) == 64
    assert len(opened(ships, validation=0, sensors=("ir",))) == 72


def test_day_and_night(ships):
    night = opened(ships, "test", times="night")
    assert {name for index in range(len(night)) for name in ("ir", "vi") if name in night[index]} == {"ir"}
    assert len(night) + len(opened(ships, "test", times=("day",))) == len(opened(ships, "test")) == 40


def test_validation_is_whole_ships_and_the_test_is_as_published(ships):
    sets = {split: opened(ships, split, validation=0.3) for split in ("train", "validation", "test")}
    found = {split: {o.ship for o in data.observations} for split, data in sets.items()}
    assert found["test"] == {str(number) for number in range(20, 30)}
    assert not found["train"] & found["validation"]
    assert len(found["train"] | found["validation"]) == 20
    assert 0.1 < len(sets["validation"]) / 80 < 0.5


def test_one_size_makes_a_batch(ships, monkeypatch):
    monkeypatch.setitem(READERS, "vais", ("vais", "Vais"))
    data = open_dataset("vais", "train", ships.parent, size=(32, 48), resample="bilinear")
    batch = collate([data[index] for index in range(8)], list(data.modalities))
    assert (batch["ir"].shape, batch["vi"].shape) == ((8, 1, 32, 48), (8, 3, 32, 48))
    assert batch["present"]["vi"].tolist() == ["vi" in data[index] for index in range(8)]
    assert not batch["present"]["vi"].all()
    assert open_dataset("vais", "train", ships.parent)[0]["ir"].shape == (1, 224, 224)  # as the manifest says


def test_grey_pictures_and_colour_that_is_grey(ships):
    grey = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    Image.fromarray(grey).save(ships / "vi/0000.png")
    Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(ships / "ir/0000.png")
    sample = opened(ships, validation=0)[0]
    np.testing.assert_array_equal(sample["vi"], grey[None].repeat(3, 0))
    np.testing.assert_array_equal(sample["ir"], grey[None])


def test_a_picture_that_is_named_but_not_there(ships):
    (ships / "ir/0004.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"0004\.png is missing.*1 of 80 observations"):
        opened(ships, validation=0)
    assert len(opened(ships, validation=0, on_missing="skip")) == 79
    assert len(opened(ships, validation=0, sensors=("vi",))) == 64


def test_a_truncated_picture_is_named(ships):
    path = ships / "ir/0000.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"ir/0000\.png: cannot be read"):
        opened(ships, validation=0)[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("vi/1.png ir/1.png fine cargo 7 1", "row 2: 6 fields, expected 7"),
        ("vi/1.png ir/1.png fine merchant 7 1 0", "row 2: class 'merchant' is none of"),
        ("vi/1.png ir/1.png fine cargo 7 1 yes", "row 2: .* needs a picture, and 0 or 1"),
        ("null null fine cargo 7 1 0", "row 2: .* needs a picture, and 0 or 1"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, row, message):
    path = tmp_path / "annotations.txt"
    path.write_text(f"a.png null fine tug 3 0 1\n{row}\n\n")
    with pytest.raises(ValueError, match=message):
        read_annotations(path, MANIFEST.classes)


def test_a_folder_without_annotations_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"annotations\.txt is missing"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, r"split \['val'\]"),
        ({"sensors": ("s1",)}, r"sensors \['s1'\]"),
        ({"times": ("dusk",)}, r"times \['dusk'\]"),
        ({"unpaired": "drop"}, r"unpaired \['drop'\]"),
        ({"validation": 0.9}, "share of training ships"),
        ({"sensors": ("vi",), "times": "night"}, "no observation .* with these options"),
    ],
)
def test_an_unknown_choice_is_named(ships, options, message):
    with pytest.raises(ValueError, match=message):
        opened(ships, **options)
