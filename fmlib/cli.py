"""The command `fmlib`: run notebooks, build reports, train, look after data."""

import argparse
import json
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

from fmlib import cli_data, cli_fusion


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Args:
        argv: the words after `fmlib`; default: those of the process.
    """
    args, rest = _parser().parse_known_args(argv)
    by_name = (_train, _evaluate, _compare, _measure_train, _measure_sustained)
    if rest and getattr(args, "measure", args.command) not in by_name:
        _parser().error(f"unknown: {' '.join(rest)}")  # only these take parameters by name
    args.rest = rest
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # lets a run kill its processes before it goes
    try:
        args.command(args)
    except Exception as error:
        if args.debug or not _is_ours(error):
            raise
        print(f"fmlib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fmlib: stopped", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # a caller in Python keeps its own
    return 0


def _is_ours(error: Exception) -> bool:
    """Errors that explain themselves: bad input, missing files, failed runs."""
    known = ValueError | OSError | ArithmeticError | ImportError | MemoryError
    run = sys.modules.get("fmlib.run")  # its errors come from it alone, and it needs more than a GPU machine has
    return isinstance(error, known) or (run is not None and isinstance(error, run.RunError))


# ---- the commands -----------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> None:
    from fmlib.params import parse_setting, profile_params, read_parameters
    from fmlib.run import repository, run_notebook

    notebook, timeout, given = Path(args.notebook), args.timeout, {}
    declared = {p.name: p for p in read_parameters(notebook)}
    defaults, types = ({name: getattr(p, key) for name, p in declared.items()} for key in ("default", "type"))
    out = defaults.get("out", f"runs/{notebook.stem}")
    if args.profile:
        given, minutes = profile_params(notebook, args.profile)
        timeout, out = timeout or 60 * minutes, f"reports/{args.profile}/{notebook.stem}"
    if args.params:
        given |= json.loads(Path(args.params).read_text(encoding="utf-8"))
    given |= [parse_setting(text, defaults, types) for text in args.set]
    folder = repository(notebook) / (args.out or given.get("out") or out)  # an absolute path stays as it is
    metrics = run_notebook(notebook, folder, given, timeout)
    print(f"{notebook.stem}: {metrics['title']}")
    for label, value in metrics["headline"].items():
        mean_and_spread = isinstance(value, list) and len(value) == 2
        print(f"  {label}: {f'{value[0]:.4g} ± {value[1]:.2g}' if mean_and_spread else value}")
    print(f"  {folder}")


def _params(args: argparse.Namespace) -> None:
    from fmlib.params import read_parameters

    rows = [(p.name, p.type, repr(p.default), p.help) for p in read_parameters(args.notebook)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _report(args: argparse.Namespace) -> None:
    from fmlib.report import build_index

    print(build_index(args.folder))


def _train(args: argparse.Namespace) -> None:
    from fmlib.train import main as train

    train(args.rest)


def _evaluate(args: argparse.Namespace) -> None:
    from fmlib.evaluate.command import main as evaluate

    evaluate(args.rest)


def _compare(args: argparse.Namespace) -> None:
    from fmlib.compare import main as compare

    compare(args.rest)


def _bench(args: argparse.Namespace) -> None:
    """Nothing but JSON comes out; what is told on the way goes to the error stream."""
    with redirect_stdout(sys.stderr):
        found = args.measure(args)
    print(json.dumps(found, indent=2, ensure_ascii=False))


def _measure_train(args: argparse.Namespace) -> dict:
    from fmlib.bench.train import bench_train, largest_batch, memory_growth

    params = _train_params(args.rest)
    found = largest_batch(params, args.seconds) if args.batches else bench_train(params, args.seconds, args.against)
    return found | ({"memory_growth_mib": memory_growth(params, args.memory)} if args.memory else {})


def _measure_sustained(args: argparse.Namespace) -> dict:
    from fmlib.bench.sustained import bench_sustained

    return bench_sustained(_train_params(args.rest), args.folder, args.seconds, args.patches)


def _train_params(words: list[str]):
    from dataclasses import asdict

    from fmlib.params import parse_setting
    from fmlib.recipe import TrainParams, read_params

    defaults = asdict(TrainParams())
    return read_params(dict(parse_setting(word.removeprefix("--"), defaults) for word in words))


def _measure_attention(args: argparse.Namespace) -> dict:
    from fmlib.bench.attention import bench_attention

    return bench_attention(tuple(args.tokens), args.heads, args.width, args.batch, args.device, args.seconds)


def _measure_loader(args: argparse.Namespace) -> dict:
    from fmlib.bench.loader import bench_loader

    return bench_loader(args.folder, args.patches, tuple(args.workers), args.seconds)


def _measure_epoch(args: argparse.Namespace) -> dict:
    from fmlib.bench.loader import bench_epoch

    return bench_epoch(args.folder, args.workers)


def _measure_fuse(args: argparse.Namespace) -> dict:
    from fmlib.bench.fuse import bench_fuse

    return bench_fuse(args.weights, tuple(args.sides), args.device)


def _scenes(args: argparse.Namespace) -> None:
    from fmlib.scenes import generate

    options = {name: getattr(args, name) for name in ("size", "clouds", "missing", "jobs")}
    print(f"{args.count} scenes in {generate(args.folder, args.count, args.seed, **options)}")


def _check(args: argparse.Namespace) -> None:
    import platform
    from importlib.metadata import version

    import torch

    from fmlib.data import find_datasets
    from fmlib.manifest import data_root

    print(f"Python {platform.python_version()}")
    for package in ("fmlib", "torch", "timm", "numpy", "rasterio", "papermill", "jupyterlab"):
        print(f"{package} {version(package)}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
    print(f"device: {device}, {torch.get_num_threads()} CPU threads")
    found = ", ".join(f"{name} ({count})" for name, count in find_datasets().items())
    print(f"data under {data_root()}: {found or 'none; `fmlib scenes` makes some'}")


# ---- their words ------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fmlib", description="The Fusion-MAE workbook.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(command=function)
        return sub

    run = command("run", _run, "run a notebook as a batch job")
    run.add_argument("notebook", metavar="NOTEBOOK", help="path of an .ipynb file")
    run.add_argument("--profile", metavar="NAME", help="take parameters and time limit from profiles/NAME.toml")
    run.add_argument("--params", metavar="FILE", help="take parameters from a JSON file")
    run.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="set one parameter (repeatable)")
    run.add_argument(
        "--out", metavar="DIR", help="run folder; default: reports/PROFILE/NOTEBOOK, or the notebook's own"
    )
    run.add_argument("--timeout", metavar="S", type=float, help="kill the run after so many seconds")

    params = command("params", _params, "list a notebook's parameters")
    params.add_argument("notebook", metavar="NOTEBOOK", help="path of an .ipynb file")

    report = command("report", _report, "build the index page of a folder of runs")
    report.add_argument("folder", metavar="DIR", help="for instance reports/quick")

    command("train", _train, "pretrain a model: fmlib train [params.json] [--name=value ...]")
    command("evaluate", _evaluate, "score a model: fmlib evaluate [params.json ...] [--name=value ...]")
    command("compare", _compare, "pretrain and score several models: fmlib compare [params.json] [--name=value ...]")

    bench = command("bench", None, "measure speed, as JSON").add_subparsers(metavar="WHAT", required=True)
    train = bench.add_parser("train", help="steps of pretraining: fmlib bench train [--name=value ...]")
    train.set_defaults(command=_bench, measure=_measure_train)
    train.add_argument("--against", default="", metavar="plain", help="in turn with a straightforward implementation")
    train.add_argument("--seconds", type=float, default=10.0, metavar="S", help="time of the measurement")
    train.add_argument("--batches", action="store_true", help="double the batch until memory is full or speed stays")
    train.add_argument("--memory", type=int, default=0, metavar="N", help="also how memory grows over N steps")
    sustained = bench.add_parser("sustained", help="minutes of pretraining from packed records: does the device wait?")
    sustained.set_defaults(command=_bench, measure=_measure_sustained)
    sustained.add_argument("--folder", default="data/bench", metavar="DIR", help="where the records are made")
    sustained.add_argument("--patches", type=int, default=20_000, metavar="N", help="pairs (default: 20,000; 5.5 GB)")
    sustained.add_argument("--seconds", type=float, default=180.0, metavar="S", help="time of the training")
    attention = bench.add_parser("attention", help="fused against explicit attention, and the memory of its maps")
    attention.set_defaults(command=_bench, measure=_measure_attention)
    attention.add_argument("--tokens", type=int, nargs="+", default=[128, 256, 512, 1024], metavar="N")
    attention.add_argument("--heads", type=int, default=12, metavar="N", help="of attention (default: 12)")
    attention.add_argument("--width", type=int, default=768, metavar="N", help="of tokens (default: 768)")
    attention.add_argument("--batch", type=int, default=8, metavar="N", help="images at once (default: 8)")
    attention.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda")
    attention.add_argument("--seconds", type=float, default=1.0, metavar="S", help="time of each measurement")
    loader = bench.add_parser("loader", help="reading patches as GeoTIFFs, as LMDB and as records")
    loader.set_defaults(command=_bench, measure=_measure_loader)
    epoch = bench.add_parser("epoch", help="one shuffled epoch of packed records, and the memory it takes")
    epoch.set_defaults(command=_bench, measure=_measure_epoch)
    epoch.add_argument("folder", metavar="DIR", help="of packed records, e.g. data/ombria/records/train")
    epoch.add_argument("--workers", type=int, default=0, metavar="N", help="worker processes")
    loader.add_argument("--folder", default="data/bench", metavar="DIR", help="where the patches are made")
    loader.add_argument("--patches", type=int, default=512, metavar="N", help="scenes made (default: 512)")
    loader.add_argument("--workers", type=int, nargs="+", default=[0, 2], metavar="N", help="worker processes")
    loader.add_argument("--seconds", type=float, default=4.0, metavar="S", help="time of each measurement")

    fuse = bench.add_parser("fuse", help="fusing a pair of 640 x 480 pixels, and the memory of large ones")
    fuse.set_defaults(command=_bench, measure=_measure_fuse)
    fuse.add_argument("--weights", default="", metavar="W", help="as of fmlib fuse; default: an untrained small model")
    fuse.add_argument("--sides", type=int, nargs="*", default=[1024, 2048, 4096], metavar="N", help="of square images")
    fuse.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda")

    data = command("data", None, "look after data: list, show, fetch, verify, stats, pack")
    cli_data.add_commands(data)

    scenes = command("scenes", _scenes, "generate an archive of synthetic scenes")
    scenes.add_argument("folder", metavar="DIR", help="folder of the archive; notebooks look for data/synthetic")
    scenes.add_argument("--count", type=int, default=512, metavar="N", help="number of scenes (default: 512)")
    scenes.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same scenes")
    scenes.add_argument("--size", type=int, default=120, metavar="N", help="side in pixels of 10 m (default: 120)")
    scenes.add_argument("--clouds", type=float, default=0.0, metavar="X", help="share of an optical image under cloud")
    scenes.add_argument("--missing", type=float, default=0.0, metavar="X", help="share of scenes without radar")
    scenes.add_argument("--jobs", type=int, metavar="N", help="processes at the same time; default: one a core")

    cli_fusion.add_commands(commands)

    command("check", _check, "check the installation: versions, device, data found")
    return parser


if __name__ == "__main__":
    sys.exit(main())
