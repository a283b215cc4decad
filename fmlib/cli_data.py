"""The command `fmlib data`: what is known, what is here, and getting it into shape."""

import argparse
from collections.abc import Callable
from pathlib import Path


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Give `fmlib data` its commands; each sets `command` to the function that does it."""
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data; default: FMLIB_DATA, else data")
    kinds = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: Callable, help: str) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(command=function)
        if function is not _list:
            sub.add_argument("name", metavar="NAME", help="of a data set, see fmlib data list")
        return sub

    command("list", _list, "list all data sets, and what of them is here")
    command("show", _show, "show one: sensors, units, licence, files, traps")
    fetch = command("fetch", _fetch, "download, check and unpack its files; an interrupted download goes on")
    fetch.add_argument("--only", default="", metavar="TEXT", help="only files whose name contains TEXT")
    fetch.add_argument("--keep-packed", action="store_true", help="do not unpack archives")
    verify = command("verify", _verify, "compare downloaded files and packed records with their checksums")
    verify.add_argument("--sources", action="store_true", help="also look whether files changed since they were packed")
    stats = command("stats", _stats, "measure mean and deviation of every band, beside the manifest's")
    stats.add_argument("--samples", type=int, metavar="N", help="a seeded choice of N samples; default: all")
    pack = command("pack", _pack, "write packed records, which load many times faster")
    pack.add_argument("--workers", type=int, metavar="N", help="processes; default: one a core")
    pack.add_argument("--shard-size", type=int, default=4096, metavar="N", help="samples a file (default: 4096)")
    for sub in (stats, pack):
        sub.add_argument("--split", default="train", metavar="NAME", help="default: train")
        text = "an option of the reader, e.g. on_missing=skip or dates=['after'] (repeatable)"
        sub.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help=text)


def _list(args: argparse.Namespace) -> None:
    from fmlib.manifest import data_root, list_manifests, load_manifest

    root = args.root or data_root()
    print(f"data sets known, and what lies under {root}:")
    _print_columns([(m.name, m.title, _state(m, root)) for m in map(load_manifest, list_manifests())])


def _state(manifest, root: str | Path) -> str:
    """What of a data set is here: samples of its first split that has any, packed splits; or why there is nothing."""
    from fmlib.data import look

    packed = sorted(path.parent.name for path in manifest.root(root).glob("records/*/records.json"))
    for split in manifest.splits:
        count, why = look(manifest, root, split)
        if count:
            return f"{count:,} {split} samples" + (f", packed: {', '.join(packed)}" if packed else "")
        if why in ("not here", "no reader for it yet"):
            break
    return why if len(why) <= 60 else f"not complete (fmlib data verify {manifest.name})"


def _show(args: argparse.Namespace) -> None:
    manifest = _manifest(args)
    for key in ("title", "home", "licence", "terms", "citation", "access", "how", "layout", "folder", "task"):
        print(f"{key:10}{getattr(manifest, key)}")
    for name, split in manifest.splits.items():
        print(f"split     {name}: {split}")
    for name, sensor in manifest.sensors.items():
        print(f"sensor    {name}: {sensor.title}, {sensor.in_chans} bands, {sensor.unit}, {sensor.valid_range}")
        rows = [
            (f"{'':10}{b}", f"{m:.6g}", f"{s:.6g}")
            for b, m, s in zip(sensor.bands, sensor.mean, sensor.std, strict=True)
        ]
        _print_columns([(f"{'':10}band", "mean", "std"), *rows])
        print(f"{'':10}{manifest.statistics[name]}")
    if manifest.classes:
        print(f"classes   {', '.join(manifest.classes)}")
    for entry in manifest.files:
        print(f"file      {'  '.join(str(entry[key]) for key in ('path', 'bytes', 'md5', 'sha256') if key in entry)}")
    for trap in manifest.traps:
        print(f"trap      {trap}")


def _fetch(args: argparse.Namespace) -> None:
    from fmlib.fetch import fetch

    for path in fetch(_manifest(args), args.root, only=args.only, unpack=not args.keep_packed):
        print(path)


def _verify(args: argparse.Namespace) -> None:
    from fmlib.data import open_dataset
    from fmlib.data.pack import verify as verify_records
    from fmlib.data.records import read_header
    from fmlib.fetch import verify

    manifest = _manifest(args)
    rows = [(row["path"], row["state"]) for row in verify(manifest, args.root)]
    for path in sorted(manifest.root(args.root).glob("records/*/records.json")):
        folder, source = path.parent, None
        if args.sources:
            source = open_dataset(args.name, folder.name, args.root, records=False, **read_header(folder)["options"])
        rows += [(f"records/{folder.name}/{row['file']}", row["state"]) for row in verify_records(folder, source)]
    rows += [(split, _opens(manifest, split, args.root)) for split in manifest.splits]
    _print_columns(rows)
    if bad := [name for name, state in rows if state.startswith(("wrong", "its source"))]:
        raise ValueError(f"{len(bad)} of {len(rows)} files are not as they should be, first {bad[0]}")


def _opens(manifest, split: str, root: str | None) -> str:
    from fmlib.data import look

    count, why = look(manifest, root, split)
    return why or f"opens: {count:,} complete samples"


def _stats(args: argparse.Namespace) -> None:
    from fmlib.data import open_dataset
    from fmlib.data.statistics import dataset_statistics

    data = open_dataset(args.name, args.split, args.root, **_options(args))
    rows = [("sensor", "band", "mean", "manifest", "std", "manifest")]
    for name, (mean, std) in dataset_statistics(data, args.samples).items():
        sensor = data.modalities[name]
        columns = (mean, sensor.mean, std, sensor.std)
        rows += [
            (name, band, *(f"{value:.6g}" for value in values))
            for band, *values in zip(sensor.bands, *columns, strict=True)
        ]
    _print_columns(rows)


def _pack(args: argparse.Namespace) -> None:
    from fmlib.data import open_dataset
    from fmlib.data.pack import pack

    manifest, options = _manifest(args), _options(args)
    source = open_dataset(args.name, args.split, args.root, records=False, **options)
    folder = manifest.root(args.root) / "records" / args.split
    print(pack(source, folder, {**manifest.options, **options}, args.shard_size, args.workers))


def _manifest(args: argparse.Namespace):
    from fmlib.manifest import load_manifest

    return load_manifest(args.name)


def _options(args: argparse.Namespace) -> dict:
    """NAME=VALUE as keyword arguments; a value that is no Python literal is text."""
    import ast

    options = {}
    for word in args.set:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--set {word}: NAME=VALUE is expected, e.g. --set on_missing=skip")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def _print_columns(rows: list[tuple]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
