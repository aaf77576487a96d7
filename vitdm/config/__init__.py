"""The schema of ``config/*.yaml``, and nothing else.

Every setting of the workflow is declared here once, with its type, bounds and meaning; those of
simulated lenses are in ``vitdm.simulation.population``. A file that does not fit is refused before
any work starts, with a message that names the file and the key (``vitdm.config.sections``).
"""

from vitdm.config.files import (
    build,
    check_data,
    fingerprint,
    load,
    load_cutouts,
    load_run_settings,
    save,
)
from vitdm.config.images import (
    SPLITS,
    Cutout,
    Cutouts,
    Features,
    Ingest,
    LensFit,
    Populations,
    Preprocess,
    Selection,
)
from vitdm.config.network import Model, Override, RunSettings, Train
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
from vitdm.config.settings import (
    Evaluation,
    Settings,
    check_joined,
    check_patches,
    load_settings,
)
from vitdm.config.studies import (
    Arm,
    Audit,
    Comparison,
    Curve,
    Efficiency,
    Faults,
    Final,
    Rates,
    RealSet,
    RealSky,
    Row,
    Study,
)
from vitdm.config.workflow import FEATURE_RUNS, Config
from vitdm.errors import InputError

__all__ = [
    "Arm",
    "Audit",
    "Categorical",
    "Comparison",
    "Config",
    "Constraint",
    "Curve",
    "Cutout",
    "Cutouts",
    "Dimension",
    "Efficiency",
    "Evaluation",
    "FEATURE_RUNS",
    "Faults",
    "Features",
    "Final",
    "Ingest",
    "InputError",
    "Integer",
    "LensFit",
    "Model",
    "NOT_TUNED",
    "Override",
    "Populations",
    "Preprocess",
    "Rates",
    "Real",
    "RealSet",
    "RealSky",
    "Row",
    "RunSettings",
    "SPLITS",
    "Selection",
    "Settings",
    "Study",
    "TUNED",
    "Train",
    "Tune",
    "build",
    "by_section",
    "check_data",
    "check_joined",
    "check_patches",
    "fingerprint",
    "load",
    "load_cutouts",
    "load_run_settings",
    "load_settings",
    "save",
    "tuned_fields",
]
