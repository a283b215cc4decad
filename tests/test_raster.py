import numpy as np
import pytest
from bigearthnet_archive import write

from fmlib.data.raster import Footprint, check_footprints, read_band
from fmlib.data.resample import resample


def test_footprints_tell_sensors_apart():
    here = Footprint("EPSG:32633", 0, 0, 1200, 1200)
    check_footprints({"a": here, "b": here._replace(left=4)}, tolerance=5)
    with pytest.raises(ValueError, match="b covers"):
        check_footprints({"a": here, "b": here._replace(left=6)}, tolerance=5)


def test_resample_keeps_values_and_centres():
    band = np.arange(16, dtype=np.uint16).reshape(4, 4)
    assert resample(band, 4).dtype == np.float32
    np.testing.assert_array_equal(resample(band, 8)[::2, 1::2], band)
    assert resample(band[:3, :3], 1).item() == 5  # the middle, not the corner
    assert resample(band, (2, 4), "bilinear").shape == (2, 4)
    assert resample(band, 2, "bilinear").mean() == pytest.approx(band.mean())
    with pytest.raises(ValueError, match="'cubic' is not one of"):
        resample(band, 8, "cubic")


def test_read_band_returns_what_is_stored(tmp_path):
    write(tmp_path / "VV.tif", np.full((120, 120), -10.25, np.float32))
    band, nodata, footprint = read_band(tmp_path / "VV.tif", (120, 120), "float32")
    assert nodata is None
    assert band.dtype == np.float32
    assert band[0, 0] == -10.25
    assert footprint == ("EPSG:32633", 384000, 5341200, 385200, 5342400)
