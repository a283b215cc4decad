"""Figures: every function returns a matplotlib Figure, so that one function serves notebook, widget, test and paper."""

from .ablation import ablation_dots, ablation_heat_map
from .attention import attention_heads, attention_pairs, attention_sources, overlay
from .attention_charts import attention_by_layer, attention_offsets, embedding_map
from .checks import information_maps, ndvi_histograms, polarisations, statistics_beside_manifest
from .data import band_histograms, label_counts, mutual_information_curve, speckle
from .evaluation import label_curves, missing_sensor, sensor_gain
from .fusion import block_spectra, fusion_gallery, fusion_scores, token_maps, wipe
from .images import draw_image, label_text, limits_text, show_pairs, stretch
from .maps import segmentation_gallery
from .masks import hide, mask_gallery, mask_pixels
from .misalignment import displacement_curves, followed_query
from .places import places
from .reconstruction import error_maps, partner_gallery, reconstruction_gallery, squared_error
from .style import OKABE_ITO, ONE_COLUMN, TWO_COLUMNS, save_figure, use_style
from .throughput import batch_curve, cost_curves, gain_bars, roofline_chart, time_shares
from .training import loss_curves, partner_errors

__all__ = [
    "OKABE_ITO",
    "ONE_COLUMN",
    "TWO_COLUMNS",
    "ablation_dots",
    "ablation_heat_map",
    "attention_by_layer",
    "attention_heads",
    "attention_offsets",
    "attention_pairs",
    "attention_sources",
    "band_histograms",
    "batch_curve",
    "block_spectra",
    "cost_curves",
    "displacement_curves",
    "draw_image",
    "embedding_map",
    "error_maps",
    "followed_query",
    "fusion_gallery",
    "fusion_scores",
    "gain_bars",
    "hide",
    "information_maps",
    "label_counts",
    "label_curves",
    "label_text",
    "limits_text",
    "loss_curves",
    "mask_gallery",
    "mask_pixels",
    "missing_sensor",
    "mutual_information_curve",
    "ndvi_histograms",
    "overlay",
    "partner_errors",
    "partner_gallery",
    "places",
    "polarisations",
    "reconstruction_gallery",
    "roofline_chart",
    "save_figure",
    "segmentation_gallery",
    "sensor_gain",
    "show_pairs",
    "speckle",
    "squared_error",
    "statistics_beside_manifest",
    "stretch",
    "time_shares",
    "token_maps",
    "use_style",
    "wipe",
]
