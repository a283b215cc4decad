"""The commands `fmlib score` and `fmlib fuse`: fuse infrared and visible images, and score fused ones."""

import argparse
import math
from pathlib import Path

CONVENTIONS = ("standard", "toolbox", "toolbox-2023")  # of fmlib.fusion_metrics, whose torch would slow down --help
SHOWN = 10  # problems printed


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `score` and `fuse`; each sets `command` to the function that does it."""
    score = commands.add_parser(
        "score",
        help="score folders of fused images",
        description="Score folders of fused images, beside their mean, their maximum and either source alone.",
    )
    score.set_defaults(command=_score)
    score.add_argument(
        "--fused", nargs="+", metavar="[NAME=]DIR", required=True, help="fused images, a folder a method"
    )
    score.add_argument("--convention", choices=CONVENTIONS, default="standard", help="whose arithmetic")
    score.add_argument("--metrics", nargs="+", metavar="NAME", help="e.g. CC SCD PSNR; default: all")
    score.add_argument("--out", metavar="FILE", help="write every image's scores as CSV")

    fuse = commands.add_parser(
        "fuse", help="fuse infrared and visible images", description="Fuse infrared and visible images with MaeFuse."
    )
    fuse.set_defaults(command=_fuse)
    fuse.add_argument("--out", metavar="PATH", required=True, help="folder for the results; results there are kept")
    fuse.add_argument("--weights", metavar="PATH", required=True, help="checkpoint of a MaeFuse model")
    fuse.add_argument("--tile", type=int, metavar="N", help="windows of N pixels; default: as in training; 0: whole")
    fuse.add_argument("--overlap", type=int, default=32, metavar="N", help="pixels that windows share (default: 32)")
    fuse.add_argument("--batch", type=int, default=1, metavar="N", help="windows at a time (default: 1)")
    fuse.add_argument("--passes", type=int, default=1, metavar="N", help="fuse N times with moved patches: less grid")

    for sub, kind in ((score, "DIR"), (fuse, "PATH")):
        sub.add_argument("--ir", metavar=kind, required=True, help="infrared images")
        sub.add_argument("--vi", metavar=kind, required=True, help="visible images, of the same names")
        sub.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")


def _score(args: argparse.Namespace) -> None:
    from fmlib.score_fusion import score_folders, write_csv

    rows = score_folders(args.ir, args.vi, _methods(args.fused), args.convention, args.metrics, args.device)
    problems = [row for row in rows if "problem" in row]
    for row in problems[:SHOWN]:
        print(f"{row['image']}: {row['method'] or 'sources'}: {row['problem']}")
    if len(problems) > SHOWN:
        print(f"… and {len(problems) - SHOWN} more; --out lists them all")
    print(f"convention {args.convention}, means of {rows[-1]['images']} images, {len(problems)} problems")
    _print_means([row for row in rows if "images" in row])
    if args.out:
        write_csv(rows, args.out)
        print(args.out)


def _methods(words: list[str]) -> dict[str, str]:
    """[NAME=]DIR as name → folder; without a name the folder's own."""
    methods = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or Path(word).is_dir():  # folders, too, may have "=" in their name
            name, folder = Path(word).resolve().name, word
        if name in methods:
            raise ValueError(f"--fused: {methods[name]} and {folder} are both called {name!r}; write NAME=DIR")
        methods[name] = folder
    return methods


def _print_means(means: list[dict]) -> None:
    from fmlib.fusion_metrics import METRICS

    metrics = [name for name in METRICS if name in means[0]]
    columns = [
        [f"{name} {'↑' if METRICS[name].higher else '↓'}", *_digits([row[name] for row in means])] for name in metrics
    ]
    rows = list(zip(["", *(row["method"] for row in means)], *columns, strict=True))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *cells in rows:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *numbers]))


def _digits(column: list[float]) -> list[str]:
    decimals = 2 if any(abs(value) >= 10 for value in column) else 4
    return ["–" if math.isnan(value) else f"{value:.{decimals}f}" for value in column]


def _fuse(args: argparse.Namespace) -> None:
    from fmlib.fuse import fuse_folder

    options = {key: getattr(args, key) for key in ("tile", "overlap", "device", "batch", "passes")}
    report = fuse_folder(args.ir, args.vi, args.out, args.weights, **options)
    for name, why in report.failed.items():
        print(f"{name}: {why}")
    print(f"{len(report.fused)} fused, {len(report.kept)} there before, {len(report.failed)} failed: {args.out}")
    if not report.fused and not report.kept:
        raise ValueError("nothing was fused")
