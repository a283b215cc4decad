"""Mean and standard deviation of a sensor's bands, as they stand in a manifest."""

import numpy as np


def band_statistics(dataset, sensor: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every band of a sensor over a data set, read once.

    Pixels that a sample's ``"valid"`` marks as without data are left out, and so are samples without the sensor.

    Returns:
        One mean and one standard deviation a band, in the sensor's unit.

    Raises:
        ValueError: no sample has the sensor.
    """
    count, total, squares = 0, 0.0, 0.0
    shift = np.array(dataset.modalities[sensor].mean)[:, None]  # near the mean, squares lose no digits
    for index in range(len(dataset)):
        sample = dataset[index]
        if sensor in sample:
            pixels = sample[sensor].reshape(len(shift), -1).astype(np.float64) - shift  # (C, H·W)
            if "valid" in sample:
                pixels = pixels[:, sample["valid"].ravel()]
            count, total = count + pixels.shape[1], total + pixels.sum(1)
            squares = squares + (pixels**2).sum(1)
    if not count:
        raise ValueError(f"no sample of {dataset.name}/{dataset.split} has pixels of {sensor!r}")
    mean = total / count
    return (mean + shift[:, 0]).tolist(), np.sqrt(squares / count - mean**2).tolist()
