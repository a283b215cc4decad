"""Sensors as data: everything that depends on a sensor is read from its `Modality`.

Nothing else in the workbook knows how many bands a sensor has, in which order they come, or what their unit is.
"""

from dataclasses import asdict, dataclass, field

import numpy as np

ON_NODATA = ("error", "mean", "keep")


# (unit of the files, unit of the sample); `fmlib.data.sample` converts. Sentinel-2 adds 1000 since baseline 04.00.
CONVERSIONS = (
    ("linear power", "dB"),
    ("linear amplitude", "dB"),
    ("reflectance", "reflectance × 10000"),
    ("reflectance × 10000 + 1000", "reflectance × 10000"),
)


@dataclass(frozen=True)
class Modality:
    """One sensor's image: its bands in order, their unit, valid range and statistics.

    Args:
        name: key of the sensor in a sample, e.g. ``"s1"``.
        bands: band names in channel order, e.g. ``("VV", "VH")``.
        unit: physical unit of the stored values, e.g. ``"dB"``, ``"reflectance × 10000"``, ``"digital number"``.
        valid_range: lowest and highest believable value; values beyond it are clipped before normalisation.
        mean, std: one number a band, in `unit`, over the training split.
        patch_size: side of a token in pixels, ``(rows, cols)``.
        groups: bands whose targets are normalised together (MAESTRO, arXiv 2508.10894); default: one group.
        rgb: the three bands (or one) that make a picture of it.
        title: name for figures, e.g. ``"Sentinel-1"``.
        stored_unit: unit of the files where it is another, see `CONVERSIONS`; readers convert it.
        nodata: stored values that mean "no data", besides NaN, infinity and a file's own nodata tag.
        on_nodata: what readers do with such pixels: ``"error"`` refuses the image, ``"mean"`` fills each band with its
            mean and marks the pixel in the sample's ``"valid"``, ``"keep"`` leaves finite ones as they are, and an
            image that is one value everywhere, too (the sea in an elevation model).
    """

    name: str
    bands: tuple[str, ...]
    unit: str
    valid_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch_size: tuple[int, int] = (8, 8)
    groups: tuple[tuple[str, ...], ...] = field(default=())
    rgb: tuple[str, ...] = field(default=())
    title: str = ""
    stored_unit: str = ""
    nodata: tuple[float, ...] = ()
    on_nodata: str = "error"

    def __post_init__(self):
        for key in ("bands", "valid_range", "mean", "std", "patch_size", "rgb", "nodata"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        groups = tuple(tuple(group) for group in self.groups) or (self.bands,)
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "rgb", self.rgb or self.bands[:1])
        object.__setattr__(self, "title", self.title or self.name)
        self._check()

    def _check(self):
        if not self.bands or len(set(self.bands)) < len(self.bands) or not all(isinstance(b, str) for b in self.bands):
            raise ValueError(f"modality {self.name!r}: bands must be different names, got {self.bands}")
        if len(self.patch_size) != 2 or not all(isinstance(side, int) and side > 0 for side in self.patch_size):
            raise ValueError(f"modality {self.name!r}: patch_size must be two sides in pixels, got {self.patch_size}")
        if not np.isfinite([*self.mean, *self.std, *self.nodata]).all():
            raise ValueError(f"modality {self.name!r}: mean, std and nodata must be finite numbers")
        for key in ("mean", "std"):
            if len(getattr(self, key)) != len(self.bands):
                raise ValueError(
                    f"modality {self.name!r}: {len(getattr(self, key))} values of {key} for {len(self.bands)} bands "
                    f"{self.bands}; give one a band"
                )
        if min(self.std) <= 0:
            raise ValueError(f"modality {self.name!r}: every std must be above 0, got {self.std}")
        if len(self.valid_range) != 2 or not self.valid_range[0] < self.valid_range[1]:
            raise ValueError(f"modality {self.name!r}: valid_range must be (low, high), got {self.valid_range}")
        if sorted(band for group in self.groups for band in group) != sorted(self.bands):
            raise ValueError(f"modality {self.name!r}: groups {self.groups} must hold each of {self.bands} once")
        if unknown := set(self.rgb) - set(self.bands):
            raise ValueError(f"modality {self.name!r}: rgb names {sorted(unknown)}, which are not among {self.bands}")
        if self.stored_unit and (self.stored_unit, self.unit) not in CONVERSIONS:
            known = "; ".join(f"{stored!r} to {unit!r}" for stored, unit in CONVERSIONS)
            raise ValueError(
                f"modality {self.name!r}: no conversion from {self.stored_unit!r} to {self.unit!r}; known: {known}"
            )
        if self.on_nodata not in ON_NODATA:
            raise ValueError(f"modality {self.name!r}: on_nodata {self.on_nodata!r} is not one of {ON_NODATA}")

    @property
    def in_chans(self) -> int:
        """Number of bands."""
        return len(self.bands)

    def index(self, *bands: str) -> list[int]:
        """Channel numbers of the named bands, in the order asked for."""
        if unknown := [band for band in bands if band not in self.bands]:
            raise ValueError(f"modality {self.name!r} has no band {unknown}; it has {self.bands}")
        return [self.bands.index(band) for band in bands]

    def check(self, image: np.ndarray, source: str, valid: np.ndarray | None = None) -> None:
        """Raise if an image cannot be this sensor's.

        Args:
            image: (C, H, W), in `unit`.
            source: where it was read, named in the error.
            valid: (H, W) bool, which pixels were measured and not filled; default: all.

        Raises:
            ValueError: wrong band count, non-finite values, one constant value everywhere, decibels that look like
                linear power, or scaled reflectance that looks like plain reflectance.
        """
        if image.ndim != 3 or image.shape[0] != self.in_chans:
            raise ValueError(
                f"{source}: shape {tuple(image.shape)}, but {self.name!r} has {self.in_chans} bands {self.bands}, "
                f"so ({self.in_chans}, H, W) was expected; check the band list of the manifest"
            )
        image = image if valid is None else image[:, valid]
        if not image.size:
            raise ValueError(f"{source}: no pixel has data in every band of {self.name!r}; drop this sample")
        if not np.isfinite(image).all():
            count = int((~np.isfinite(image)).sum())
            raise ValueError(f"{source}: {count} values of {self.name!r} are not finite; mask or fill them first")
        if image.min() == image.max() and self.on_nodata != "keep":
            raise ValueError(
                f"{source}: every value of {self.name!r} is {image.min():g} (all nodata?); drop this sample"
            )
        if self.unit == "dB" and image.min() >= 0:
            raise ValueError(
                f"{source}: {self.name!r} is in dB, but no value is below 0 (lowest {image.min():g}): this looks like "
                "linear power; convert with 10·log10(x)"
            )
        # Scaled reflectance is a count of 1/10000; fractions below 2 are reflectance itself.
        if self.unit == "reflectance × 10000" and 0 < image.max() <= 2 and (image % 1).any():
            raise ValueError(
                f"{source}: {self.name!r} is in {self.unit}, but its highest value is {image.max():g}: this looks like "
                "plain reflectance; multiply by 10000"
            )

    def replace(self, **changes) -> "Modality":
        """A copy with some fields changed, e.g. ``s2.replace(patch_size=(15, 15))``."""
        return Modality(**{**asdict(self), **changes})

    def to_dict(self) -> dict:
        """Plain lists and strings, as they stand in ``config.json``; ``Modality(**d)`` is the way back."""
        return asdict(self)
