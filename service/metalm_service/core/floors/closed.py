"""What is known of the floors without a sample: closed forms, in nats."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from metalm_proto.spec import Spec
from metalm_service.core.floors.channel import Channel, Floats, Lengths

MOST_COPIES = 64

_STEP = 0.25
"""Between the nodes of the integral, in u: the error is about exp(-pi^2 / step), 1e-17."""


def mean_length(spec: Spec) -> float:
    """E max(3, Poisson(l)), in tokens, without the separator."""
    l = spec.l
    return l + math.exp(-l) * (3 + 2 * l + l * l / 2)


def length_entropy(spec: Spec) -> float:
    """The entropy of an element's length."""
    lengths = Lengths.of(spec.l, 2**62)
    reached = np.concatenate([[1.0], np.cumprod(lengths.goes_on)[:-1]])
    p = reached * lengths.ends
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def content_free(spec: Spec) -> float:
    """Nats a token, in the long run, of whoever knows how long elements are and remembers nothing
    of what they say: exact."""
    mean = mean_length(spec)
    nats = mean * math.log(Channel.of(spec).symbols) + length_entropy(spec)
    return nats / (mean + 1)


def known_language(spec: Spec) -> float:
    """Nats a token, in the long run, of whoever knows the language: an approximation for long
    elements and little noise.

    ln k to find out which element it is, spread over more offsets if the first tokens are noisy;
    then, now and then, doubt when a token is.
    """
    channel = Channel.of(spec)
    lost, k, r = 1 - channel.kept, channel.elements, channel.ratio
    doubt = 0.0 if math.isinf(r) else (1 - lost) * (k - 1) * (1 + math.log(r)) / r
    return (math.log(k) / (1 - lost) + doubt) / (mean_length(spec) + 1)


def horizon(spec: Spec) -> float:
    """Tokens after which the language is about learnt, 6 n (l + 1): a shorter sample measures no
    more than the learning of single elements."""
    return 6 * spec.n * (spec.l + 1)


def copies(spec: Spec, most: int) -> Floats:
    """h_c for c = 0 .. most: nats of a token of which c noisy copies were heard, by whoever knows
    which element is spoken and where it stands. float64 [most + 1].

    h_0 = ln A, and h_1 = masked ln A + (1 - masked) (H_b(q) + q ln(A - 1)), where q is the share of
    wrong tokens among those that are not masked.
    """
    channel = Channel.of(spec)
    heard = _heard(channel, most)
    h = np.empty(most + 1)
    for c in range(most + 1):
        h[c] = _binomial(c, 1 - channel.masked) @ heard[: c + 1]
    return h


def learning_cost(spec: Spec) -> float:
    """Nats that learning a whole language costs: k E len times the sum of h_c over c = 0, 1, ...

    The sum ends where h_c falls below 1e-6 h_0, or after 64 copies; so it is a lower bound where
    noise is so strong that these do not settle a token.
    """
    most = 8
    while (h := copies(spec, most))[-1] >= 1e-6 * h[0] and most < MOST_COPIES:
        most *= 2
    return float(spec.usable_elements * mean_length(spec) * h[h >= 1e-6 * h[0]].sum())


@lru_cache(maxsize=32)
def _heard(channel: Channel, most: int) -> Floats:
    """H(clean | m copies that are not masked), m = 0 .. most.

    With Z = sum over the symbols of ratio^(times heard) this is E ln Z - E(times the clean one was
    heard) ln ratio. ln Z = integral of exp(-exp(u)) - exp(-Z exp(u)) over all u, and the
    expectation of exp(-Z s) is m! times a coefficient of a product of power series, one for each
    symbol: nothing is enumerated, however many symbols and copies there are. Rounding: A 1e-16.
    """
    symbols, ratio = channel.symbols, channel.ratio
    if symbols == 1:
        return np.zeros(most + 1)
    if math.isinf(ratio):
        return np.where(np.arange(most + 1) == 0, math.log(symbols), 0.0)
    right = channel.kept / (1 - channel.masked)
    wrong = channel.wrong / (1 - channel.masked)
    log_ratio = math.log(ratio)
    widest = most * abs(log_ratio) + math.log(symbols)
    u = np.arange(-widest - 40, widest + 6, _STEP)
    m = np.arange(most + 1)
    log_factorials = np.cumsum(np.log(np.maximum(m, 1)))
    # exp(-s ratio^m) / m!, for one symbol: [nodes, most + 1]
    with np.errstate(over="ignore", under="ignore"):
        series = np.exp(-np.exp(u[:, None] + m * log_ratio) - log_factorials)
        one = series[:, :1]
    others = _power(series * wrong**m, symbols - 1)
    product = _times(others, series * right**m)
    expected = product * np.exp(log_factorials)
    logs = (one - expected).sum(axis=0) * _STEP
    entropy: Floats = np.maximum(0.0, logs - m * right * log_ratio)
    return entropy


def _times(a: Floats, b: Floats) -> Floats:
    """The products of power series, [nodes, terms], cut at as many terms."""
    result = np.zeros_like(a)
    for i in range(a.shape[1]):
        result[:, i:] += a[:, i : i + 1] * b[:, : a.shape[1] - i]
    return result


def _power(series: Floats, exponent: int) -> Floats:
    """The powers of power series: squared and multiplied, so that nothing is ever subtracted."""
    result = np.zeros_like(series)
    result[:, 0] = 1
    while exponent:
        if exponent & 1:
            result = _times(result, series)
        exponent >>= 1
        if exponent:
            series = _times(series, series)
    return result


def _binomial(count: int, share: float) -> Floats:
    """P(m of count), m = 0 .. count."""
    m = np.arange(count + 1)
    if share >= 1:
        return np.where(m == count, 1.0, 0.0)
    if share <= 0:
        return np.where(m == 0, 1.0, 0.0)
    log_choose = np.array(
        [math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) for i in m]
    )
    p: Floats = np.exp(log_choose + m * math.log(share) + (count - m) * math.log1p(-share))
    return p
