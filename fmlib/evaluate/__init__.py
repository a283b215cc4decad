"""How good is a pretrained model?  Reconstruction, frozen features and probes, fine-tuning, maps, and their scores.

Imports torch, timm and NumPy alone; functions that score import torchmetrics when they are called.
"""

from fmlib.evaluate.features import Features, extract, pair_views, standardise
from fmlib.evaluate.finetune import FinetuneParams, FinetuneResult, finetune
from fmlib.evaluate.leaks import find_leaks, touching_edges, touching_places
from fmlib.evaluate.metrics import (
    average_precision,
    batch_averaged_micro_ap,
    bootstrap,
    confusion,
    confusion_scores,
    mean_iou,
    multi_label_scores,
    single_label_scores,
    summarise,
)
from fmlib.evaluate.presets import BIGEARTHNET_V2, DINO_MM, OMBRIA, SEN12MS, Protocol, run_protocol
from fmlib.evaluate.probe import ProbeParams, ProbeResult, knn, linear_probe, patch_rows
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

__all__ = [
    "BIGEARTHNET_V2",
    "DINO_MM",
    "NAMES",
    "OMBRIA",
    "PARTNERS",
    "SEN12MS",
    "DenseHead",
    "Features",
    "FinetuneParams",
    "FinetuneResult",
    "ProbeParams",
    "ProbeResult",
    "Protocol",
    "average_precision",
    "baseline_errors",
    "batch_averaged_micro_ap",
    "bootstrap",
    "confusion",
    "confusion_scores",
    "dense_probe",
    "extract",
    "find_leaks",
    "finetune",
    "knn",
    "linear_probe",
    "mean_iou",
    "multi_label_scores",
    "pair_views",
    "partner_gains",
    "partner_masks",
    "partner_pictures",
    "partner_test",
    "patch_rows",
    "predict_maps",
    "reconstruction_error",
    "relative_error",
    "run_protocol",
    "sensor_losses",
    "single_label_scores",
    "standardise",
    "summarise",
    "touching_edges",
    "touching_places",
    "with_partner",
    "wrong_partner",
]
