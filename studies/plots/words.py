"""Settings in the words of figures and tables."""

from __future__ import annotations

SETTINGS = {
    "learning_rate": "learning rate",
    "embed_dim": "token width",
    "depth": "blocks",
    "num_heads": "heads per block",
    "patch_size": "patch side [px]",
    "mlp_ratio": "MLP width / token width",
    "batch_size": "images per batch",
    "weight_decay": "weight decay",
    "label_smoothing": "label smoothing",
    "spt": "shifted patches",
    "lsa": "locality attention",
}


def setting_name(key: str) -> str:
    """Return a key of the model or train section in words."""
    return SETTINGS.get(key, key.replace("_", " "))
