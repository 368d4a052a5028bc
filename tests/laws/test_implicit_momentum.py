"""Implicit momentum of the mean: Theorems 2, 3, 5, 6 and 7 of Mitliagkas et al., against exact means (theory 2.1)."""

import numpy as np
import pytest

import itograd as ig
from itograd.asynchrony import (
    Asynchronous,
    Fixed,
    Geometric,
    MomentumCascade,
    Pmf,
    WorkerQueue,
    implicit_momentum,
    mean_rate,
    memory_kernel,
)

PROBLEM = ig.problems.Quadratic([1.0, 4.0], [1.0, 1.0])
X0 = np.array([1.0, -0.7])


def means(optimizer, law, steps=30):
    return ig.moments(Asynchronous(optimizer, law), PROBLEM, x0=X0, steps=steps, save_every=1)["mean"].values


@pytest.mark.parametrize("workers", [1, 2, 8, 100])
def test_workers_are_momentum(workers):
    assert implicit_momentum(WorkerQueue(workers)) == pytest.approx(1 - 1 / workers)
    assert implicit_momentum(Geometric(mean=workers - 1)) == pytest.approx(1 - 1 / workers)


def test_other_laws_have_a_memory_and_no_momentum():
    assert implicit_momentum(Fixed(0)) == 0
    for law in (Fixed(3), Pmf([0.5, 0.0, 0.5])):
        with pytest.raises(ValueError, match=r"no single momentum.*memory_kernel\(law\)"):
            implicit_momentum(law)


@pytest.mark.parametrize("law", [Pmf([0.3, 0.0, 0.1, 0.6]), Fixed(3), Geometric(ratio=0.3), WorkerQueue(3)], ids=repr)
def test_theorem_2(law):
    """E Δ_{k+1} = E Δ_k − η q₀ E∇L(x_k) + η Σ (q_l − q_{l+1}) E∇L(x_{k−l−1}), with x_{−l} = x_0."""
    eta, kernel = 0.1, memory_kernel(law, 1e-15)
    assert kernel.past.sum() == pytest.approx(kernel.current, abs=1e-14)
    x = means(ig.SGD(eta), law)
    gradients = x * np.array([1.0, 4.0])
    moves = np.diff(x, axis=0)
    for k in range(1, 30):
        past = gradients[np.maximum(k - 1 - np.arange(len(kernel.past)), 0)]
        predicted = moves[k - 1] - eta * kernel.current * gradients[k] + eta * kernel.past @ past
        np.testing.assert_allclose(moves[k], predicted, atol=1e-13)


@pytest.mark.parametrize("explicit", [0.4, -0.5, 0.0])
@pytest.mark.parametrize("law", [Geometric(mean=3), WorkerQueue(4)], ids=repr)
def test_theorem_6(law, explicit):
    eta = 0.2
    a, b, c = MomentumCascade(implicit_momentum(law), explicit, eta).coefficients
    x = means(ig.Momentum(eta, explicit), law)
    moves = np.diff(x, axis=0)
    predicted = a * moves[1:-1] - b * moves[:-2] - c * x[2:-1] * np.array([1.0, 4.0])
    np.testing.assert_allclose(moves[2:], predicted, atol=1e-13)


@pytest.mark.parametrize("explicit", [0.6, 0.1, -0.5])
@pytest.mark.parametrize("implicit", [0.0, 0.3, 0.9])
def test_theorem_7_is_the_rate_of_the_exact_mean(implicit, explicit):
    curvatures = np.array([1.0, 3.0, 20.0])
    cascade = MomentumCascade(implicit, explicit, 0.07)
    exact = mean_rate(ig.Momentum(0.07, explicit), Geometric(ratio=implicit), curvatures)
    assert cascade.rate(curvatures) == pytest.approx(exact.max(), rel=1e-7)
    # as printed: γ = max 1/|t*|, t* the smallest root of the reversed polynomial
    total, product, gain = cascade.coefficients
    roots = [np.abs(np.roots([product, -(total + product), 1 + total - gain * h, -1])).min() for h in curvatures]
    assert cascade.rate(curvatures) == pytest.approx(1 / min(roots), rel=1e-7)


def test_ranges():
    with pytest.raises(ValueError, match=r"implicit_momentum must be in \[0, 1\): got 1"):
        MomentumCascade(1.0, 0.0, 0.1)
    with pytest.raises(ValueError, match=r"explicit_momentum must be a finite number in \(-1, 1\): got -1"):
        MomentumCascade(0.5, -1.0, 0.1)
