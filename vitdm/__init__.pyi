from .classifier import ViTClassifier as ViTClassifier
from .classifier_search import tune as tune
from .data.observation import Observation as Observation
from .pretrained import load_pretrained as load_pretrained

__version__: str
