"""`fmlib score` and `fmlib fuse`: their words, what they print, what they hand on."""

import argparse
import csv
import sys
import types

import numpy as np
import pytest
from PIL import Image

from fmlib import cli_fusion
from fmlib.fusion_metrics import CONVENTIONS


def run(*words) -> None:
    parser = argparse.ArgumentParser(prog="fmlib")
    cli_fusion.add_commands(parser.add_subparsers(required=True))
    args = parser.parse_args(list(map(str, words)))
    args.command(args)


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("ir", "vi", "ours", "runs/ours"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(rng.integers(0, 256, (20, 24), np.uint8)).save(tmp_path / folder / f"{number}.png")
    return tmp_path


def sources(folders) -> list:
    return ["--ir", folders / "ir", "--vi", folders / "vi"]


def test_score_prints_means_and_writes_all(folders, capsys):
    (folders / "ours" / "1.png").unlink()
    fused = ["--fused", folders / "ours", f"second={folders}/runs/ours"]
    run("score", *sources(folders), *fused, "--metrics", "CC", "SCD", "MSE", "--out", folders / "scores.csv")
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "1: ours: no fused image"
    assert out[1] == "convention standard, means of 1 images, 1 problems"
    assert out[2].split() == ["CC", "↑", "SCD", "↑", "MSE", "↓"]
    methods = ["ours", "second", "mean", "max", "Laplacian", "infrared", "visible"]
    assert [line.split()[0] for line in out[3:10]] == methods
    assert out[8].split()[-2] == "–", "no differences to correlate"
    assert len({len(line) for line in out[3:10]}) == 1
    with open(folders / "scores.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 6 + 7 + 1 + 7


def test_many_problems_are_cut_short(folders, capsys):
    for number in range(12):
        Image.new("L", (24, 20)).save(folders / "ir" / f"lonely{number}.png")
    run("score", *sources(folders), "--fused", folders / "ours", "--metrics", "CC")
    out = capsys.readouterr().out.splitlines()
    assert out[10:12] == ["… and 2 more; --out lists them all", "convention standard, means of 2 images, 12 problems"]


def test_score_takes_a_convention(folders, capsys):
    words = ["score", *sources(folders), "--fused", folders / "ours", "--metrics", "PSNR"]
    run(*words)
    run(*words, "--convention", "toolbox")
    plain, shifted = (float(line.split()[1]) for line in capsys.readouterr().out.splitlines() if "ours" in line)
    assert shifted - plain == pytest.approx(48.13, abs=0.011)
    assert cli_fusion.CONVENTIONS == CONVENTIONS


def test_methods_of_one_name_are_told_apart(folders):
    with pytest.raises(ValueError, match=r"are both called 'ours'; write NAME=DIR"):
        run("score", *sources(folders), "--fused", folders / "ours", folders / "runs" / "ours")


def test_folders_with_an_equals_sign(folders, capsys):
    (folders / "ours").rename(folders / "lr=1e-4")
    run("score", *sources(folders), "--fused", folders / "lr=1e-4", "--metrics", "CC")
    assert "lr=1e-4 " in capsys.readouterr().out


@pytest.fixture
def fuse(monkeypatch) -> list:
    """Stands in for the model: collects calls, and returns the report put in front."""
    calls = [types.SimpleNamespace(fused=["a", "b"], kept=["c"], failed={"d": "truncated"})]

    def fuse_folder(*args, **options):
        calls.append((args, options))
        return calls[0]

    monkeypatch.setitem(sys.modules, "fmlib.fuse", types.SimpleNamespace(fuse_folder=fuse_folder))
    return calls


def test_fuse_hands_on_its_words(fuse, capsys):
    words = ["fuse", "--ir", "i", "--vi", "v", "--out", "o", "--weights", "w"]
    run(*words)
    run(*words, "--tile", 320, "--overlap", 48, "--batch", 4, "--device", "cuda", "--passes", 2)
    assert fuse[1] == (("i", "v", "o", "w"), {"tile": None, "overlap": 32, "batch": 1, "device": "cpu", "passes": 1})
    assert fuse[2][1] == {"tile": 320, "overlap": 48, "batch": 4, "device": "cuda", "passes": 2}
    assert capsys.readouterr().out.splitlines()[:2] == ["d: truncated", "2 fused, 1 there before, 1 failed: o"]


def test_fuse_fails_where_nothing_was_fused(fuse):
    fuse[0] = types.SimpleNamespace(fused=[], kept=[], failed={"d": "truncated"})
    with pytest.raises(ValueError, match="nothing was fused"):
        run("fuse", "--ir", "i", "--vi", "v", "--out", "o", "--weights", "w")
