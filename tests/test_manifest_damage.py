"""Manifests damaged in every way: they load whole, or an error names the file."""

import tomllib
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmlib import manifest as module
from fmlib.manifest import MANIFESTS, load_manifest
from fmlib.modality import Modality

JUNK = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def loads_or_complains(table: dict, path: Path) -> bool:
    """A whole manifest, or an error that names the file."""
    try:
        manifest = module.parse(table, path)
    except ValueError as error:
        return str(path) in str(error)
    return all(isinstance(sensor, Modality) for sensor in manifest.sensors.values())


@settings(max_examples=300, deadline=None)
@given(data=st.data(), name=st.sampled_from(["ombria", "roadscene", "bigearthnet-v2"]))
def test_any_value_at_any_place_is_taken_or_named(data, name):
    path = MANIFESTS / f"{name}.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    place = table
    for _ in range(data.draw(st.integers(0, 3))):
        inner = [key for key, value in place.items() if isinstance(value, dict)]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(sorted(inner)))]
    if place:
        key = data.draw(st.sampled_from(sorted(place)))
        place[key] = data.draw(JUNK)
    assert loads_or_complains(table, path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_are_read_or_named(data, tmp_path, monkeypatch):
    content = (MANIFESTS / "ombria.toml").read_bytes()
    first = data.draw(st.integers(0, len(content) - 1))
    last = data.draw(st.integers(first, min(first + 9, len(content))))
    (tmp_path / "ombria.toml").write_bytes(content[:first] + data.draw(st.binary(max_size=9)) + content[last:])
    monkeypatch.setattr(module, "MANIFESTS", tmp_path)
    try:
        named = load_manifest("ombria").name == "ombria"
    except ValueError as error:
        named = str(tmp_path) in str(error)
    assert named
