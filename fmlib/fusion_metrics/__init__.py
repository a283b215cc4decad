"""Scores of an image fused from an infrared and a visible one, each under the convention a paper may have used.

The same names stand for different numbers in different programs. ``"standard"`` is the definition in its source, on
grey values 0 … 255. The other two are what the widely used MATLAB toolbox prints: ``"toolbox"`` as its published
tables were made (before March 2023), ``"toolbox-2023"`` since.

=========  ================================  =============================================  ========================
metric     standard                          toolbox                                        toolbox-2023
=========  ================================  =============================================  ========================
PSNR       10 log₁₀(1/MSE)                   48.13 dB more                                  48.13 dB more
MI         256 levels                        254 and 255 share a bin of joint histograms    as before
SF         0 … 255                           0 … 1                                          standard
SD         0 … 255                           in 8 bits: at most 15.97                       standard
VIF        whole numbers do not overflow     products stop at 255 at the finest scale       standard
Q^AB/F     equal strengths: G = 1            0 … 1, equal strengths: G = strength           0 … 255, G = strength
N^AB/F     0 … 255                           0 … 1: all weights equal                       arguments in wrong order
SSIM       mean of two                       MEF-SSIM                                       mean of two, range 1
MS-SSIM    mean of two, five scales          MEF-SSIM, three scales                         as before
FMI        of pixels                         of edges                                       as before
=========  ================================  =============================================  ========================

CC, SCD, MSE, EN, AG and NLPD are the same in all.

Every metric takes grey images 0 … 255, arrays or tensors (H, W) or (B, H, W) of one size, and returns (B,) float64 on
the same device; a ValueError says what is wrong with an image.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from fmlib.fusion_metrics.edges import n_abf, q_abf
from fmlib.fusion_metrics.features import fmi
from fmlib.fusion_metrics.images import CONVENTIONS, Image, luma
from fmlib.fusion_metrics.pixels import ag, cc, en, mi, mse, psnr, scd, sd, sf
from fmlib.fusion_metrics.structure import ms_ssim, nlpd, ssim, vif

__all__ = [
    "CONVENTIONS",
    "METRICS",
    "Metric",
    "ag",
    "cc",
    "en",
    "fmi",
    "luma",
    "mi",
    "ms_ssim",
    "mse",
    "n_abf",
    "nlpd",
    "psnr",
    "q_abf",
    "scd",
    "score",
    "sd",
    "sf",
    "ssim",
    "vif",
]


class Metric(NamedTuple):
    """A metric as tables use it: its function, whether higher is better, and whether it looks at the sources."""

    function: Callable[..., Tensor]
    higher: bool = True
    sources: bool = True


METRICS = {
    "CC": Metric(cc),
    "SCD": Metric(scd),
    "PSNR": Metric(psnr),
    "MSE": Metric(mse, higher=False),
    "Nabf": Metric(n_abf, higher=False),
    "NLPD": Metric(nlpd, higher=False),
    "EN": Metric(en, sources=False),
    "MI": Metric(mi),
    "SF": Metric(sf, sources=False),
    "SD": Metric(sd, sources=False),
    "AG": Metric(ag, sources=False),
    "Qabf": Metric(q_abf),
    "VIF": Metric(vif),
    "SSIM": Metric(ssim),
    "MS-SSIM": Metric(ms_ssim),
    "FMI": Metric(fmi),
}


def score(
    ir: Image, vi: Image, fused: Image, convention: str = "standard", metrics: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Several metrics of the same images.

    Args:
        ir, vi: the sources, grey 0 … 255, (H, W) or (B, H, W); one may serve a whole batch.
        fused: (H, W) or (B, H, W) grey 0 … 255, of the sources' size.
        convention: one of `CONVENTIONS`.
        metrics: names in `METRICS`; default: all.

    Returns:
        Name → (B,) float64; NaN where a metric is not defined, see each.

    Raises:
        ValueError: an unknown metric; images that do not fit.

    >>> score(ir, vi, (ir + vi) / 2, metrics=["CC", "SCD"])
    """
    names = list(METRICS) if metrics is None else list(metrics)
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"no metric {', '.join(unknown)}; there are {', '.join(METRICS)}")
    chosen = {name: METRICS[name] for name in names}
    return {
        name: metric.function(ir, vi, fused, convention) if metric.sources else metric.function(fused, convention)
        for name, metric in chosen.items()
    }
