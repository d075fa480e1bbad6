"""Whoever knows the language, as a compiled kernel; what it computes is in `reference.py`."""

from __future__ import annotations

import numpy as np

NEGLIGIBLE = 1e-18
"""As for the Bayes learner: what falls below is not looked at again before the next separator."""

_LEAST_P = 1e-300


def known(x, y, tokens, bounds, out, kept, wrong, separator):
    """out, float32 [L] = nats of each y given x up to it and the language.

    tokens, int32: one element after another; element i begins at bounds[i], int64 [k + 1].
    """
    elements = len(bounds) - 1
    live, weight = np.empty(elements, np.int64), np.empty(elements)
    lives = elements
    for i in range(elements):
        live[i], weight[i] = i, 1.0
    start = 0
    for t in range(len(x)):
        token = x[t]
        if token == separator:
            lives = elements
            for i in range(elements):
                live[i], weight[i] = i, 1.0
            start = t + 1
        else:
            j = t - start
            left = 0
            for i in range(lives):
                element = live[i]
                place = bounds[element] + j
                if place < bounds[element + 1]:
                    w = weight[i]
                    if token != 0:
                        w *= kept if tokens[place] == token else wrong
                    live[left], weight[left] = element, w
                    left += 1
            lives = left
        j = t + 1 - start
        total = 0.0
        for i in range(lives):
            total += weight[i]
        scale = 1.0 / total if total > 0 else 0.0
        target = y[t]
        p = 0.0
        left = 0
        for i in range(lives):
            w = weight[i] * scale
            if w < NEGLIGIBLE:
                continue
            element = live[i]
            live[left], weight[left] = element, w
            left += 1
            place = bounds[element] + j
            spoken = tokens[place] if place < bounds[element + 1] else separator
            if spoken == target:
                p += w
        lives = left
        out[t] = -np.log(min(1.0, max(p, _LEAST_P)))
