from .calibration import (
    best_threshold as best_threshold,
    calibration_error as calibration_error,
    fit_temperature as fit_temperature,
    reliability as reliability,
    tempered as tempered,
)
from .final_test import evaluate as evaluate
from .leakage import nearest as nearest
from .metrics import (
    Difference as Difference,
    Interval as Interval,
    binary_scores as binary_scores,
    bootstrap_interval as bootstrap_interval,
    confusion as confusion,
    delong_interval as delong_interval,
    delong_p as delong_p,
    ensemble as ensemble,
    paired_difference as paired_difference,
    per_class_auc as per_class_auc,
    roc_auc as roc_auc,
    roc_band as roc_band,
    threshold_at_fpr as threshold_at_fpr,
)
from .selection import select as select
