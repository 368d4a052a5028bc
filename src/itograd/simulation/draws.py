"""Random words as values: a word is a pure function of (seed, path, step, lane).

    key  = threefry2x32(seed; path)        one key per path
    word = threefry2x32(key; step, lane)   two words per lane

Nothing is split, carried or stored, so a path has the same noise whatever the number of paths, the tile or the
thread it runs in. Threefry2x32-20: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)

# Each user of noise owns a range of 2^27 lanes, so that adding one draw to a batch never moves another user's words.
_LANES_PER_USER = 1 << 27
BATCH, SECOND_BATCH, STALENESS, BROWNIAN, INITIAL = range(5)


def threefry2x32(key, counter):
    """Twenty rounds of Threefry on two 32-bit words. `key` and `counter` are pairs of uint32 arrays."""
    k0, k1 = key
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = counter[0] + k0, counter[1] + k1
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))) ^ x0
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + np.uint32(group + 1)
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


class Draws:
    """The random words of one path at one step; lanes are given out in the order of the calls.

    Floats come in JAX's current default precision and are made from one 32-bit word a uniform in either precision,
    so a float32 and a float64 run of one seed follow the same paths up to rounding. The resolution of a uniform is
    2^-32 and the largest normal 6.7, which no ensemble below 10^9 draws can see.
    """

    def __init__(self, key, step, user: int = BATCH):
        self.key, self.step = key, jnp.asarray(step).astype(jnp.uint32)
        self._user, self._used = user, 0

    def of(self, user: int) -> Draws:
        """The draws of another user of noise at the same step, from the start of its own range."""
        return Draws(self.key, self.step, user)

    def at_step(self, step) -> Draws:
        """The draws of the same user at another step, from the start of its range."""
        return Draws(self.key, step, self._user)

    def words(self, count: int) -> jax.Array:
        """The next `count` words, uint32."""
        lanes = (count + 1) // 2
        if self._used + lanes > _LANES_PER_USER:
            raise ValueError(f"one step drew more than {2 * _LANES_PER_USER} random words")
        first = self._user * _LANES_PER_USER + self._used
        self._used += lanes
        lane = np.uint32(first) + jnp.arange(lanes, dtype=jnp.uint32)
        low, high = threefry2x32(self.key, (jnp.broadcast_to(self.step, lane.shape), lane))
        return jnp.concatenate([low, high])[:count]

    def uniform(self, shape: tuple[int, ...] = ()) -> jax.Array:
        """Uniform on (0, 1]: (word + 1/2) 2^-32."""
        return _to_uniform(self.words(math.prod(shape))).reshape(shape)

    def normal(self, shape: tuple[int, ...] = ()) -> jax.Array:
        """Standard normals by Box and Muller's transform: two words, two normals."""
        count = math.prod(shape)
        pairs = (count + 1) // 2
        words = self.words(2 * pairs)
        radius = jnp.sqrt(-2 * jnp.log(_to_uniform(words[:pairs])))
        angle = 2 * math.pi * _to_uniform(words[pairs:])
        return jnp.concatenate([radius * jnp.cos(angle), radius * jnp.sin(angle)])[:count].reshape(shape)

    def two_point(self, shape: tuple[int, ...] = ()) -> jax.Array:
        """±1 with probability 1/2 each; one word serves 32 of them."""
        count = math.prod(shape)
        words = self.words((count + 31) // 32)
        bits = (words[:, None] >> jnp.arange(32, dtype=jnp.uint32)) & np.uint32(1)
        return (2.0 * bits.astype(float) - 1.0).reshape(-1)[:count].reshape(shape)

    def three_point(self, shape: tuple[int, ...] = ()) -> jax.Array:
        """±√3 with probability 1/6 each, else 0: the normal's moments up to the fifth."""
        u = self.uniform(shape)
        return math.sqrt(3.0) * ((u > 5 / 6).astype(float) - (u <= 1 / 6).astype(float))

    def bernoulli(self, probability, shape: tuple[int, ...] = ()) -> jax.Array:
        """True with the given probability."""
        return self.uniform(shape) <= probability

    def index(self, n: int, shape: tuple[int, ...] = ()) -> jax.Array:
        """Uniform on {0, …, n−1}: the high word of n·word. Its bias is at most n/2^32."""
        if not 1 <= n < 2**31:
            raise ValueError(f"an index needs 1 <= n < 2^31: got n={n}")
        return multiply_high(self.words(math.prod(shape)), np.uint32(n)).astype(jnp.int32).reshape(shape)

    def geometric(self, ratio, shape: tuple[int, ...] = (), *, maximum: int) -> jax.Array:
        """P(j) = (1−ratio) ratio^j for j = 0, 1, …; what lies beyond `maximum` counts as `maximum`.

        By inversion, ⌊log u / log ratio⌋ of a 32-bit uniform u: the tail ends at ratio^j = 2^-33.
        """
        if not 0 <= maximum < 2**31:
            raise ValueError(f"a geometric draw needs 0 <= maximum < 2^31: got maximum={maximum}")
        delay = jnp.floor(jnp.log(self.uniform(shape)) / jnp.log(ratio))
        return jnp.minimum(delay, maximum).astype(jnp.int32)


def multiply_high(a, b):
    """The upper 32 bits of the 64-bit product of two uint32 numbers, in 32-bit arithmetic."""
    mask = np.uint32(0xFFFF)
    a0, a1, b0, b1 = a & mask, a >> 16, b & mask, b >> 16
    middle = a1 * b0 + ((a0 * b0) >> 16)
    return a1 * b1 + (middle >> 16) + ((a0 * b1 + (middle & mask)) >> 16)


def _to_uniform(words) -> jax.Array:
    return (words.astype(float) + 0.5) * 2.0**-32
