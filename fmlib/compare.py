"""Pretrain several models alike and score them alike: the grid behind notebook 05, as one command that resumes.

    python -m fmlib.compare params.json                    # everything a GPU machine needs to do, in one call
    python -m fmlib.compare --data=ombria --seeds=3        # or by name

Writes `rows.json` and `commands.json` into the folder `out`; runs and scores lie beside them. Started again, it goes
on where it stopped.
"""

from dataclasses import asdict, dataclass, field, fields
from itertools import product
from pathlib import Path

from fmlib.evaluate import PROTOCOLS, Protocol, judge_claim, select
from fmlib.evaluate.command import EvaluateParams, as_asked
from fmlib.files import write_json
from fmlib.launch import launch, launch_evaluations, only_train_params
from fmlib.models.mae import check_choices
from fmlib.params import check_params, run_each
from fmlib.recipe import TrainParams

TRAIN_DEFAULTS, EVALUATE_DEFAULTS = asdict(TrainParams()), asdict(EvaluateParams())
CONTENDERS = {  # what each model changes in the settings that all share
    "xaed": {"fusion": "xaed"},
    "xad": {"fusion": "xad"},
    "stack": {"fusion": "stack", "mask_strategy": "consistent", "sensor_drop": 0.0},
    "multimae": {"fusion": "none", "joint_attention": True, "mask_strategy": "dirichlet", "sensor_drop": 0.0},
    "s1": {"sensors": ["s1"], "fusion": "none", "sensor_drop": 0.0},
    "s2": {"sensors": ["s2"], "fusion": "none", "sensor_drop": 0.0},
    "infonce": {"method": "infonce", "fusion": "none", "sensor_drop": 0.0},
    "dino": {
        "method": "dino",
        "fusion": "stack",
        "mask_strategy": "consistent",
        "sensor_drop": 0.5,
        "teacher_momentum": 0.99,
    },
    "random": {"fusion": "xaed", "steps": 0},
    "resnet": {"method": "resnet", "steps": 0},
}
TITLES = {
    "xaed": "Fus-MAE XAE&D",
    "xad": "Fus-MAE XAD",
    "stack": "MAE, stacked channels",
    "multimae": "MultiMAE's encoder",
    "s1": "MAE, S1 alone",
    "s2": "MAE, S2 alone",
    "infonce": "InfoNCE",
    "dino": "DINO-MM",
    "random": "random weights",
    "resnet": "ResNet",
    "trees": "boosted trees",
}
PAIRS = (
    ("xaed", "xad"),
    ("xad", "stack"),
    ("xaed", "stack"),
    ("xaed", "multimae"),
    ("xaed", "infonce"),
    ("xaed", "dino"),
)
SCORES = {"segmentation": "miou", "single": "class_accuracy", "multi": "ap_macro"}  # the main score of each task


@dataclass(frozen=True)
class CompareParams:
    """All settings; the names are those of notebook 05."""

    data: str = "ombria"  # name of a manifest
    data_root: str = "data"  # folder that holds the data sets
    out: str = "runs/compare"  # folder of all results
    protocol: str = "ombria"  # see `fmlib.evaluate.PROTOCOLS`
    models: list[str] = field(default_factory=lambda: [name for name in CONTENDERS if name != "resnet"])
    tuned: list[str] = field(default_factory=lambda: ["xaed", "random", "resnet"])  # those to fine-tune
    trees: bool = True  # gradient-boosted trees beside them
    seed: int = 0  # the first
    seeds: int = 3  # runs of each model, each with a seed of its own for weights, labels and heads
    # pretraining, as in `fmlib.train`
    preset: str = "nano"
    img_size: int = 64
    patch_size: int = 8
    norm_target: str = "none"
    decoder_queries: str = "grid"
    mask_ratio: float = 0.75
    sensor_drop: float = 0.2
    steps: int = 500
    batch_size: int = 32
    lr: float = 8e-3
    warmup: int = 50
    compile: bool = False
    # scores, as in `fmlib.evaluate`
    fractions: list[float] = field(default_factory=lambda: [0.01, 0.1, 1.0])
    train_crop: int = 64  # frozen features: of the middle of training and validation images; test images are whole
    tune_steps: int = 150
    tune_batch_size: int = 8
    tune_lr: float = 1e-3
    # system
    jobs: int = 2  # processes at the same time; 0: all in this one
    device: str = "auto"


def read_params(given: dict) -> CompareParams:
    """Flat values by name → `CompareParams`; raises ValueError on an unknown name, a wrong type or choice."""
    p = CompareParams(**check_params(given, asdict(CompareParams()), "fmlib.compare"))
    check_choices(**{f"model {name}": (name, tuple(CONTENDERS)) for name in (*p.models, *p.tuned)})
    return p


def only_compare_params(values: dict) -> CompareParams:
    """Those of `values` that are settings of a comparison: how a notebook hands on its own."""
    return read_params({f.name: values[f.name] for f in fields(CompareParams) if f.name in values})


def pretrainings(p: CompareParams, models: list[str] | None = None) -> list[dict]:
    """Parameters of each model's and seed's pretraining; models from scratch take no steps."""
    shared, names = only_train_params(asdict(p)), dict.fromkeys(models or [*p.models, *p.tuned])
    return [
        shared | CONTENDERS[name] | {"seed": seed, "out": f"{p.out}/runs/{name}-{seed}"}
        for seed, name in product(_seeds(p), names)
    ]


def probes(p: CompareParams) -> list[dict]:
    """Parameters of the evaluations of frozen features."""
    given = {"methods": ["linear"], "train_crop": p.train_crop, "tile": p.img_size}
    return [_evaluation(p, name, seed, given) for seed, name in product(_seeds(p), p.models)]


def tunings(p: CompareParams) -> list[dict]:
    """Parameters of the fine-tunings of the models in `tuned`, with all sensors."""
    given = {
        "methods": ["finetuned"],
        "sensors": ["+".join(_all_sensors(p))],
        "crop": p.img_size,
        "tile": p.img_size,
        "validations": 5,
        "layer_decay": 1.0,  # the same for all, chosen before any score: random weights need it, a ResNet has no blocks
    }
    given |= {"steps": p.tune_steps, "batch_size": p.tune_batch_size, "lr": p.tune_lr, "train_crop": p.train_crop}
    return [_evaluation(p, name, seed, given) for seed, name in product(_seeds(p), p.tuned)]


def trees(p: CompareParams) -> list[dict]:
    """Parameters of the evaluations of gradient-boosted trees, with all labels."""
    given = {"methods": ["trees"], "fractions": [max(p.fractions)]}
    runs = [_evaluation(p, "trees", seed, given) for seed in _seeds(p)]
    return [run | {"model": ""} for run in runs] if p.trees else []


def score(runs: list[dict], jobs: int = 1) -> list[dict]:
    """Carry out evaluations.

    Returns:
        Rows as of `run_protocol`, with ``"model"`` (its title), ``"name"`` and ``"score"``, the main one of its task.
    """
    rows = []
    for run, found in zip(runs, launch_evaluations(runs, jobs), strict=True):
        name = Path(run["out"]).name.split("-")[0]
        rows += [row | {"model": TITLES[name], "name": name, "score": row[SCORES[row["task"]]]} for row in found]
    return rows


def claims(p: CompareParams, rows: list[dict], places: list[str]) -> list[dict]:
    """What the papers and this workbook ask, put to the test: rows of `judge_claim` with their ``"claim"``.

    Claims whose models are not among the rows are left out.

    Args:
        rows: of `score`. places: of the test samples.
    """
    both = "+".join(_all_sensors(p))
    most = {"task": "segmentation", "method": "linear", "fraction": max(p.fractions), "sensors": both, "tested": both}
    asked = [(f"{TITLES[a]} beats {TITLES[b]}", {"name": a}, {"name": b}) for a, b in PAIRS]
    for one in _all_sensors(p):
        alone = {"name": "xaed", "sensors": one, "tested": one}
        asked.append((f"{TITLES['xaed']}: {both} beats {one}", {"name": "xaed"}, alone))
    for method, share in product(("linear", "finetuned"), p.fractions):
        given = {"method": method, "fraction": share}
        words = f"pretraining helps with {share:.0%} of the labels ({method})"
        asked.append((words, given | {"name": "xaed"}, given | {"name": "random"}))
    there = [(words, most | a, most | b) for words, a, b in asked if all(select(rows, **most | x) for x in (a, b))]
    return [{"claim": words} | judge_claim(rows, a, b, places) for words, a, b in there]


def compare(p: CompareParams) -> list[dict]:
    """Pretrain, probe, fine-tune: all rows, see `score`."""
    launch(pretrainings(p), p.jobs)
    rows = [row for runs in (probes(p), tunings(p), trees(p)) for row in score(runs, p.jobs)]
    for name, content in (("rows", rows), ("commands", commands(p))):
        write_json(Path(p.out) / f"{name}.json", content, indent=None)
    return rows


def commands(p: CompareParams) -> list[dict]:
    """For the first seed, the commands that make each row of the table: {"model", "what", "command"}."""
    found = []
    for what, runs, module, defaults in (
        ("pretrain", pretrainings(p), "train", TRAIN_DEFAULTS),
        ("probe", probes(p), "evaluate", EVALUATE_DEFAULTS),
        ("fine-tune", tunings(p), "evaluate", EVALUATE_DEFAULTS),
        ("trees", trees(p), "evaluate", EVALUATE_DEFAULTS),
    ):
        for run in runs:
            if run["seed"] == p.seed:
                name = Path(run["out"]).name.split("-")[0]
                found.append({"model": TITLES[name], "what": what, "command": command(module, run, defaults)})
    return found


def command(module: str, run: dict, defaults: dict) -> str:
    """The command line of a run; what equals the default is left out."""
    words = [f"--{key}={_quoted(value)}" for key, value in run.items() if value != defaults[key]]
    return " ".join([f"python -m fmlib.{module}", *words])


def _quoted(value) -> str:
    return f'"{value}"' if isinstance(value, list) else str(value)


def probe_protocol(p: CompareParams) -> Protocol:
    """The protocol as `probes` carries it out."""
    return as_asked(EvaluateParams(**probes(p)[0]))


def _all_sensors(p: CompareParams) -> tuple[str, ...]:
    return max(PROTOCOLS[p.protocol].sensors, key=len)


def _seeds(p: CompareParams) -> range:
    return range(p.seed, p.seed + p.seeds)


def _evaluation(p: CompareParams, name: str, seed: int, given: dict) -> dict:
    shared = {"protocol": p.protocol, "data_root": p.data_root, "fractions": p.fractions, "device": p.device}
    where = f"{p.out}/scores/{given['methods'][0]}/{name}-{seed}"
    return shared | given | {"model": f"{p.out}/runs/{name}-{seed}/model", "seed": seed, "out": where}


def main(argv: list[str] | None = None) -> None:
    """`python -m fmlib.compare [params.json …] [--name=value …]`: each file is a comparison, names hold for all."""
    run_each(lambda given: compare(read_params(given)), argv, asdict(CompareParams()))


if __name__ == "__main__":
    main()
