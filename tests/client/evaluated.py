"""Predictions to evaluate: those of the reference predictors themselves."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from metalm import Spec, Split
from metalm.eval import Evaluator
from metalm_service.core.floors import losses

SPEC = Spec(V=16, n=6, l=8, e=0.1, L=512)
SEED, SAMPLES = 7, 24


@lru_cache(maxsize=16)
def predictions(predictor: str, spec: Spec = SPEC, samples: int = SAMPLES) -> NDArray[np.float32]:
    """Log-probabilities of the targets [samples, L], in nats."""
    found = -losses(spec, SEED, Split.TEST, 0, samples, (predictor,))[predictor]
    found.setflags(write=False)
    return found


def evaluated(predictor: str, spec: Spec = SPEC, samples: int = SAMPLES) -> Evaluator:
    evaluator = Evaluator(spec, SEED, label=predictor)
    evaluator.update(0, predictions(predictor, spec, samples))
    return evaluator
