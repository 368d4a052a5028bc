"""The pure JAX source of random words: Threefry2x32, a counter-based generator in plain integer operations.

    key  = threefry2x32(seed; path), 20 rounds         one key per path
    word = threefry2x32(key; step, lane), 13 rounds    two words per lane

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011), and their library Random123, whose
known-answer vectors cover 13 and 20 rounds. Thirteen is its reduced number of rounds; XLA, which uses twenty, notes
"no known statistical flaws with 13 rounds of Threefry2x32". `tests/laws/test_random_battery.py` runs our own battery.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

ROUNDS = 13
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def threefry2x32(key, counter, rounds: int = 20):
    """Threefry on two 32-bit words. `key` and `counter` are pairs of uint32 arrays."""
    k0, k1 = key
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = counter[0] + k0, counter[1] + k1
    for number in range(rounds):
        rotation = _ROTATIONS[(number // 4) % 2][number % 4]
        x0 = x0 + x1
        x1 = ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))) ^ x0
        if number % 4 == 3:
            group = number // 4 + 1
            x0 = x0 + schedule[group % 3]
            x1 = x1 + schedule[(group + 1) % 3] + np.uint32(group)
    return x0, x1


def path_key(seed: tuple, path):
    """The key of a path: `seed` is a pair of uint32 words (low, high), `path` a uint32 number."""
    path = jnp.asarray(path, jnp.uint32)
    return threefry2x32(seed, (path, jnp.zeros_like(path)))


def seed_words(seed: int) -> np.ndarray:
    """A non-negative integer below 2^64 as two words (low, high)."""
    if not 0 <= int(seed) < 2**64:
        raise ValueError(f"seed must be an integer in [0, 2^64): got {seed}")
    return np.array([int(seed) & 0xFFFFFFFF, int(seed) >> 32], np.uint32)


def steps_served(kind: str, count: int, n: int) -> int:
    """How many neighbouring steps a draw's words serve: few bits share one word, single numbers share one lane."""
    if kind == "bits":
        return 32 // n
    return 2 if count == 1 else 1


def draw(kind: str, key: tuple, step, ratio=None, *, lane: int, count: int, n: int = 0) -> jax.Array:
    """`count` numbers of a kind for one path or, with keys of shape (paths,), an array (count, paths).

    "words" (uint32), "bits" (n of them, as one uint32), "normal" (float32), "index" (int32, below n), "geometric"
    (int32, at most n, with parameter `ratio`).
    """
    if count == 1:
        return elements(kind, key, step, ratio, lane=lane, count=count, n=n)[0][None]
    return jnp.concatenate(_of_lanes(kind, key, step, ratio, _lanes(lane, count, key), n))[:count]


def elements(kind: str, key: tuple, step, ratio=None, *, lane: int, count: int, n: int = 0) -> list[jax.Array]:
    """The same numbers one by one, each of the shape of the keys: compilers keep them in registers."""
    served = np.uint32(steps_served(kind, count, n))
    if count == 1:
        low, high = _of_lanes(kind, key, step // served, ratio, np.uint32(lane), n)
        return [shared_bits(low, step, n) if kind == "bits" else jnp.where(step % served == 0, low, high)]
    numbers = [_of_lanes(kind, key, step, ratio, np.uint32(lane + i), n) for i in range((count + 1) // 2)]
    return [*(low for low, _ in numbers), *(high for _, high in numbers)][:count]


def pairs(kind: str, key: tuple, step, ratio=None, *, lane: int, count: int, n: int = 0) -> jax.Array:
    """The numbers of all lanes as complex64: XLA on a CPU would compute each lane twice for two arrays.

    A draw of single numbers takes step // 2 here, and its lane holds the numbers of two steps.
    """
    low, high = _of_lanes(kind, key, step, ratio, _lanes(lane, count, key), n)
    if low.dtype != jnp.float32:
        low, high = (jax.lax.bitcast_convert_type(x, jnp.float32) for x in (low, high))
    return jax.lax.complex(low, high)


def unpaired(numbers: jax.Array, dtype) -> tuple[jax.Array, jax.Array]:
    """The first and the second numbers of the lanes, from `pairs`."""
    if dtype == jnp.float32:
        return numbers.real, numbers.imag
    return jax.lax.bitcast_convert_type(numbers.real, dtype), jax.lax.bitcast_convert_type(numbers.imag, dtype)


def _lanes(lane: int, count: int, key):
    return jnp.arange((count + 1) // 2, dtype=jnp.uint32).reshape(-1, *(1,) * jnp.ndim(key[0])) + np.uint32(lane)


def _of_lanes(kind: str, key, step, ratio, lane, n: int):
    """The two numbers of a lane, or of several."""
    words = threefry2x32(key, (step, lane), ROUNDS)
    if kind == "normal":
        z = box_muller(*words)
        return z.real, z.imag
    return tuple(_from_word(kind, w, ratio, n) for w in words)


def _from_word(kind: str, word, ratio, n: int):
    if kind == "index":
        return multiply_high(word, n).astype(jnp.int32)
    if kind == "geometric":
        scale = np.float32(-0.5) / jnp.log(jnp.asarray(ratio, jnp.float32))
        return jnp.minimum(_minus_two_log(word) * scale, np.float32(n)).astype(jnp.int32)
    return word


def shared_bits(word, step, n: int):
    """The n bits of a word that belong to a step."""
    return (word >> (step % np.uint32(32 // n) * np.uint32(n))) & np.uint32((1 << n) - 1)


def box_muller(a, b) -> jax.Array:
    """Two standard normals from two words, as real and imaginary part of a complex64 number.

    r = √(−2 log u), angle = a quarter turn chosen by the two upper bits of b plus ±1/8 turn by the rest; the sine and
    cosine of the rest are Taylor polynomials with an error below float32's rounding.
    """
    r = jnp.sqrt(_minus_two_log(a))
    rest = jax.lax.bitcast_convert_type(b << np.uint32(2), jnp.int32).astype(jnp.float32)
    t = rest * np.float32(math.pi / 2 * 2.0**-32)  # in [−π/4, π/4)
    t2 = t * t
    s = t * _polynomial(t2, (1, -1 / 6, 1 / 120, -1 / 5040))
    c = _polynomial(t2, (1, -1 / 2, 1 / 24, -1 / 720, 1 / 40320))
    scaled = r * np.float32(math.sqrt(0.5))
    return jax.lax.complex(_signed(scaled * (c - s), b), _signed(scaled * (c + s), b << np.uint32(1)))


# log(1+t)/t on [−1/4, 1/2]: Chebyshev's expansion to degree 7, relative error 2.2e-7.
_LOG = (1.0000001, -0.5000022, 0.3332981, -0.2497654, 0.20106368, -0.17373887, 0.1414903, -0.066655785)


def _minus_two_log(word) -> jax.Array:
    """−2 log u ≥ 0 of u = (word + 1/2) 2^-32, in float32: u = 2^(e−32)·(1+t) with t in [−1/4, 1/2)."""
    bits = jax.lax.bitcast_convert_type(word.astype(jnp.float32) + np.float32(0.5), jnp.int32)
    exponent = (bits - np.int32(0x3F400000)) >> np.int32(23)
    t = jax.lax.bitcast_convert_type(bits - (exponent << np.int32(23)), jnp.float32) - np.float32(1)
    tail = _polynomial(t, tuple(-2 * c for c in _LOG))
    return t * tail + (exponent - np.int32(32)).astype(jnp.float32) * np.float32(-2 * math.log(2))


def _polynomial(x, coefficients):
    value = np.float32(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + np.float32(coefficient)
    return value


def _signed(x, word):
    """x with its sign turned by the uppermost bit of the word."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) ^ (word & np.uint32(1 << 31))
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def multiply_high(words, n: int):
    """⌊n·word / 2^32⌋ in 32-bit arithmetic: uniform on 0 … n−1 with a bias of at most n/2^32."""
    mask = np.uint32(0xFFFF)
    low, high = words & mask, words >> np.uint32(16)
    if n < 1 << 16:
        return (high * np.uint32(n) + ((low * np.uint32(n)) >> np.uint32(16))) >> np.uint32(16)
    n0, n1 = np.uint32(n & 0xFFFF), np.uint32(n >> 16)
    middle = high * n0 + ((low * n0) >> np.uint32(16))
    return high * n1 + (middle >> np.uint32(16)) + ((low * n1 + (middle & mask)) >> np.uint32(16))
