"""How a batch is drawn from N examples: with replacement, without, or by reshuffling once an epoch.

    with_replacement      B independent indices                                   Cov = S/B
    without_replacement   a fresh subset of B at every step                       Cov = (S/B)(N−B)/(N−1)
    reshuffling           one permutation an epoch of ⌊N/B⌋ steps, cut in batches of B: the same covariance
                          at one step, but batches of an epoch depend on each other (theory 1.6); the rest
                          of the epoch is dropped

S is the population covariance (1/N) of the examples' gradients. The two without replacement need no memory
and no sorting: a permutation of {0, …, N−1} is a pure function of a key, evaluated at the B positions that a
step wants.

The permutation is the swap-or-not shuffle (Hoang, Morris, Rogaway, "An enciphering scheme based on a card
shuffle", CRYPTO 2012) with Threefry as its round function. In round r every point x has the partner K_r − x
mod N, and the two change places or not by one bit that depends on the pair; K_r is uniform on {0, …, N−1}.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from itograd.simulation.draws import Draws
from itograd.simulation.threefry import multiply_high, threefry2x32
from itograd.validation import require

SAMPLINGS = ("with_replacement", "without_replacement", "reshuffling")

# Two points that move together in every round keep their distance: that happens with probability 2^−rounds,
# so 24 rounds put the dependence of two members of a batch out of any experiment's sight.
_ROUNDS = 24


def covariance_factor(sampling: str, dataset_size: int, batch_size: int) -> float:
    """The covariance of a batch mean over S/B: 1 with replacement, else (N−B)/(N−1).

    >>> covariance_factor("without_replacement", dataset_size=11, batch_size=5)
    0.6
    """
    if sampling == "with_replacement":
        return 1.0
    return (dataset_size - batch_size) / max(dataset_size - 1, 1)


def batch_indices(draws: Draws, sampling: str, dataset_size: int, batch_size: int) -> Int[Array, " B"]:
    """The indices of the batch of this step, int32, in {0, …, N−1}.

    With or without replacement every call is another batch. Under reshuffling the batch is a function of
    path, step and user of the draws alone: batch number k mod ⌊N/B⌋ of epoch ⌊k/⌊N/B⌋⌋ at step k.
    """
    n, b = dataset_size, batch_size
    if sampling == "with_replacement":
        return draws.index(n, (b,))
    positions = jnp.arange(b, dtype=jnp.uint32)
    if sampling == "without_replacement":
        return permuted(draws.words(2), positions, n)
    batches = np.uint32(n // b)
    epoch, batch = draws.step // batches, draws.step % batches
    return permuted(draws.at_step(epoch).words(2), positions + batch * np.uint32(b), n)


def permuted(key: UInt32[Array, " 2"], positions: UInt32[Array, " B"], size: int) -> Int[Array, " B"]:
    """The images, int32, of `positions` under the pseudo-random permutation of {0, …, size−1} of a key.

    >>> sorted(permuted(jnp.array([1, 2], "uint32"), jnp.arange(5, dtype="uint32"), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    require(1 <= size < 2**31, f"a permutation needs 1 <= size < 2^31: got {size}")
    n = np.uint32(size)
    pairs = jnp.arange(_ROUNDS // 2, dtype=jnp.uint32)
    keys = multiply_high(jnp.concatenate(threefry2x32(key, _counter(pairs, _ROUNDS))), size)  # K_r, (rounds,)

    def swap_or_not(r, x):
        k = keys[r]
        partner = jnp.where(x > k, k + n - x, k - x)  # K_r − x mod N
        word = threefry2x32(key, _counter(jnp.maximum(x, partner), r))[0]
        return jnp.where(word >> 31 == 1, partner, x)

    return jax.lax.fori_loop(0, _ROUNDS, swap_or_not, positions).astype(jnp.int32)


def _counter(values, round):
    """Threefry's counter: a value and the round that it belongs to (the round keys belong to none)."""
    return values, jnp.full_like(values, round)
