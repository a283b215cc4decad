"""How good is a pretrained model?  Reconstruction, frozen features and probes, fine-tuning, maps, and their scores.

Imports torch, timm and NumPy alone; functions that score import torchmetrics when they are called.
"""

from fmlib.evaluate.claims import at_places, judge_claim, select, worst_places
from fmlib.evaluate.features import Features, extract, fill_missing, pair_views, presence, standardise
from fmlib.evaluate.finetune import FinetuneParams, FinetuneResult, finetune
from fmlib.evaluate.leaks import find_leaks, touching_edges, touching_places
from fmlib.evaluate.metrics import (
    accuracies,
    average_precision,
    batch_averaged_micro_ap,
    bootstrap,
    bootstrap_matrices,
    confusion,
    confusion_scores,
    mean_ious,
    multi_label_scores,
    single_label_scores,
    summarise,
)
from fmlib.evaluate.presets import (
    BIGEARTHNET_V2,
    DINO_MM,
    OMBRIA,
    PROTOCOLS,
    SCENES,
    SEN12MS,
    Protocol,
)
from fmlib.evaluate.probe import ProbeParams, ProbeResult, knn, linear_probe, patch_rows
from fmlib.evaluate.protocol import open_splits, run_protocol, scored_places, shown, touching, worst_maps
from fmlib.evaluate.reconstruction import (
    NAMES,
    PARTNERS,
    baseline_errors,
    partner_gains,
    partner_masks,
    partner_pictures,
    partner_test,
    reconstruction_error,
    relative_error,
    sensor_losses,
    with_partner,
    wrong_partner,
)
from fmlib.evaluate.segmentation import DenseHead, dense_probe, predict_maps
from fmlib.evaluate.tiles import in_tiles
from fmlib.evaluate.windows import cropped, with_labels

__all__ = [
    "BIGEARTHNET_V2",
    "DINO_MM",
    "NAMES",
    "OMBRIA",
    "PARTNERS",
    "PROTOCOLS",
    "SCENES",
    "SEN12MS",
    "DenseHead",
    "Features",
    "FinetuneParams",
    "FinetuneResult",
    "ProbeParams",
    "ProbeResult",
    "Protocol",
    "accuracies",
    "at_places",
    "average_precision",
    "baseline_errors",
    "batch_averaged_micro_ap",
    "bootstrap",
    "bootstrap_matrices",
    "confusion",
    "confusion_scores",
    "cropped",
    "dense_probe",
    "extract",
    "fill_missing",
    "find_leaks",
    "finetune",
    "in_tiles",
    "judge_claim",
    "knn",
    "linear_probe",
    "mean_ious",
    "multi_label_scores",
    "open_splits",
    "pair_views",
    "partner_gains",
    "partner_masks",
    "partner_pictures",
    "partner_test",
    "patch_rows",
    "predict_maps",
    "presence",
    "reconstruction_error",
    "relative_error",
    "run_protocol",
    "scored_places",
    "select",
    "sensor_losses",
    "shown",
    "single_label_scores",
    "standardise",
    "summarise",
    "touching",
    "touching_edges",
    "touching_places",
    "with_labels",
    "with_partner",
    "worst_maps",
    "worst_places",
    "wrong_partner",
]
