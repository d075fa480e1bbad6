"""The contract `metalm-1` as a compiled kernel (numba).

It releases the interpreter's lock and keeps no state, so any number of threads
may run it. Every loop that matters has a fixed length of 64 and no branch, so
that the compiler turns it into vector instructions: words are made and tokens
are copied 64 at a time even where fewer are needed, and what is too much is
overwritten by what follows or never read.

What the words mean is written in `reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import int64, types, uint32, uint64
from numba.core import cgutils
from numba.extending import intrinsic

from metalm_proto.batch import Pair
from metalm_proto.spec import Profile, Spec, Split
from metalm_service.core import compiling
from metalm_service.core.cost import is_spelled_out
from metalm_service.core.noise import NoiseThresholds
from metalm_service.core.philox import KEY_STEPS, MULTIPLIERS, ROUNDS, Purpose
from metalm_service.core.poisson import MINIMUM_LENGTH, length_table

_M0, _M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_STEP0, _STEP1 = np.uint32(KEY_STEPS[0]), np.uint32(KEY_STEPS[1])
_LENGTH, _TOKEN = np.uint32(Purpose.LENGTH), np.uint32(Purpose.TOKEN)
_ORDER, _NOISE = np.uint32(Purpose.ORDER), np.uint32(Purpose.NOISE)
_32 = np.uint64(32)
_BLOCK = 64

_jit = numba.njit(nogil=True, error_model="numpy", forceinline=True)


@intrinsic
def _copy(typing, target, begin, source, first, count):
    """target[begin : begin + count] = source[first : first + count], which do not overlap.

    As numba cannot know that they do not, it would copy a token at a time.
    """

    def generate(context, builder, signature, arguments):
        target, begin, source, first, count = arguments
        to = context.make_array(signature.args[0])(context, builder, target).data
        of = context.make_array(signature.args[2])(context, builder, source).data
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        to, of = builder.gep(to, [begin]), builder.gep(of, [first])
        cgutils.raw_memcpy(builder, to, of, count, size)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.intp), generate


@_jit
def _philox(block, tag, index, key):
    """The four words of one block."""
    c0, c1 = uint32(block), uint32(tag)
    c2, c3 = uint32(index), uint32(index >> _32)
    k0, k1 = uint32(key), uint32(key >> _32)
    for _ in range(ROUNDS):
        p0, p1 = uint64(c0) * _M0, uint64(c2) * _M1
        c0, c1 = uint32(p1 >> _32) ^ c1 ^ k0, uint32(p1)
        c2, c3 = uint32(p0 >> _32) ^ c3 ^ k1, uint32(p0)
        k0, k1 = uint32(k0 + _STEP0), uint32(k1 + _STEP1)
    return c0, c1, c2, c3


@_jit
def _fill_words(words, key, tag, index, group):
    """words[0:64] = word(tag, 64 group + (0 .. 63))."""
    first_block = uint32(16 * group)
    for r in range(16):
        c0, c1, c2, c3 = _philox(uint32(first_block + uint32(r)), tag, index, key)
        words[r], words[r + 16], words[r + 32], words[r + 48] = c0, c1, c2, c3


@_jit
def _fill_words_at(words, elements, key, tag, index):
    """words[0:64] = word(tag, p) for the 64 positions p in elements[0:64]."""
    for r in range(_BLOCK):
        p = elements[r]
        block = uint32(uint32(uint32(p >> uint32(6)) << uint32(4)) | uint32(p & uint32(15)))
        c0, c1, c2, c3 = _philox(block, tag, index, key)
        low = c1 if p & uint32(16) else c0
        high = c3 if p & uint32(16) else c2
        words[r] = high if p & uint32(32) else low


@_jit
def _spell(tokens, count, words, key, tag, index, alphabet):
    """tokens[0:count] = an element's tokens; up to 63 more are written."""
    for group in range((count + 63) >> 6):
        _fill_words(words, key, tag, index, group)
        block = tokens[64 * group : 64 * group + 64]
        for j in range(_BLOCK):
            block[j] = uint32(1) + uint32((uint64(words[j]) * uint64(uint32(alphabet))) >> _32)


@_jit
def _corrupt(x, clean, words, keep_from, mask_below, ratio, other, separator):
    """x[0:64] = the 64 clean tokens with noise."""
    ratio_low, ratio_high = uint64(uint32(ratio)), uint32(ratio >> _32)
    for j in range(_BLOCK):
        w, token = words[j], uint32(clean[j])
        above = uint32(w - mask_below)
        v = uint32(uint32((above * ratio_low) >> _32) + uint32(above * ratio_high) + uint32(1))
        v = uint32(v + other) if v >= token else v
        v = uint32(0) if w < mask_below else v
        x[j] = token if w >= keep_from or token == separator else v


@_jit
def _length(word, zeros, table):
    return max(MINIMUM_LENGTH, zeros + np.searchsorted(table, word, side="right"))


@_jit
def _fill_language(
    language, offsets, words, more_words, key, split_tag, index, alphabet, separator, zeros, table
):
    """language = all elements, each closed by the separator; element i begins at offsets[i]."""
    end = 0
    for i in range(len(offsets) - 1):
        if i & 63 == 0:
            _fill_words(words, key, _LENGTH | split_tag, index, i >> 6)
        offsets[i] = end
        length = _length(words[i & 63], zeros, table)
        tag = _TOKEN | split_tag | uint32(i << 8)
        _spell(language[end:], length, more_words, key, tag, index, alphabet)
        language[end + length] = separator
        end += length + 1
    offsets[-1] = end


def _generate(
    x, y, first, key, split, shared_language, speaker, tabulate,
    n, usable, alphabet, separator, zeros, table, keep_from, mask_below, ratio, other,
):  # fmt: skip
    """x, y [B, L] = samples first .. first + B - 1; see `generate`.

    With `tabulate` a language is spelled out before it is spoken; without, every repetition is
    spelled anew, which is cheaper where few elements are spoken twice, and bounded by L however
    large n is.
    """
    rows, length = x.shape
    total = length + 1
    split_tag = uint32(split << 4)
    words, elements = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint32)
    length_words = np.empty(_BLOCK, np.uint32)
    noisy = np.empty(_BLOCK, x.dtype)
    clean = np.empty(total + _BLOCK, x.dtype)
    listed = n if tabulate else 0
    longest = max(MINIMUM_LENGTH, zeros + len(table))
    offsets = np.empty(listed + 1, np.int64)
    language = np.empty(listed * (longest + 1) + _BLOCK, x.dtype)
    for row in range(rows):
        index = uint64(first + uint64(row))
        if not shared_language:
            speaker = index
        if tabulate and (row == 0 or not shared_language):
            _fill_language(
                language, offsets, length_words, words, key, split_tag, speaker,
                alphabet, separator, zeros, table,
            )  # fmt: skip
        t = 0
        repetition = 0
        while t < total:
            if repetition & 63 == 0:
                _fill_words(elements, key, _ORDER | split_tag, index, repetition >> 6)
                for j in range(_BLOCK):
                    elements[j] = uint32((uint64(elements[j]) * uint64(uint32(usable))) >> _32)
                if not tabulate:
                    _fill_words_at(length_words, elements, key, _LENGTH | split_tag, speaker)
            element = int64(elements[repetition & 63])
            if tabulate:
                begin = offsets[element]
                count = min(offsets[element + 1] - begin, total - t)
                for done in range(0, count, _BLOCK):
                    _copy(clean, t + done, language, begin + done, _BLOCK)
            else:
                element_length = _length(length_words[repetition & 63], zeros, table)
                count = min(element_length + 1, total - t)
                tag = _TOKEN | split_tag | uint32(element << 8)
                _spell(clean[t:], min(element_length, count), words, key, tag, speaker, alphabet)
                if count == element_length + 1:
                    clean[t + element_length] = separator
            t += count
            repetition += 1
        for group in range((length + 63) >> 6):
            begin = 64 * group
            _fill_words(words, key, _NOISE | split_tag, index, group)
            source = clean[begin : begin + _BLOCK]
            if begin + _BLOCK <= length:
                target = x[row, begin : begin + _BLOCK]
                _corrupt(target, source, words, keep_from, mask_below, ratio, other, separator)
            else:
                _corrupt(noisy, source, words, keep_from, mask_below, ratio, other, separator)
                x[row, begin:] = noisy[: length - begin]
        _copy(y[row], 0, clean, 1, length)


def generate(spec: Spec, seed: int, split: Split, first: int, out: Pair) -> None:
    """Fills `out` with x and y of the samples first .. first + B - 1."""
    x, y = out
    compiled()(x, y, np.uint64(first), *_constants(spec, seed, split, len(x)))


@lru_cache(maxsize=64)
def _constants(spec: Spec, seed: int, split: Split, size: int) -> tuple[Any, ...]:
    """What the kernel is told for all batches of one size of a stream."""
    table = length_table(spec.l)
    noise = NoiseThresholds.of(spec)
    shared = spec.language is not None
    return (
        np.uint64(seed),
        np.uint32(split.code),
        shared,
        np.uint64(spec.language or 0),
        is_spelled_out(spec, size),
        spec.n,
        np.uint64(spec.usable_elements),
        np.uint64(spec.alphabet),
        np.uint32(spec.separator_id),
        table.zeros,
        table.values,
        np.uint32(noise.clean),
        np.uint32(noise.mask),
        np.uint64(noise.ratio),
        np.uint32(spec.profile is Profile.METALM),
    )


def compiled() -> Callable[..., None]:
    """The kernel; compiled once for each dtype, and kept on disk where that is possible."""
    return compiling.compiled(_generate)


def warm() -> None:
    """Compiles the kernel for every dtype, or loads it from the cache."""
    for vocabulary in (2, 2**8, 2**16):
        spec = Spec(V=vocabulary, L=1)
        generate(spec, 0, Split.TRAIN, 0, np.empty((2, 1, 1), spec.dtype))
