"""Published and own evaluation protocols as plain settings; `fmlib.evaluate.protocol` carries them out.

A number says which protocol, data set, split and average it comes from, and is compared with no other kind.
"""

from dataclasses import dataclass, field

from fmlib.evaluate.finetune import FinetuneParams
from fmlib.evaluate.probe import ProbeParams
from fmlib.evaluate.segmentation import LINEAR

BOTH = (("s1",), ("s2",), ("s1", "s2"))


@dataclass(frozen=True)
class Protocol:
    """What is measured on which data, with how many labels, and how."""

    name: str
    data: str  # name of a manifest
    source: str  # where the protocol is from
    task: str  # single, multi or segmentation
    options: dict = field(default_factory=dict)  # of `open_dataset`
    validation: str = "validation"  # split that settings are chosen on; it may be the test split of protocols without
    test: str = "test"  # split that is reported
    views: tuple[str, ...] = ()  # dates of one place whose features are joined, see `pair_views`; empty: samples alone
    label: str = "label"  # the field asked for: label or map
    has_class: tuple[int, float] | None = None  # of maps also asked: does this class cover more than this share?
    crop: int | None = None  # side of the central window, pixels
    train_crop: int | None = None  # the same, for validation and the frozen features of training alone
    tile: int | None = None  # side of the windows that images are seen in, pixels; None: at once
    calm: dict = field(default_factory=dict)  # options that open one date, the calmest, to look for touching places
    drop_sensors: bool = False  # test heads of several sensors with each of them missing, too
    sensors: tuple[tuple[str, ...], ...] = BOTH  # shown in training and test; others, and what a model lacks, are not
    pools: tuple[str, ...] = ("cls",)
    cls_layers: int = 1  # class tokens of so many last blocks joined
    fractions: tuple[float, ...] = (1.0,)  # shares of labels, without replacement
    seeds: tuple[int, ...] = (0,)
    probe: ProbeParams = field(default_factory=ProbeParams)
    finetune: FinetuneParams | None = None  # None: frozen features alone
    batch_average: int = 0  # batch size of the batch-averaged micro AP; 0: none
    differs: tuple[str, ...] = ()  # how this differs from its source


DINO_MM = Protocol(
    name="DINO-MM linear evaluation",
    data="bigearthnet-v1",
    source="zhu-xlab/DINO-MM: linear_dino_B14.py; arXiv 2204.05381",
    task="multi",
    options={"size": 128, "resample": "bilinear"},
    test="validation",
    crop=112,
    cls_layers=4,
    fractions=(0.01, 1.0),
    seeds=(42,),
    probe=ProbeParams("sgd", lrs=(0.01,), weight_decays=(0.0,), epochs=100, batch_size=256, standardise=False),
    batch_average=256,
    differs=(
        "one setting and the last epoch, where the source reports the best epoch on the part it tests on",
        "features of the central window in training too, where the source draws crops and flips anew in each epoch",
        "labels drawn without replacement, so 1 % holds as many images as it says",
        "an absent sensor is not shown, where the source shows zeros",
        "the official lists, where the source takes SeCo's; both report on the validation part",
    ),
)

BIGEARTHNET_V2 = Protocol(
    name="BigEarthNet v2, project",
    data="bigearthnet-v2",
    source="this workbook",
    task="multi",
    pools=("cls", "mean"),
    fractions=(0.01, 0.1, 1.0),
    seeds=(0, 1, 2),
    finetune=FinetuneParams("multi", epochs=20, warmup=3, batch_size=64, lr=1e-3, layer_decay=0.75),
    batch_average=256,
)

SEN12MS = Protocol(
    name="SEN12MS, scene classification",
    data="sen12ms",
    source="schmitt-muc/SEN12MS: single-label classes of the simplified IGBP scheme, published lists",
    task="single",
    options={"labels": "single"},
    pools=("cls", "mean"),
    fractions=(0.01, 0.1, 1.0),
    seeds=(0, 1, 2),
    finetune=FinetuneParams("single", epochs=20, warmup=3, batch_size=64, lr=1e-3, layer_decay=0.75),
    differs=("validation is whole training scenes held back, where the source has no validation list",),
)

OMBRIA = Protocol(
    name="OMBRIA floods, project",
    data="ombria",
    source="this workbook",
    task="segmentation",
    views=("before", "after"),
    has_class=(1, 0.2),  # is it flooded?
    calm={"dates": ("before",)},
    drop_sensors=True,
    pools=("dense",),
    fractions=(0.01, 0.1, 1.0),
    seeds=(0, 1, 2),
    probe=LINEAR,
    finetune=FinetuneParams("segmentation", epochs=20, batch_size=16, crop=128, tile=128),
)

SCENES = Protocol(
    name="made scenes, land cover",
    data="synthetic",
    source="this workbook",
    task="segmentation",
    options={"with_map": True},
    label="map",
    has_class=(2, 0.2),  # is it arable land?
    crop=96,
    tile=48,
    drop_sensors=True,
    pools=("dense",),
    fractions=(0.1, 1.0),
    seeds=(0, 1, 2),
    probe=LINEAR,
    finetune=FinetuneParams("segmentation", epochs=20, batch_size=16, crop=48, tile=48),
)
PROTOCOLS = {
    "dino-mm": DINO_MM,
    "bigearthnet-v2": BIGEARTHNET_V2,
    "sen12ms": SEN12MS,
    "ombria": OMBRIA,
    "scenes": SCENES,
}
