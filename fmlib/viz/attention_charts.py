"""Charts of attention by layer and by offset, and tokens as colours."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..modality import Modality
from .attention import MAP, QUERY, Pair
from .images import draw_image
from .style import MARKERS, OKABE_ITO, charts, image_panels, settle, to_numpy, wrap

LABELS = {
    "share": "share of attention",
    "distance": "mean distance (pixels)",
    "entropy": "entropy (bits)",
}


def attention_by_layer(
    rows: Sequence[Mapping], modalities: Mapping[str, Modality], value: str = "share", ylabel: str = ""
) -> Figure:
    """Draw a number of each head against the depth of its layer, one panel a pair of sensors.

    Args:
        rows: from `fmlib.attention.measure`; with ``"model"`` where there are several.
        modalities: the sensors.
        value: ``"share"``, ``"distance"`` or ``"entropy"``.
        ylabel: default: what the value is, with its unit.

    Returns:
        The figure: a mark a head, a dash the mean of the heads, joined through layers of one kind, and dotted what
        equal attention to all keys would give.
    """
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    models = list(dict.fromkeys(row.get("model", "") for row in rows))
    names = list(modalities)
    fig, axes = charts(len(names), len(names), 0.8 + 1.25 * len(names), sharex=True, sharey=True)
    for ax, (query, key) in zip(axes.flat, ((q, k) for q in names for k in names), strict=True):
        mine = [row for row in rows if (row["query"], row["key"]) == (query, key)]
        for i, model in enumerate(models):
            aside = 0.22 * (i - (len(models) - 1) / 2)
            _draw_heads(ax, [row for row in mine if row.get("model", "") == model], stages, value, i, aside)
        even = {stages.index(row["stage"]): row[f"even_{value}"] for row in mine}
        ax.hlines(
            list(even.values()), np.array(list(even)) - 0.4, np.array(list(even)) + 0.4, color="0.55", lw=1, ls=":"
        )
        asks, answers = (modalities[name].title for name in (query, key))
        ax.set_title(f"{asks} looks at {'itself' if query == key else answers}", fontsize=8)
        ax.set_xticks(range(len(stages)), stages, rotation=90 if len(stages) > 6 else 0)
        ax.grid(axis="y")
    axes[0, 0].set_xlim(-0.6, len(stages) - 0.4)
    axes[0, 0].set_ylim(bottom=0)
    fig.supylabel(ylabel or LABELS[value], fontsize=8.5)
    handles = [
        Line2D([], [], color=OKABE_ITO[i], marker=MARKERS[i], ms=4, label=m or "heads") for i, m in enumerate(models)
    ]
    handles.append(Line2D([], [], color="0.55", ls=":", label="equal attention to all keys"))
    fig.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    return settle(fig)


def attention_offsets(
    maps: Mapping[str, np.ndarray], moved: Mapping[str, Pair], reach: int = 4, patch_size: Pair = (8, 8)
) -> Figure:
    """Draw the mean attention by where a key lies from the query, before and after a sensor was displaced.

    Args:
        maps: {title: (2 R − 1, 2 C − 1)} from `fmlib.attention.offset_map`.
        moved: {title: (down, right)} in patches, where the content of the sensor that answers went.
        reach: patches shown each way. patch_size: in pixels.

    Returns:
        The figure: square, the query's own place; circle, where the content went. Colour runs from 0 to the largest
        value of each panel, which stands in its title.
    """
    crops = {title: 100 * _middle(to_numpy(offsets), reach) for title, offsets in maps.items()}
    fig, axes = charts(1, len(crops), 2.9, min(7, 0.3 + 2.1 * len(crops)), sharey=True)
    p, q = patch_size
    for ax, (title, crop) in zip(axes[0], crops.items(), strict=True):
        down, right = (np.array(crop.shape) // 2 + 0.5) * patch_size
        ax.imshow(crop, vmin=0, extent=(-right, right, down, -down), cmap=MAP)
        ax.add_patch(Rectangle((-q / 2, -p / 2), q, p, fill=False, ec="white", lw=1.3))
        ax.plot(moved[title][1] * q, moved[title][0] * p, "o", ms=9, mfc="none", mec=QUERY, mew=1.5)
        ax.set_title(f"{wrap(title, 1.8, 8, 2)}\n0…{np.nanmax(crop):.2g} % a patch", fontsize=8)
        ax.set_xlabel("pixels to the right")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("pixels down")
    return settle(fig)


def embedding_map(
    images: Mapping[str, np.ndarray],
    modalities: Mapping[str, Modality],
    tokens: Mapping[str, np.ndarray],
    grids: Mapping[str, Pair],
) -> Figure:
    """Draw each sensor's tokens as colours: what looks alike to the model has one colour, in all sensors.

    Args:
        images: {sensor: (C, H, W)} of one sample.
        modalities: the sensors.
        tokens: {sensor: (L, D)}, one a patch. grids: rows and columns of patches of each sensor.

    Returns:
        The figure: each image beside its tokens, whose three largest principal components are red, green and blue.
    """
    colours = token_colours(tokens)
    shape = next(iter(images.values())).shape
    fig, axes = image_panels(
        1, 2 * len(modalities), shape[-2] / shape[-1], breaks=range(2, 2 * len(modalities), 2), top=0.24, largest=1.7
    )
    for (left, right), (name, modality) in zip(axes.reshape(-1, 2), modalities.items(), strict=True):
        draw_image(left, images[name], modality, title=modality.title)
        right.imshow(colours[name].reshape(*grids[name], 3), aspect="auto")
        right.set_title("its tokens", loc="left", fontsize=8, pad=2.5)
    return fig


def token_colours(tokens: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tokens {sensor: (L, D)} → colours {sensor: (L, 3)}, 0..1: the first principal components of all together."""
    parts = {name: to_numpy(x).astype(float) for name, x in tokens.items()}
    joined = np.concatenate(list(parts.values()))
    mean = joined.mean(0)
    axes = np.linalg.svd(joined - mean, full_matrices=False)[2][:3]
    axes = axes * np.sign(axes.sum(1, keepdims=True) + 1e-12)  # a direction has no sign of its own
    low, high = np.percentile((joined - mean) @ axes.T, (2, 98), axis=0)
    return {n: np.clip(((x - mean) @ axes.T - low) / np.maximum(high - low, 1e-12), 0, 1) for n, x in parts.items()}


# -- parts ------------------------------------------------------------------------------------------------------------


def _draw_heads(
    ax: Axes, rows: Sequence[Mapping], stages: Sequence[str], value: str, number: int, aside: float
) -> None:
    means: dict[int, list[float]] = {}
    for row in rows:
        means.setdefault(stages.index(row["stage"]), []).append(row[value])
    x = [stage + aside for stage, values in means.items() for _ in values]
    look = {"color": OKABE_ITO[number], "marker": MARKERS[number]}
    ax.plot(x, [v for values in means.values() for v in values], ls="", ms=3, alpha=0.55, mew=0, **look)
    for kind in dict.fromkeys(stages[stage].partition(".")[0] for stage in means):  # lines join layers of one kind
        alike = [stage for stage in means if stages[stage].partition(".")[0] == kind]
        points = [stage + aside for stage in alike], [np.mean(means[stage]) for stage in alike]
        ax.plot(*points, color=OKABE_ITO[number], lw=1.1, marker="_", ms=7)


def _middle(offsets: np.ndarray, reach: int) -> np.ndarray:
    rows, cols = (n // 2 for n in offsets.shape)
    down, right = min(reach, rows), min(reach, cols)
    return offsets[rows - down : rows + down + 1, cols - right : cols + right + 1]
