from .scoring import (
    TrainAndPredict as TrainAndPredict,
    answers as answers,
    markdown as markdown,
    over_seeds as over_seeds,
    score as score,
    score_predictions as score_predictions,
)
from .sets import (
    BenchmarkSet as BenchmarkSet,
    definition as definition,
    make as make,
    opened as opened,
    shown_sets as shown_sets,
)
from .shortcut import (
    einstein_radius as einstein_radius,
    ring_predictions as ring_predictions,
)
