"""TRL's own functions, for parity. Its experimental part warns at import unless told not to."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from trl import GRPOTrainer
from trl.experimental.gkd.gkd_trainer import GKDTrainer
from trl.experimental.sdft.loss_utils import (
    apply_importance_sampling_clipping,
    compute_divergence,
    compute_topk_self_distillation_loss,
)

__all__ = [
    "GKDTrainer",
    "GRPOTrainer",
    "apply_importance_sampling_clipping",
    "compute_divergence",
    "compute_topk_self_distillation_loss",
]
