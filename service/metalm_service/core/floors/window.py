"""The genie with a memory of W tokens, as a compiled kernel.

What it computes is written in `reference.py`. A step costs as much as there are elements in the
window: one token comes and one leaves, and each candidate's likelihood changes in one factor at
most. Likelihoods are kept as logarithms, as a factor may grow again when a copy leaves, and
factors of 0 are counted apart.
"""

from __future__ import annotations

import numpy as np

from metalm_service.core.compiling import inlined

_FAINT = -45.0
"""Weights e^-45 below the greatest add nothing in double precision."""

_LEAST_P = 1e-300


@inlined
def _find(token, place, head, node_token, node_next):
    """The node of a token at a place, or -1."""
    node = head[place]
    while node >= 0 and node_token[node] != token:
        node = node_next[node]
    return node


@inlined
def _weigh(
    place, head, unheard, unheard_log, node_count, node_p, node_log, node_next,
    kept, wrong, symbols, powers, falling,
):  # fmt: skip
    """Computes anew, from the counts at a place, the probability of each symbol and the logarithm
    of the likelihood of hearing it (-inf for 0)."""
    heard = 0
    least, most = 2**62, 0
    node = head[place]
    while node >= 0:
        heard += 1
        least, most = min(least, node_count[node]), max(most, node_count[node])
        node = node_next[node]
    rest = symbols - heard
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
    unheard_log[place] = np.log(wrong + (kept - wrong) * unheard[place])
    node = head[place]
    while node >= 0:
        node_p[node] /= z
        node_log[node] = np.log(wrong + (kept - wrong) * node_p[node])
        node = node_next[node]


def window(  # noqa: PLR0915 - the kernel is one function on purpose
    x, y, slots, out, width,
    kept, wrong, symbols, elements, powers, falling, ends, goes_on, separator,
):  # fmt: skip
    """out, float32 [L] = nats of each y given the last `width` tokens of x.

    slots, int32 [repetitions]: the element of each repetition, numbered as they appear. The other
    arguments are those of `bayes`.
    """
    length = len(x)
    most_slots = length // 4 + 2
    slot_length, slot_base = np.empty(most_slots, np.int64), np.empty(most_slots, np.int64)
    separators = np.zeros(most_slots, np.int64)  # of an element in the window
    active, rank = np.empty(most_slots, np.int64), np.empty(most_slots, np.int64)
    log_weight, zeros = np.zeros(most_slots), np.zeros(most_slots, np.int64)
    head, unheard = np.empty(length + 1, np.int32), np.empty(length + 1)
    unheard_log = np.empty(length + 1)
    node_token, node_next = np.empty(length + 1, np.int32), np.empty(length + 1, np.int32)
    node_count, node_p = np.empty(length + 1, np.int64), np.empty(length + 1)
    node_log = np.empty(length + 1)
    place_of = np.empty(length, np.int32)  # of a token of a finished repetition
    slot_of = np.empty(length, np.int32)
    new_token = np.log((kept + (symbols - 1.0) * wrong) / symbols)

    known = places = nodes = repetition = actives = 0
    start = 0
    new = 0.0
    for t in range(length):
        leaving = t - width
        if leaving >= 0 and leaving < start:
            slot, token = slot_of[leaving], x[leaving]
            if token == separator:
                separators[slot] -= 1
                if separators[slot] == 0:
                    actives -= 1
                    active[rank[slot]] = active[actives]
                    rank[active[actives]] = rank[slot]
            elif token != 0:
                place = place_of[leaving]
                j = place - slot_base[slot]
                # A later token of this repetition was judged by the copy that leaves.
                heard = x[start + j] if start + j < t else 0
                if heard != 0:
                    node = _find(heard, place, head, node_token, node_next)
                    before = node_log[node] if node >= 0 else unheard_log[place]
                    if before == -np.inf:
                        zeros[slot] -= 1
                    else:
                        log_weight[slot] -= before
                node = _find(token, place, head, node_token, node_next)
                node_count[node] -= 1
                if node_count[node] == 0:
                    if head[place] == node:
                        head[place] = node_next[node]
                    else:
                        other = head[place]
                        while node_next[other] != node:
                            other = node_next[other]
                        node_next[other] = node_next[node]
                _weigh(
                    place, head, unheard, unheard_log, node_count, node_p, node_log, node_next,
                    kept, wrong, symbols, powers, falling,
                )  # fmt: skip
                if heard != 0:
                    node = _find(heard, place, head, node_token, node_next)
                    after = node_log[node] if node >= 0 else unheard_log[place]
                    if after == -np.inf:
                        zeros[slot] += 1
                    else:
                        log_weight[slot] += after
        token = x[t]
        j = t - start
        if token == separator:
            slot = slots[repetition]
            repetition += 1
            if slot == known:
                slot_length[slot], slot_base[slot] = j, places
                for place in range(places, places + j):
                    head[place], unheard[place] = -1, 1.0 / symbols
                    unheard_log[place] = new_token
                places += j
                known += 1
            if separators[slot] == 0:
                active[actives], rank[slot] = slot, actives
                actives += 1
            separators[slot] += 1
            slot_of[t] = slot
            for i in range(j):
                place, heard = slot_base[slot] + i, x[start + i]
                slot_of[start + i], place_of[start + i] = slot, place
                if heard == 0 or start + i <= leaving:
                    continue
                node = _find(heard, place, head, node_token, node_next)
                if node >= 0:
                    node_count[node] += 1
                else:
                    node_token[nodes], node_count[nodes] = heard, 1
                    node_next[nodes] = head[place]
                    head[place] = nodes
                    nodes += 1
                _weigh(
                    place, head, unheard, unheard_log, node_count, node_p, node_log, node_next,
                    kept, wrong, symbols, powers, falling,
                )  # fmt: skip
            for i in range(actives):
                log_weight[active[i]] = 0.0
                zeros[active[i]] = 0
            new = 0.0
            start = t + 1
        else:
            new += np.log(goes_on[min(j, len(goes_on) - 1)])
            if token != 0:
                new += new_token
                for i in range(actives):
                    slot = active[i]
                    if slot_length[slot] <= j:
                        continue
                    place = slot_base[slot] + j
                    node = _find(token, place, head, node_token, node_next)
                    factor = node_log[node] if node >= 0 else unheard_log[place]
                    if factor == -np.inf:
                        zeros[slot] += 1
                    else:
                        log_weight[slot] += factor
        # Predict what stands at offset j.
        j = t + 1 - start
        target = y[t]
        greatest = -np.inf
        if actives < elements:
            greatest = new + np.log(float(elements - actives))
        for i in range(actives):
            slot = active[i]
            if slot_length[slot] >= j and zeros[slot] == 0:
                greatest = max(greatest, log_weight[slot])
        p = total = 0.0
        if actives < elements:
            total = (elements - actives) * np.exp(new - greatest)
            p = total * ends[min(j, len(ends) - 1)]
            if target != separator:
                p = total * goes_on[min(j, len(goes_on) - 1)] / symbols
        for i in range(actives):
            slot = active[i]
            if slot_length[slot] < j or zeros[slot] > 0:
                continue
            if log_weight[slot] < greatest + _FAINT:
                continue
            w = np.exp(log_weight[slot] - greatest)
            total += w
            if slot_length[slot] == j:
                if target == separator:
                    p += w
            elif target != separator:
                place = slot_base[slot] + j
                node = _find(target, place, head, node_token, node_next)
                p += w * (node_p[node] if node >= 0 else unheard[place])
        out[t] = -np.log(min(1.0, max(p / total if total > 0 else 0.0, _LEAST_P)))
