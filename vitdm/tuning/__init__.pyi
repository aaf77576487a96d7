from .finished import (
    load_best as load_best,
    load_trials as load_trials,
)
from .result import (
    load_result as load_result,
    partial_dependence as partial_dependence,
)
from .search import minimise as minimise
from .space import dimensions as dimensions
