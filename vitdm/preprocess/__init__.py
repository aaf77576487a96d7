"""From a raw image to the square array that a network sees.

``process`` cuts, turns and stretches one image, ``process_dataset`` all images of a dataset.
``detect`` finds the light above the noise, ``roi_of`` the part of it that is the lens.
"""

from vitdm.preprocess.background import estimate_background
from vitdm.preprocess.pipeline import (
    Window,
    cut,
    process,
    process_dataset,
    process_light,
    stream,
    window,
)
from vitdm.preprocess.regions import Detection, Roi, detect, find_roi, roi_of

__all__ = [
    "Detection",
    "Roi",
    "Window",
    "cut",
    "detect",
    "estimate_background",
    "find_roi",
    "process",
    "process_dataset",
    "process_light",
    "roi_of",
    "stream",
    "window",
]
