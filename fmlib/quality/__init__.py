"""Is the data what it should be? Speckle, shared information, values of bands, and checks that give a verdict."""

from .checks import (
    check_alignment,
    check_copies,
    check_ndvi,
    check_pixels,
    check_polarisations,
    check_speed,
    check_statistics,
    count_verdicts,
)
from .information import (
    information_curves,
    information_maps,
    mutual_information,
    mutual_information_against_shift,
    mutual_information_map,
)
from .radar import equivalent_number_of_looks, homogeneous_window, is_radar, polarisations, to_power
from .samples import class_counts, complete, complete_pairs, coordinates, count_labels, describe, read_twice
from .values import (
    band_statistics,
    clipped,
    compare_with_manifest,
    cover_examples,
    dead_bands,
    exact_copies,
    ndvi,
    ndvi_by_cover,
    without_data,
)

__all__ = [
    "band_statistics",
    "check_alignment",
    "check_copies",
    "check_ndvi",
    "check_pixels",
    "check_polarisations",
    "check_speed",
    "check_statistics",
    "class_counts",
    "clipped",
    "compare_with_manifest",
    "complete",
    "complete_pairs",
    "coordinates",
    "count_labels",
    "count_verdicts",
    "cover_examples",
    "dead_bands",
    "describe",
    "equivalent_number_of_looks",
    "exact_copies",
    "homogeneous_window",
    "information_curves",
    "information_maps",
    "is_radar",
    "mutual_information",
    "mutual_information_against_shift",
    "mutual_information_map",
    "ndvi",
    "ndvi_by_cover",
    "polarisations",
    "read_twice",
    "to_power",
    "without_data",
]
