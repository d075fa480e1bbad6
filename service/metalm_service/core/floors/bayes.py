"""The Bayes learner as a compiled kernel: genie, greedy, last copy and vote.

What it computes is written in `reference.py`. Its memory is in proportion to the sample: what is
known of a token of an element is a chain of nodes, one for each symbol that was heard there.
"""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(nogil=True, error_model="numpy", inline="always")

COUNTS, LAST, VOTE = 0, 1, 2
"""What is remembered of the copies: how often each symbol was heard, and the channel; the last one
alone; the shares of the symbols, without knowing the channel."""

NEGLIGIBLE = 1e-18
"""A candidate whose weight falls below this is not looked at again before the next separator: what
it could still become it becomes as rarely."""

_SMALLEST = 1e-200
"""The weight of the new element stays above: far below all others, far above what underflows."""

_CLEARLY = 1 + 1e-9
"""So much more probable a later candidate must be: rounding decides nothing."""

_LEAST_P = 1e-300


@_jit
def _probability(token, place, head, unheard, node_token, node_p, node_next):
    """P(the element's token is `token`) at a place."""
    node = head[place]
    while node >= 0:
        if node_token[node] == token:
            return node_p[node]
        node = node_next[node]
    return unheard[place]


@_jit
def _weigh(
    place, head, unheard, node_count, node_p, node_next, memory, powers, falling, symbols
):  # fmt: skip
    """Computes the probabilities at a place anew from its counts.

    Weights are ratio^(count - pivot), where the pivot is the count of the greatest of them, so that
    none overflows.
    """
    heard, total = 0, 0
    least, most = 2**62, 0
    node = head[place]
    while node >= 0:
        count = node_count[node]
        heard += 1
        total += count
        least, most = min(least, count), max(most, count)
        node = node_next[node]
    rest = symbols - heard
    if memory == VOTE:
        share = 1.0 / (total + 1.0)
        unheard[place] = share / symbols
        node = head[place]
        while node >= 0:
            node_p[node] = share * node_count[node] + unheard[place]
            node = node_next[node]
        return
    pivot = most
    if falling:
        pivot = 0 if rest > 0 else least
    z = rest * powers[pivot]
    node = head[place]
    while node >= 0:
        node_p[node] = powers[abs(node_count[node] - pivot)]
        z += node_p[node]
        node = node_next[node]
    unheard[place] = powers[pivot] / z
    node = head[place]
    while node >= 0:
        node_p[node] /= z
        node = node_next[node]


def bayes(  # noqa: PLR0915
    x, y, slots, is_given, out, memory,
    kept, wrong, symbols, elements, doubt, powers, falling, ends, goes_on, separator,
):  # fmt: skip
    """out, float32 [L] = nats of each y given x up to it.

    `is_given`: slots, int32 [repetitions], tells the element of each finished repetition, numbered
    as they appear. Else every repetition goes to its most probable candidate, and slots receives
    which. `powers`: the greater of ratio and 1/ratio to the power of 0, -1, ...; `falling`: the
    ratio is below 1. `doubt`: weight of a new element, in units of one known, once there are as
    many known as can be. Returns how many elements there are.
    """
    length = len(x)
    most_slots = length // 4 + 2
    slot_length, slot_base = np.empty(most_slots, np.int64), np.empty(most_slots, np.int64)
    live, weight, p_next = (
        np.empty(most_slots, np.int64), np.empty(most_slots), np.empty(most_slots)
    )  # fmt: skip
    head, unheard = np.empty(length + 1, np.int32), np.empty(length + 1)
    node_token, node_next = np.empty(length + 1, np.int32), np.empty(length + 1, np.int32)
    node_count, node_p = np.empty(length + 1, np.int64), np.empty(length + 1)
    masked_out = kept + (symbols - 1.0) * wrong
    gain = kept - wrong
    new_token = masked_out / symbols

    known = places = nodes = repetition = 0
    lives = 0
    new = 1.0
    start = 0
    expected = -1
    for t in range(length):
        token = x[t]
        if token == separator:
            # Which element ended?
            j = t - start
            slot = known
            if is_given:
                slot = slots[repetition]
            else:
                best = 0.0
                for i in range(lives):
                    if slot_length[live[i]] == j and weight[i] > best * _CLEARLY:
                        slot, best = live[i], weight[i]
                if new * ends[min(j, len(ends) - 1)] > best * _CLEARLY:
                    slot = known
                slots[repetition] = slot
            repetition += 1
            if slot == known:
                slot_length[slot], slot_base[slot] = j, places
                head[places : places + j] = -1
                places += j
                known += 1
            base = slot_base[slot]
            for i in range(j):
                heard = x[start + i]
                if heard == 0 and memory != LAST:
                    if head[base + i] < 0:
                        unheard[base + i] = 1.0 / symbols
                    continue
                if memory == LAST:
                    head[base + i] = -1
                node = head[base + i]
                while node >= 0 and node_token[node] != heard:
                    node = node_next[node]
                if heard == 0:
                    pass
                elif node >= 0:
                    node_count[node] += 1
                else:
                    node_token[nodes], node_count[nodes] = heard, 1
                    # The first one heard, most often the right one, stays in front.
                    front = head[base + i]
                    if front < 0:
                        node_next[nodes] = -1
                        head[base + i] = nodes
                    else:
                        node_next[nodes] = node_next[front]
                        node_next[front] = nodes
                    nodes += 1
                _weigh(
                    base + i, head, unheard, node_count, node_p, node_next,
                    memory, powers, falling, symbols,
                )  # fmt: skip
            # Any of the known ones may come next, or one of the others.
            lives = known
            for i in range(known):
                live[i], weight[i] = i, 1.0
            new = float(elements - known)
            if known >= elements:
                new = 0.0 if is_given else doubt
            start = t + 1
            expected = -1
        else:
            j = t - start
            new *= goes_on[min(j, len(goes_on) - 1)]
            if token != 0:
                new *= new_token
            left = 0
            for i in range(lives):
                slot = live[i]
                if slot_length[slot] <= j:
                    continue
                w = weight[i]
                if token != 0:
                    p = p_next[i]
                    if token != expected:
                        p = _probability(
                            token, slot_base[slot] + j, head, unheard,
                            node_token, node_p, node_next,
                        )  # fmt: skip
                    w *= wrong + gain * p
                live[left], weight[left] = slot, w
                left += 1
            lives = left
        # Predict what stands at offset j.
        j = t + 1 - start
        total = new
        for i in range(lives):
            total += weight[i]
        scale = 1.0 / total if total > 0 else 0.0
        if new > 0:
            new = max(new * scale, _SMALLEST)
        target = y[t]
        expected = target
        p = new * ends[min(j, len(ends) - 1)]
        if target != separator:
            p = new * goes_on[min(j, len(goes_on) - 1)] / symbols
        left = 0
        for i in range(lives):
            w = weight[i] * scale
            if w < NEGLIGIBLE:
                continue
            slot = live[i]
            live[left], weight[left] = slot, w
            if slot_length[slot] == j:
                if target == separator:
                    p += w
            elif target != separator:
                q = _probability(
                    target, slot_base[slot] + j, head, unheard, node_token, node_p, node_next
                )
                p_next[left] = q
                p += w * q
            left += 1
        lives = left
        out[t] = -np.log(max(p, _LEAST_P))
    return known
