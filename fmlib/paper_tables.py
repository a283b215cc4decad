"""Tables of a paper: what of the runs' results each shows, and which of its columns are compared."""

import re

from fmlib.fusion_metrics import METRICS
from fmlib.latex import PaperTable
from fmlib.paper import HIGHER, Run, all_sensors, label_cells, most_labels, strategies
from fmlib.tables import columns

NOT_COMPARED = {  # columns that say what a row is, and an error that nobody wants low
    *("task", "model", "method", "fusion", "sensor", "question", "variant", "mask_strategy", "mask_ratio"),
    *("shift_train", "parameters", "wrong partner"),
}


def tables(runs: dict[str, Run]) -> list[PaperTable]:
    """Every table that the runs found have results for."""
    of_notebook = {"02": _partners, "03": _ablations, "05": _evaluation, "06": _fusion, "07": _tasks, "08": _shifts}
    of_notebook["09"] = _speed
    return [table for name, run in runs.items() for table in of_notebook[name[:2]](run) if table.rows]


def _partners(run: Run) -> list[PaperTable]:
    caption = (
        "Error of one sensor's removed patches, relative to each patch's own mean, with its true partner, a wrong one "
        "and none; gain: wrong minus true, taken within each run."
    )
    return [_compared(run, "02_partners", caption, run.rows(), "sensor")]


def _ablations(run: Run) -> list[PaperTable]:
    masks = "Mean IoU of frozen features by masking strategy and share removed."
    question = (
        "Variants of the design: mean IoU of frozen features by the sensors seen in the test, and error of "
        "reconstructions relative to each patch's own mean."
    )
    rows, settings = run.rows("bands"), ("fusion", "mask_strategy", "mask_ratio")
    by_band = [
        {"band": band} | {", ".join(str(row[key]) for key in settings): row[band] for row in rows}
        for band in columns(rows)
        if band not in settings
    ]
    return [
        _compared(run, "03_strategies", masks, strategies(run)),
        PaperTable("03_bands", "Relative error of reconstructions by band.", run.about(), by_band),
        _compared(run, "03_questions", question, run.rows("questions"), "question"),
    ]


def _evaluation(run: Run) -> list[PaperTable]:
    cells, names = label_cells(run), columns(run.rows())
    by_sensor = [name for name in names if name.endswith(f", {most_labels(cells):.0%} of labels")]
    by_share = [name for name in names if name.startswith(f"{all_sensors(cells)}, ")]
    score = "Frozen features: mean IoU of maps (segmentation) and mean recall of one answer an image (single), "
    touching = "Mean IoU at test places that touch training places, and at others."
    return [
        _compared(run, "05_sensors", f"{score}by the sensors used.", _only(run.rows(), by_sensor), "task"),
        _compared(run, "05_labels", f"{score}by the share of labels.", _only(run.rows(), by_share), "task"),
        _compared(run, "05_touching", touching, run.rows("touching"), "method"),
        _claims(run, "05_claims"),
    ]


def _fusion(run: Run) -> list[PaperTable]:
    alone = [name for name, metric in METRICS.items() if not metric.sources] + ["block noise"]
    by_itself = [{key: row.get(key) for key in ("method", *alone)} for row in run.rows()]
    compared = [{key: value for key, value in row.items() if key not in alone} for row in run.rows()]
    sources = "Fused images beside their two sources, means over the test pairs."
    pictures = "Fused images by themselves, means over the test pairs."
    return [_compared(run, "06_scores", sources, compared), _compared(run, "06_pictures", pictures, by_itself)]


def _tasks(run: Run) -> list[PaperTable]:
    splits = "Overall accuracy of pixels where whole clusters, and where single pixels are held back."
    classes = "Recall of each class in the classification of pixels."
    return [
        _compared(run, "07_scores", "One fusion design for three tasks.", run.rows(), "task"),
        _compared(run, "07_splits", splits, run.rows("splits")),
        PaperTable("07_classes", classes, run.about(), run.rows("classes")),
        _claims(run, "07_claims"),
    ]


def _shifts(run: Run) -> list[PaperTable]:
    turned = [a | b for a, b in zip(run.rows("turned"), run.rows("scaled"), strict=True)]
    follows = "Does attention follow a displaced twin? Accuracies, and distances in pixels from its true place."
    looks = "Where MsIFT's last layer looks in displaced images: distances in pixels from the counterpart's true place."
    shifted = "Mean IoU by the shift of one sensor in the test; shift_train: the largest in training, in pixels."
    return [
        _compared(run, "08_shifts", shifted, run.rows(), "shift_train"),
        _compared(run, "08_turns", "Mean IoU with one sensor turned or scaled in the test.", turned, "shift_train"),
        PaperTable("08_twins", follows, run.about(), run.rows("twins")),
        PaperTable("08_attention", looks, run.about(), run.rows("attention")),
        _claims(run, "08_claims"),
    ]


def _speed(run: Run) -> list[PaperTable]:
    slopes = "How operations (gflop) and time (ms) of a training step grow: slopes on logarithmic axes."
    gains = "How many times as fast a training step becomes: each way alone, and all others without it."
    return [
        PaperTable("09_slopes", slopes, run.about(), run.rows("exponents")),
        PaperTable("09_gains", gains, run.about(), run.rows()),
    ]


def _only(rows: list[dict], names: list[str]) -> list[dict]:
    """Task, model and some columns of the rows that have a value in one of them."""
    kept = [row for row in rows if any(row.get(name) is not None for name in names)]
    return [{name: row.get(name) for name in ("task", "model", *names)} for row in kept]


def _compared(run: Run, name: str, caption: str, rows: list[dict], within: str = "") -> PaperTable:
    """A table in which the best of each column of scores is bold: the lowest error, the highest of all else."""
    scores = [name for name in columns(rows) if name not in NOT_COMPARED]
    higher = {name: HIGHER.get(name, not re.match("error|true partner|no partner", name)) for name in scores}
    groups = list(dict.fromkeys(row.get(within) for row in rows))
    return PaperTable(
        name, caption, run.about(), sorted(rows, key=lambda row: groups.index(row.get(within))), higher, within
    )


def _claims(run: Run, name: str) -> PaperTable:
    caption = "Claims put to the test: difference of the two with its 95 % interval over places and seeds."
    names = {"better": "first", "worse": "second", "difference": "difference"}
    rows = []
    for row in run.rows("claims"):
        kept = {names.get(key, key): value for key, value in row.items() if key not in ("low", "high")}
        rows.append(kept | {"difference": [row["difference"], row["low"], row["high"]]})
    return PaperTable(name, caption, run.about(), rows)
