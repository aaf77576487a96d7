"""The settings of the workflow: those of the article's model, and of each study."""

from studies.config.files import build, check_data, fingerprint, load, load_cutouts
from studies.config.studies import (
    Arm,
    Audit,
    Comparison,
    Curve,
    Cutout,
    Cutouts,
    Efficiency,
    Faults,
    Final,
    Override,
    Populations,
    Rates,
    RealSet,
    RealSky,
    Row,
    Study,
)
from studies.config.workflow import FEATURE_RUNS, Config

__all__ = [
    "FEATURE_RUNS",
    "Arm",
    "Audit",
    "Comparison",
    "Config",
    "Curve",
    "Cutout",
    "Cutouts",
    "Efficiency",
    "Faults",
    "Final",
    "Override",
    "Populations",
    "Rates",
    "RealSet",
    "RealSky",
    "Row",
    "Study",
    "build",
    "check_data",
    "fingerprint",
    "load",
    "load_cutouts",
]
