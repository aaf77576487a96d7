from .baselines import (
    gradient_boosting as gradient_boosting,
    logistic_regression as logistic_regression,
)
from .inputs import Tables as Tables
from .networks import (
    new_network as new_network,
    register as register,
)
from .runs import (
    Run as Run,
    load_run as load_run,
    train_run as train_run,
)
from .vit import ViT as ViT
