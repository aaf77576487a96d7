"""Features of lenses: numbers with a meaning, each defined once.

``measure`` measures those of an image, ``measure_dataset`` writes those of a dataset and of its
lens fits; ``definitions.table`` says what each is. A new one is a function in ``image`` with the
decorator ``feature`` above it (see ``registry``).
"""

from vitdm.features import image  # its functions are the features of the image  # noqa: F401
from vitdm.features.definitions import feature_names
from vitdm.features.fitted import LENSFIT
from vitdm.features.measured import Measured
from vitdm.features.registry import GROUPS, Feature, feature
from vitdm.features.searched import SEARCH
from vitdm.features.tables import measure, measure_dataset, measure_light

__all__ = [
    "Feature",
    "GROUPS",
    "LENSFIT",
    "Measured",
    "SEARCH",
    "feature",
    "feature_names",
    "measure",
    "measure_dataset",
    "measure_light",
]
