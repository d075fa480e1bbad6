"""Suffix match as a compiled kernel. What it computes is written in `reference.py`.

Contexts are the nodes of a tree, from the last token back: a node is found by its parent and the
token before, and a count by its node and the token that followed. Both tables are hashed with
open addresses; their keys are exact, so nothing collides but places.
"""

from __future__ import annotations

import numpy as np

from metalm_service.core.compiling import inlined

ORDER = 4

_MIX = np.uint64(0x9E3779B97F4A7C15)
_32 = np.uint64(32)
_FREE = np.uint64(2**64 - 1)


@inlined
def _place(keys, bits, node, token):
    """Where the pair stands in a table of 2^bits keys, or the free place where it belongs."""
    key = (np.uint64(node) << _32) | np.uint64(token)
    mixed = (key ^ (key >> np.uint64(29))) * _MIX
    mixed = (mixed ^ (mixed >> _32)) * _MIX
    place = mixed >> np.uint64(64 - bits)
    last = np.uint64(len(keys) - 1)
    while keys[place] != _FREE and keys[place] != key:
        place = (place + np.uint64(1)) & last
    return place, key


def suffix(x, y, out, symbols):
    """out, float32 [L] = nats of each y given x up to it. symbols: A."""
    length = len(x)
    bits = 4
    while 1 << bits < 2 * (ORDER + 1) * length:
        bits += 1
    node_keys, node_of = np.full(1 << bits, _FREE), np.empty(1 << bits, np.int32)
    count_keys, count_of = np.full(1 << bits, _FREE), np.zeros(1 << bits, np.int32)
    # What followed a context: how many tokens, and how many different ones.
    followers = np.zeros(ORDER * length + 1, np.int32)
    different = np.zeros(ORDER * length + 1, np.int32)
    nodes = 1
    context = np.zeros(ORDER + 1, np.int64)  # the nodes of the last 0 .. ORDER tokens
    orders = 0
    for t in range(length):
        token = x[t]
        if token != 0:
            for order in range(orders + 1):
                node = context[order]
                place, key = _place(count_keys, bits, node, token)
                if count_keys[place] == _FREE:
                    count_keys[place] = key
                    different[node] += 1
                count_of[place] += 1
                followers[node] += 1
        orders = min(orders + 1, ORDER)
        for order in range(1, orders + 1):
            place, key = _place(node_keys, bits, context[order - 1], x[t + 1 - order])
            if node_keys[place] == _FREE:
                node_keys[place], node_of[place] = key, nodes
                nodes += 1
            context[order] = node_of[place]
        p = 1.0 / (symbols + 1.0)
        for order in range(orders + 1):
            node = context[order]
            heard = followers[node]
            if heard == 0:
                break
            kinds = different[node]
            place, key = _place(count_keys, bits, node, y[t])
            count = count_of[place] if count_keys[place] == key else 0
            p = (count + kinds * p) / (heard + kinds)
        out[t] = -np.log(p)
