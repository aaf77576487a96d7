"""Images and their catalog: the dataset on disk, its splits, and where its images come from."""

from vitdm.data.dataset import Dataset, merge_shards
from vitdm.data.observation import Observation
from vitdm.data.simulated import simulate_dataset
from vitdm.data.splits import assign_splits

__all__ = ["Dataset", "Observation", "assign_splits", "merge_shards", "simulate_dataset"]
