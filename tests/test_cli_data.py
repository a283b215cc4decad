"""`fmlib data`: what a user types to see, fetch, check, measure and pack data."""

import pytest
from archives import make_ombria

from fmlib.cli import main
from fmlib.data import open_dataset
from fmlib.data.records import Records


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_ombria(tmp_path_factory.mktemp("data"), train=20, test=3)


def run(capsys, root, *words) -> tuple[int, str, str]:
    status = main(["data", "--root", str(root), *words])
    return status, *capsys.readouterr()


def line(text: str, start: str) -> list[str]:
    return next(row for row in text.splitlines() if row.startswith(start)).split()


def test_list_says_what_is_here_and_what_is_not(root, capsys):
    _, out, _ = run(capsys, root, "list")
    assert line(out, "ombria")[2:] == ["34", "train", "samples"]  # 20 sites less validation, two dates
    assert line(out, "tno")[2:] == ["not", "here"]


def test_a_set_without_training_samples_is_listed_by_another_split(real_data, capsys):
    _, out, _ = run(capsys, real_data, "list")
    assert line(out, "tno")[2:] == ["42", "test", "samples"]


def test_pack_then_the_list_and_the_reader_know(root, capsys):
    status, out, _ = run(capsys, root, "pack", "ombria", "--split", "test", "--workers", "0")
    assert status == 0
    assert "packed 6 samples of ombria/test" in out
    assert isinstance(open_dataset("ombria", "test", root), Records)
    assert "packed: test" in run(capsys, root, "list")[1]
    status, out, _ = run(capsys, root, "verify", "ombria", "--sources")
    assert status == 0
    assert line(out, "records/test/shard-00000.bin")[1:] == ["verified"]
    assert line(out, "test")[1:] == ["opens:", "6", "complete", "samples"]


def test_verify_fails_on_a_changed_shard(root, tmp_path, capsys):
    make_ombria(tmp_path, train=20, test=2)
    run(capsys, tmp_path, "pack", "ombria", "--split", "test", "--workers", "0", "--set", "dates=['after']")
    shard = tmp_path / "ombria" / "records" / "test" / "shard-00000.bin"
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    status, out, error = run(capsys, tmp_path, "verify", "ombria")
    assert status == 1
    assert "wrong checksum" in out
    assert "1 of 4 files are not as they should be, first records/test/shard-00000.bin" in error


def test_stats_stand_beside_those_of_the_manifest(root, capsys):
    _, out, _ = run(capsys, root, "stats", "ombria", "--samples", "5", "--set", "dates=['after']")
    assert line(out, "sensor") == ["sensor", "band", "mean", "manifest", "std", "manifest"]
    sensor, band, mean, known, std, _ = line(out, "s1")
    assert (sensor, band, known) == ("s1", "VV", "138.684")
    assert 100 < float(mean) < 160
    assert 30 < float(std) < 90


def test_what_cannot_be_fetched_says_how_to_get_it(root, capsys):
    status, _, error = run(capsys, root, "fetch", "roadscene")
    assert status == 1
    assert "Clone https://github.com/hanna-xu/RoadScene" in error
    assert str(root / "roadscene") in error


def test_show_gives_statistics_files_and_traps(root, capsys):
    _, out, _ = run(capsys, root, "show", "bigearthnet-v2")
    assert line(out, "          VV") == ["VV", "-12.644", "5.133"]
    assert "BigEarthNet-S1.tar.zst  54439153171  a55eaa2cdf6a917e296bd6601ec1e348" in out
    assert "trap " in out


def test_a_setting_without_a_value_is_refused(root, capsys):
    status, _, error = run(capsys, root, "stats", "ombria", "--set", "dates")
    assert status == 1
    assert "NAME=VALUE is expected" in error
