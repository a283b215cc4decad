"""CORINE land cover, level 3: what the codes are called, and which of BigEarthNet's 19 classes they belong to."""

from collections.abc import Iterable

import numpy as np

NO_CLASS = 255
AGRICULTURE = "Land principally occupied by agriculture, with significant areas of natural vegetation"

# code: (name, as BigEarthNet version 1 writes it; class, or None where it belongs to none). BigEarthNet has no 335.
LEVEL_3 = {
    111: ("Continuous urban fabric", "Urban fabric"),
    112: ("Discontinuous urban fabric", "Urban fabric"),
    121: ("Industrial or commercial units", "Industrial or commercial units"),
    122: ("Road and rail networks and associated land", None),
    123: ("Port areas", None),
    124: ("Airports", None),
    131: ("Mineral extraction sites", None),
    132: ("Dump sites", None),
    133: ("Construction sites", None),
    141: ("Green urban areas", None),
    142: ("Sport and leisure facilities", None),
    211: ("Non-irrigated arable land", "Arable land"),
    212: ("Permanently irrigated land", "Arable land"),
    213: ("Rice fields", "Arable land"),
    221: ("Vineyards", "Permanent crops"),
    222: ("Fruit trees and berry plantations", "Permanent crops"),
    223: ("Olive groves", "Permanent crops"),
    231: ("Pastures", "Pastures"),
    241: ("Annual crops associated with permanent crops", "Permanent crops"),
    242: ("Complex cultivation patterns", "Complex cultivation patterns"),
    243: (AGRICULTURE, AGRICULTURE),
    244: ("Agro-forestry areas", "Agro-forestry areas"),
    311: ("Broad-leaved forest", "Broad-leaved forest"),
    312: ("Coniferous forest", "Coniferous forest"),
    313: ("Mixed forest", "Mixed forest"),
    321: ("Natural grassland", "Natural grassland and sparsely vegetated areas"),
    322: ("Moors and heathland", "Moors, heathland and sclerophyllous vegetation"),
    323: ("Sclerophyllous vegetation", "Moors, heathland and sclerophyllous vegetation"),
    324: ("Transitional woodland/shrub", "Transitional woodland, shrub"),
    331: ("Beaches, dunes, sands", "Beaches, dunes, sands"),
    332: ("Bare rock", None),
    333: ("Sparsely vegetated areas", "Natural grassland and sparsely vegetated areas"),
    334: ("Burnt areas", None),
    411: ("Inland marshes", "Inland wetlands"),
    412: ("Peatbogs", "Inland wetlands"),
    421: ("Salt marshes", "Coastal wetlands"),
    422: ("Salines", "Coastal wetlands"),
    423: ("Intertidal flats", None),
    511: ("Water courses", "Inland waters"),
    512: ("Water bodies", "Inland waters"),
    521: ("Coastal lagoons", "Marine waters"),
    522: ("Estuaries", "Marine waters"),
    523: ("Sea and ocean", "Marine waters"),
}
LEVEL_1 = {
    1: "Artificial surfaces",
    2: "Agricultural areas",
    3: "Forest and semi-natural areas",
    4: "Wetlands",
    5: "Water bodies",
}
_CLASS_OF_NAME = dict(LEVEL_3.values())


def to_classes(labels: Iterable[str], classes: tuple[str, ...]) -> list[str]:
    """Names of a patch's classes, from names of level 3.

    A name that is itself among `classes` stays (so the 43 names may be the classes), one that belongs to no class is
    left out, and one that is not of level 3 comes back as it is, for the caller to refuse.
    """
    found = {label if label in classes else _CLASS_OF_NAME.get(label, label) for label in labels}
    return sorted(found - {None})


def class_of_code(classes: tuple[str, ...]) -> np.ndarray:
    """The class number of every code, (65536,) uint8; 255 where a code belongs to none of the classes.

    Raises:
        ValueError: a class that no code belongs to.
    """
    table = np.full(2**16, NO_CLASS, np.uint8)  # every uint16 code has an entry
    for index, name in enumerate(classes):
        codes = [code for code, (_, group) in LEVEL_3.items() if group == name]
        if not codes:
            raise ValueError(f"class {name!r} has no CORINE codes, so a map cannot show it; open without with_map")
        table[codes] = index
    return table


def coarse_classes(classes: tuple[str, ...]) -> np.ndarray:
    """The place in `LEVEL_1` of every class, (N,) uint8: the first digit of its codes says it.

    Raises:
        ValueError: a class that no code belongs to.
    """
    levels = {group: code // 100 for code, (_, group) in LEVEL_3.items()}
    if unknown := [name for name in classes if name not in levels]:
        raise ValueError(f"classes {unknown[:3]} have no CORINE codes, so they belong to no coarse class")
    return np.array([list(LEVEL_1).index(levels[name]) for name in classes], np.uint8)
