/*
 * The stream metalm-1 in plain C: what an ordinary C program of the same contract reaches.
 *
 * A yardstick for the benchmark, which compiles it on the machine it measures; nothing else uses
 * it. One byte a token (V <= 254), and a language written out for every sample. What the
 * words mean is defined in proto/metalm/v1/metalm-1.md.
 *
 * There are no intrinsics: the loops that matter run over 16 or 64 items without a branch, and
 * the compiler turns them into vector instructions. So words are always made, and tokens copied,
 * 64 at a time; what is too much is overwritten by what follows, or never read.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 16, WORDS = 64, ROUNDS = 10, SHORTEST = 3 };
enum purpose { LENGTH, TOKEN, ORDER, NOISE };

struct stream {
    uint64_t seed;
    uint32_t split_tag;
};

/* Where in `tokens` each element begins; element i ends before begins[i + 1]. */
struct language {
    uint8_t *tokens;
    size_t *begins;
};

struct noise {
    uint32_t keep_from;  /* a word from here on keeps its token */
    uint32_t mask_below; /* a word below masks it */
    uint32_t ratio_low;  /* any other, less mask_below, times ratio / 2^32 is a replacement */
    uint32_t ratio_high;
    uint32_t other;      /* 1: a replacement is never the token itself */
    uint32_t separator;  /* is never corrupted */
};

static inline uint32_t scale(uint32_t word, uint32_t m)
{
    return (uint32_t)(((uint64_t)word * m) >> 32);
}

/* word[0..64) = the words 64 * group .. of a tag: 16 blocks of Philox4x32-10, lane by lane. */
static inline void make_words(uint32_t *restrict word, struct stream s, uint32_t tag,
                              uint64_t index, uint32_t group)
{
    /* 32-bit lanes in 64-bit variables: so each product needs no shuffling in a vector. What is
     * above the low half of c0 .. c3 is never used. */
    uint64_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];
    uint32_t k0 = (uint32_t)s.seed, k1 = (uint32_t)(s.seed >> 32);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        c0[i] = BLOCKS * group + i;
        c1[i] = tag | s.split_tag;
        c2[i] = (uint32_t)index;
        c3[i] = index >> 32;
    }
#pragma GCC unroll 10
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            uint64_t p0 = (uint64_t)(uint32_t)c0[i] * 0xD2511F53u;
            uint64_t p1 = (uint64_t)(uint32_t)c2[i] * 0xCD9E8D57u;
            c0[i] = (p1 >> 32) ^ c1[i] ^ k0;
            c1[i] = p1;
            c2[i] = (p0 >> 32) ^ c3[i] ^ k1;
            c3[i] = p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < BLOCKS; i++) {
        word[i] = (uint32_t)c0[i];
        word[i + BLOCKS] = (uint32_t)c1[i];
        word[i + 2 * BLOCKS] = (uint32_t)c2[i];
        word[i + 3 * BLOCKS] = (uint32_t)c3[i];
    }
}

/* An element's length: the number of table entries <= word, and the zeros left out of it. */
static inline size_t element_length(uint32_t word, size_t zeros, const uint32_t *table,
                                    size_t table_size)
{
    size_t low = 0;
    for (size_t left = table_size; left > 0;) {
        size_t half = (left + 1) / 2;
        low += table[low + half - 1] <= word ? half : 0;
        left -= half;
    }
    return zeros + low > SHORTEST ? zeros + low : SHORTEST;
}

static void make_language(struct language to, struct stream s, uint64_t index, size_t n,
                          uint32_t alphabet, uint32_t separator, size_t zeros,
                          const uint32_t *table, size_t table_size)
{
    uint32_t length_word[WORDS], word[WORDS];
    size_t end = 0;
    for (size_t i = 0; i < n; i++) {
        if (i % WORDS == 0)
            make_words(length_word, s, LENGTH, index, (uint32_t)(i / WORDS));
        size_t length = element_length(length_word[i % WORDS], zeros, table, table_size);
        to.begins[i] = end;
        for (size_t at = 0; at < length; at += WORDS) {
            uint8_t *token = to.tokens + end + at;
            make_words(word, s, TOKEN | (uint32_t)i << 8, index, (uint32_t)(at / WORDS));
            for (size_t j = 0; j < WORDS; j++)
                token[j] = (uint8_t)(1 + scale(word[j], alphabet));
        }
        to.tokens[end + length] = (uint8_t)separator;
        end += length + 1;
    }
    to.begins[n] = end;
}

/* clean[0..total) = the spoken elements; up to 63 bytes more are written. */
static void speak(uint8_t *restrict clean, size_t total, struct language from, struct stream s,
                  uint64_t index, uint32_t usable)
{
    uint32_t order_word[WORDS];
    size_t t = 0;
    for (size_t repetition = 0; t < total; repetition++) {
        if (repetition % WORDS == 0)
            make_words(order_word, s, ORDER, index, (uint32_t)(repetition / WORDS));
        size_t element = scale(order_word[repetition % WORDS], usable);
        const uint8_t *source = from.tokens + from.begins[element];
        size_t count = from.begins[element + 1] - from.begins[element];
        if (count > total - t)
            count = total - t;
        for (size_t done = 0; done < count; done += WORDS)
            memcpy(clean + t + done, source + done, WORDS);
        t += count;
    }
}

/* x[0..64) = 64 clean tokens with noise. */
static inline void corrupt(uint8_t *restrict x, const uint8_t *restrict clean,
                           const uint32_t *restrict word, struct noise noise)
{
    for (size_t j = 0; j < WORDS; j++) {
        uint32_t w = word[j], token = clean[j], above = w - noise.mask_below;
        uint32_t v = 1 + scale(above, noise.ratio_low) + above * noise.ratio_high;
        v += v >= token ? noise.other : 0;
        v = w < noise.mask_below ? 0 : v;
        x[j] = (uint8_t)((w >= noise.keep_from) | (token == noise.separator) ? token : v);
    }
}

/*
 * x, y [rows, length] = samples first .. first + rows - 1, each with a language of its own.
 * Returns 0, or -1 if there is not enough memory.
 */
int metalm_generate(uint8_t *x, uint8_t *y, uint64_t seed, uint32_t split, uint64_t first,
                    size_t rows, size_t length, uint64_t n, uint64_t usable, uint64_t alphabet,
                    uint32_t separator, size_t zeros, const uint32_t *table, size_t table_size,
                    uint32_t keep_from, uint32_t mask_below, uint64_t ratio, uint32_t other)
{
    struct stream s = {seed, split << 4};
    struct noise noise = {keep_from, mask_below, (uint32_t)ratio, (uint32_t)(ratio >> 32),
                          other, separator};
    size_t longest = zeros + table_size > SHORTEST ? zeros + table_size : SHORTEST;
    struct language language = {malloc(n * (longest + 1) + WORDS),
                                malloc((n + 1) * sizeof(size_t))};
    uint8_t *clean = malloc(length + 1 + WORDS);
    int result = -1;
    if (language.tokens && language.begins && clean) {
        for (size_t row = 0; row < rows; row++, x += length, y += length) {
            uint64_t index = first + row;
            make_language(language, s, index, n, (uint32_t)alphabet, separator, zeros, table,
                          table_size);
            speak(clean, length + 1, language, s, index, (uint32_t)usable);
            for (size_t t = 0; t < length; t += WORDS) {
                uint32_t word[WORDS];
                make_words(word, s, NOISE, index, (uint32_t)(t / WORDS));
                if (length - t >= WORDS) {
                    corrupt(x + t, clean + t, word, noise);
                } else {
                    uint8_t noisy[WORDS];
                    corrupt(noisy, clean + t, word, noise);
                    memcpy(x + t, noisy, length - t);
                }
            }
            memcpy(y, clean + 1, length);
        }
        result = 0;
    }
    free(language.tokens);
    free(language.begins);
    free(clean);
    return result;
}
