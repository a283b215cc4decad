"""Made scenes: landscapes drawn at random and seen by every sensor, for work without a download.

`render_scene` makes one in memory; `generate` writes an archive of them in the published layout of BigEarthNet v2.
"""

from fmlib.scenes.archive import generate
from fmlib.scenes.render import render_scene

__all__ = ["generate", "render_scene"]
