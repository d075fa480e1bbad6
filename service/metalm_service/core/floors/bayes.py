"""The Bayes learner as a compiled kernel: genie, greedy, last copy and vote.

What it computes is written in `reference.py`. Its memory is in proportion to the sample: what is
known of a token of an element, here a place, is a chain of nodes, one for each symbol heard there.
"""

from __future__ import annotations

import numpy as np

from metalm_service.core.compiling import inlined
from metalm_service.core.floors.predictors import CLEARLY, DOUBT, SURE

COUNTS, LAST, SHARES = 0, 1, 2
"""What is remembered of the copies: how often each symbol was heard, and the channel; the last one
alone; the shares of the symbols, without knowing the channel."""

_NEGLIGIBLE = 1e-18
"""A candidate whose share falls below this is not looked at again before the next separator: what
it could still become it becomes as rarely."""

_SMALLEST = 1e-200
"""The share of the new element stays above: far below all others, far above what underflows."""

_RESCALED_BELOW = 1e-60

_LEAST_P = 1e-300


@inlined
def _bit(token):
    return np.uint64(1) << np.uint64(token & 63)


@inlined
def _probability(token, place, head, bits, unheard, node_token, node_p, node_next):
    """P(the element's token is `token`) at a place."""
    # Most candidates are the wrong ones and have not heard it: that is seen at a glance.
    node = head[place] if bits[place] & _bit(token) else -1
    while node >= 0 and node_token[node] != token:
        node = node_next[node]
    return node_p[node] if node >= 0 else unheard[place]


@inlined
def _weigh(
    place, head, unheard, node_count, node_p, node_next, memory, alone, powers, falling, symbols
):  # fmt: skip
    """Computes the probabilities at a place anew from its counts.

    Weights are ratio^(count - pivot), where the pivot is the count of the greatest of them, so that
    none overflows.
    """
    first = head[place]
    if node_next[first] < 0 and memory != SHARES:
        node_p[first], unheard[place] = alone[0, node_count[first]], alone[1, node_count[first]]
        return
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
    if memory == SHARES:
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
        z += powers[abs(node_count[node] - pivot)]
        node = node_next[node]
    scale = 1.0 / z
    unheard[place] = powers[pivot] * scale
    node = head[place]
    while node >= 0:
        node_p[node] = powers[abs(node_count[node] - pivot)] * scale
        node = node_next[node]


@inlined
def _remember(
    x, start, end, base, is_first, used, head, bits, unheard,
    node_token, node_count, node_p, node_next, memory, alone, powers, falling, symbols,
):  # fmt: skip
    """Adds the copy x[start:end] to the places from base on; returns how many nodes there are."""
    for i in range(start, end):
        token, place = x[i], base + i - start
        if is_first or memory == LAST:
            head[place], bits[place], unheard[place] = -1, np.uint64(0), 1.0 / symbols
        if token == 0:
            continue
        node = head[place]
        while node >= 0 and node_token[node] != token:
            node = node_next[node]
        if node >= 0:
            node_count[node] += 1
        else:
            node_token[used], node_count[used], node_next[used] = token, 1, -1
            # The first one heard, most often the right one, stays in front.
            front = head[place]
            if front < 0:
                head[place] = used
            else:
                node_next[used] = node_next[front]
                node_next[front] = used
            bits[place] |= _bit(token)
            used += 1
        _weigh(
            place, head, unheard, node_count, node_p, node_next,
            memory, alone, powers, falling, symbols,
        )  # fmt: skip
    return used


@inlined
def _most_probable(j, known, new, lives, live, weight, slot_length):
    """The candidate of length j with the greatest weight, the new one being `known`; the share of
    the heard ones if it is the new one, else 0; and the share of all but the chosen one."""
    slot, best, heard = known, 0.0, 0.0
    for i in range(lives):
        if slot_length[live[i]] == j:
            heard += weight[i]
            if weight[i] > best * CLEARLY:
                slot, best = live[i], weight[i]
    if heard <= 0:
        return known, 0.0, 0.0
    if new <= best * CLEARLY:
        return slot, 0.0, (heard - best + new) / (heard + new)
    return known, heard / (heard + new), heard / (heard + new)


def bayes(  # noqa: PLR0915 - the kernel is one function on purpose
    x, y, slots, is_given, out, memory,
    kept, wrong, symbols, elements, powers, falling, ends, goes_on, separator,
):  # fmt: skip
    """out, float32 [L] = nats of each y given x up to it.

    `is_given`: slots, int32 [repetitions], tells the element of each finished repetition, numbered
    as they appear. Else every repetition goes to its most probable candidate, and slots receives
    which; returned is the sum over repetitions of the share of all other candidates. `powers`: the
    greater of ratio and 1/ratio to the power of 0, -1, ...; `falling`: the ratio is below 1.
    """
    length = len(x)
    most = length // 4 + 2
    slot_length, slot_base = np.empty(most, np.int64), np.empty(most, np.int64)
    live, weight, p_next = np.empty(most, np.int64), np.empty(most), np.empty(most)
    # Of each place, and of each node.
    head, bits, unheard = np.empty(length, np.int32), np.empty(length, np.uint64), np.empty(length)
    node_token, node_count = np.empty(length, np.int32), np.empty(length, np.int32)
    node_p, node_next = np.empty(length), np.empty(length, np.int32)
    gain, new_token = kept - wrong, (kept + (symbols - 1.0) * wrong) / symbols
    # P of the one symbol that was heard at a place, and of each other, after so many copies.
    alone = np.empty((2, most))
    for count in range(most):
        own, other = 1.0, powers[count]
        if falling:
            own, other = other, own
        alone[0, count] = own / (own + (symbols - 1.0) * other)
        alone[1, count] = other / (own + (symbols - 1.0) * other)
    known = filled = used = repetition = lives = start = 0
    new, expected, least, wrong_splits, doubt = 1.0, -1, 0.0, 0.0, 0.0
    for t in range(length):
        token, target = x[t], y[t]
        j = t + 1 - start
        is_judged = token != 0
        if token == separator:
            end = t - start
            new *= ends[min(end, len(ends) - 1)]
            slot = slots[repetition]
            if not is_given:
                slot, split, others = _most_probable(
                    end, known, new, lives, live, weight, slot_length
                )
                wrong_splits += split
                doubt += others
                slots[repetition] = slot
            repetition += 1
            is_first = slot == known
            if is_first:
                slot_length[slot], slot_base[slot] = end, filled
                filled += end
                known += 1
            used = _remember(
                x, start, t, slot_base[slot], is_first, used, head, bits, unheard,
                node_token, node_count, node_p, node_next, memory, alone, powers, falling, symbols,
            )  # fmt: skip
            # Any of the known ones may come next, or one of the others.
            lives, least = known, 0.0
            for i in range(known):
                live[i], weight[i] = i, 1.0
            new = float(elements - known)
            if known >= elements:
                new = 0.0 if is_given else wrong_splits if wrong_splits > SURE else DOUBT
            start, j, is_judged = t + 1, 0, False
        else:
            new *= goes_on[min(j - 1, len(goes_on) - 1)]
            if is_judged:
                new *= new_token
        # The token at offset j - 1 was heard; the target stands at offset j.
        total, p, left = 0.0, 0.0, 0
        for i in range(lives):
            w, slot = weight[i], live[i]
            size, place = slot_length[slot], slot_base[slot] + j
            if size < j or w <= least:
                continue
            if is_judged:
                q = p_next[i]
                if token != expected:
                    q = _probability(
                        token, place - 1, head, bits, unheard, node_token, node_p, node_next
                    )
                w *= wrong + gain * q
            total += w
            live[left], weight[left] = slot, w
            if size == j:
                if target == separator:
                    p += w
            elif target != separator:
                q = _probability(target, place, head, bits, unheard, node_token, node_p, node_next)
                p_next[left] = q
                p += w * q
            left += 1
        lives, expected = left, target
        if new > 0:
            new = max(new, _SMALLEST * total)
            total += new
            if target == separator:
                p += new * ends[min(j, len(ends) - 1)]
            else:
                p += new * (goes_on[min(j, len(goes_on) - 1)] / symbols)
        out[t] = -np.log(min(1.0, max(p / total if total > 0 else 0.0, _LEAST_P)))
        if total < _RESCALED_BELOW and total > 0:
            scale, total = 1.0 / total, 1.0
            new *= scale
            for i in range(lives):
                weight[i] *= scale
        least = total * _NEGLIGIBLE
    return doubt
