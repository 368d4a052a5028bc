"""Random words as values: what is drawn is a pure function of (seed, path, step, lane).

Nothing is split, carried or stored, so a path has the same noise whatever the number of paths, the tile or the
thread it runs in. A draw is a primitive of its own: outside the engine it is Threefry (`threefry.py`); the engine
replaces the draws of a traced step by those of its source, a tile at a time (`noise.py`).
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from itograd.simulation import threefry

# Each user of noise owns a range of 2^27 lanes, so that adding one draw to a batch never moves another user's words.
_LANES_PER_USER = 1 << 27
BATCH, SECOND_BATCH, STALENESS, BROWNIAN, INITIAL = range(5)

# A step that needs so few bits shares one word with its neighbours.
MOST_SHARED_BITS = 16

draw_p = Primitive("draw")  # operands: key (two words), step, and the parameter of the law where there is one
DTYPES = {"words": "uint32", "bits": "uint32", "normal": "float32", "index": "int32", "geometric": "int32"}


def _draw(key0, key1, step, *ratio, kind, lane, count, n):
    return threefry.draw(kind, (key0, key1), step, *ratio, lane=lane, count=count, n=n)


draw_p.def_abstract_eval(lambda *_, kind, count, **__: jax.core.ShapedArray((count,), np.dtype(DTYPES[kind])))
draw_p.def_impl(lambda *operands, **parameters: jax.jit(partial(_draw, **parameters))(*operands))
mlir.register_lowering(draw_p, mlir.lower_fun(_draw, multiple_results=False))


def _batched(operands, axes, **parameters):
    return jax.vmap(partial(_draw, **parameters), in_axes=axes)(*operands), 0


batching.primitive_batchers[draw_p] = _batched


class Draws:
    """The random words of one path at one step; lanes are given out in the order of the calls.

    `key` is a pair of uint32 words (`threefry.path_key`). Floats come in JAX's current default precision and carry
    the information of 32-bit words in either, so that a float32 and a float64 run of one seed follow the same paths
    up to rounding: a normal is a float32 number, widened; the largest is 6.7, which no ensemble below 10^9 draws
    can see.
    """

    def __init__(self, key, step, user: int = BATCH):
        self.key, self.step = tuple(key), jnp.asarray(step).astype(jnp.uint32)
        self._user, self._used = user, 0

    def of(self, user: int) -> Draws:
        """The draws of another user of noise at the same step, from the start of its own range."""
        return Draws(self.key, self.step, user)

    def at_step(self, step) -> Draws:
        """The draws of the same user at another step, from the start of its range."""
        return Draws(self.key, step, self._user)

    def _draw(self, kind: str, count: int, *ratio, n: int = 0) -> jax.Array:
        if not count:
            return jnp.zeros(0, DTYPES[kind])
        lanes = (count + 1) // 2
        if self._used + lanes > _LANES_PER_USER:
            raise ValueError(f"one step drew more than {2 * _LANES_PER_USER} random words")
        lane = self._user * _LANES_PER_USER + self._used
        self._used += lanes
        ratio = tuple(jnp.asarray(r, jnp.float32) for r in ratio)
        return draw_p.bind(*self.key, self.step, *ratio, kind=kind, lane=lane, count=count, n=n)

    def words(self, count: int) -> jax.Array:
        """The next `count` words, uint32."""
        return self._draw("words", count)

    def uniform(self, shape: tuple[int, ...] = ()) -> jax.Array:
        """Uniform on (0, 1]: (word + 1/2) 2^-32."""
        return ((self.words(math.prod(shape)).astype(float) + 0.5) * 2.0**-32).reshape(shape)

    def normal(self, shape: tuple[int, ...] = ()) -> jax.Array:
        """Standard normals."""
        return self._draw("normal", math.prod(shape)).astype(float).reshape(shape)

    def two_point(self, shape: tuple[int, ...] = ()) -> jax.Array:
        """±1 with probability 1/2 each; one word serves 32 of them, of neighbouring steps where a step needs few."""
        count = math.prod(shape)
        if 0 < count <= MOST_SHARED_BITS:
            words, places = self._draw("bits", 1, n=count)[0], np.arange(count)
        else:
            words, places = self.words((count + 31) // 32)[:, None], np.arange(32)
        upper = words << (31 - places).astype(np.uint32)  # the bit as the sign of a float32
        signs = jax.lax.bitcast_convert_type(upper & np.uint32(1 << 31) ^ np.uint32(0xBF800000), jnp.float32)
        return signs.reshape(-1)[:count].astype(float).reshape(shape)

    def three_point(self, shape: tuple[int, ...] = ()) -> jax.Array:
        """±√3 with probability 1/6 each, else 0: the normal's moments up to the fifth."""
        words = self.words(math.prod(shape))
        sixth = np.uint32(2**32 // 6)
        signs = (words >= ~sixth).astype(float) - (words <= sixth).astype(float)
        return (math.sqrt(3.0) * signs).reshape(shape)

    def bernoulli(self, probability, shape: tuple[int, ...] = ()) -> jax.Array:
        """True with the given probability."""
        return self.uniform(shape) <= probability

    def index(self, n: int, shape: tuple[int, ...] = ()) -> jax.Array:
        """Uniform on {0, …, n−1}, int32: the high word of n·word. Its bias is at most n/2^32."""
        if not 1 <= n < 2**31:
            raise ValueError(f"an index needs 1 <= n < 2^31: got n={n}")
        count, bits = math.prod(shape), n.bit_length() - 1
        if n == 1 << bits and 0 < bits * count <= MOST_SHARED_BITS:
            word = self._draw("bits", 1, n=bits * count)
            if count > 1:
                word = (word >> (bits * np.arange(count)).astype(np.uint32)) & np.uint32(n - 1)
            return word.astype(jnp.int32).reshape(shape)
        return self._draw("index", count, n=n).reshape(shape)

    def geometric(self, ratio, shape: tuple[int, ...] = (), *, maximum: int) -> jax.Array:
        """P(j) = (1−ratio) ratio^j for j = 0, 1, …, int32; what lies beyond `maximum` counts as `maximum`.

        By inversion, ⌊log u / log ratio⌋ of a 32-bit uniform u in float32: the tail ends where ratio^j = 2^-33.
        """
        if not 0 <= maximum < 2**24:
            raise ValueError(f"a geometric draw needs 0 <= maximum < 2^24: got maximum={maximum}")
        return self._draw("geometric", math.prod(shape), ratio, n=maximum).reshape(shape)
