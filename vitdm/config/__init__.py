"""What one model depends on: the schema of its settings, and how a wrong key is named.

Every setting is declared here once, with its type, bounds and meaning. A file that does not fit is
refused before any work starts, with a message that names the file and the key.
"""

from vitdm.config.files import load_run_settings, load_settings, save
from vitdm.config.free_form import FreeForm
from vitdm.config.images import CHANNELS, SPLITS, Features, Ingest, LensFit, Preprocess, Selection
from vitdm.config.network import ARCHITECTURES, Model, RunSettings, Train
from vitdm.config.perturbers import Perturbers
from vitdm.config.search import (
    NOT_TUNED,
    TUNED,
    Categorical,
    Constraint,
    Dimension,
    Integer,
    Real,
    Tune,
    by_section,
    tuned_fields,
)
from vitdm.config.settings import Evaluation, Settings, Split, check_joined, check_patches

__all__ = [
    "ARCHITECTURES",
    "CHANNELS",
    "NOT_TUNED",
    "SPLITS",
    "TUNED",
    "Categorical",
    "Constraint",
    "Dimension",
    "Evaluation",
    "Features",
    "FreeForm",
    "Ingest",
    "Integer",
    "LensFit",
    "Model",
    "Perturbers",
    "Preprocess",
    "Real",
    "RunSettings",
    "Selection",
    "Settings",
    "Split",
    "Train",
    "Tune",
    "by_section",
    "check_joined",
    "check_patches",
    "load_run_settings",
    "load_settings",
    "save",
    "tuned_fields",
]
