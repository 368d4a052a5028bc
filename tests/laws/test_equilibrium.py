"""The equilibrium of SGD on scale-invariant losses, and the bounds that hold there and nowhere else."""

import numpy as np
import pytest

import itograd as ig
from itograd.analysis.equilibrium import equilibrium

PER_SAMPLE_RATE, DECAY = 0.001, 0.1  # η/B and λ


def at(batch_size, paths=64, per_sample_rate=PER_SAMPLE_RATE, decay=DECAY, times=8):
    rate = per_sample_rate * batch_size
    problem = ig.problems.Rayleigh(batch_size=batch_size)
    return equilibrium(
        ig.SGD(rate, weight_decay=decay),
        problem,
        steps=max(128, round(times / (rate * decay))),
        paths=paths,
        seed=batch_size,
        progress=False,
    )


def test_the_identity_holds_on_a_scale_invariant_loss():
    result = at(16)
    assert [guard.outcome for guard in result.guards] == ["holds"] * 3
    alignment, identity, _ = result.guards
    assert alignment.measured < 1e-5
    assert identity.measured < 0.005
    assert result.simple_noise_scale == 16 * result.noise_trace[0] / result.squared_gradient[0]


def test_the_bounds_are_those_of_the_theory():
    result = at(16)
    bounds = result.batch_factor_bounds(closeness=1.2)
    ratio = 1 + result.noise_trace[0] / result.squared_gradient[0]
    assert bounds.sharp == pytest.approx(1 + 0.44 * ratio)
    assert bounds.weak == pytest.approx(1.44 * ratio)
    assert bounds.sharp < bounds.weak


def test_no_bound_is_given_where_an_assumption_fails():
    rng = np.random.default_rng(0)
    line = ig.problems.LinearRegression(rng.normal(size=(64, 3)), rng.normal(size=64), batch_size=4)
    result = equilibrium(ig.SGD(0.05, weight_decay=0.1), line, steps=2000, paths=64, progress=False)
    bounds = result.batch_factor_bounds()
    assert bounds.sharp is None
    assert bounds.weak is None
    assert any("scale invariance" in reason for reason in bounds.reasons)


def test_a_run_too_short_for_equilibrium_is_found_out():
    bounds = at(16, times=0.3).batch_factor_bounds()
    assert bounds.sharp is None
    assert any("drift" in reason or "identity" in reason for reason in bounds.reasons)


def test_digits_are_not_scale_invariant():
    """Theory, amendment 2: cos(∇L, W) = −0.93 and the identity is off by a factor 25 on softmax digits."""
    digits = ig.problems.digits(preset="S7", batch_size=64)
    result = equilibrium(ig.SGD(16.0), digits, steps=128, paths=4, saves=8, progress=False)
    alignment, identity, _ = result.guards
    assert alignment.measured == pytest.approx(0.93, abs=0.03)
    assert identity.measured == pytest.approx(24, rel=0.2)
    assert result.batch_factor_bounds().sharp is None


def test_other_optimisers_and_schedules_are_refused():
    rayleigh = ig.problems.Rayleigh()
    with pytest.raises(TypeError, match="that of SGD"):
        equilibrium(ig.Momentum(0.1), rayleigh, steps=500)
    with pytest.raises(ValueError, match="constant learning rate"):
        equilibrium(ig.SGD(ig.schedules.Cosine(0.1, 10.0)), rayleigh, steps=500)
    with pytest.raises(ValueError, match="steps must be at least"):
        equilibrium(ig.SGD(0.1), rayleigh, steps=10)


@pytest.mark.slow
def test_s8_identity_and_bounds_for_pairs_of_batch_sizes():
    """Theory 7.1 S8, amendment 13: identity within .5 %, no violation, sharp bound at κ = 4 in [4.0, 4.35]."""
    sizes = (16, 64, 256, 1024)
    results = {b: at(b, paths=1024, per_sample_rate=1.25e-4, times=40) for b in sizes}
    for result in results.values():
        assert result.guards[1].measured < 0.005
    for small in sizes:
        for large in sizes:
            if large <= small:
                continue
            factor = large / small
            a, b = results[small], results[large]
            pairs = (
                (a.squared_norm[0], b.squared_norm[0]),
                (a.squared_gradient[0], b.squared_gradient[0]),
                (a.noise_trace[0], factor * b.noise_trace[0]),
            )
            closeness = max(max(x / y, y / x) for x, y in pairs)
            bounds = a.batch_factor_bounds(closeness)
            print(f"B={small} kappa={factor:g} C={closeness:.5f} sharp={bounds.sharp:.3f} weak={bounds.weak:.3f}")
            assert factor <= bounds.sharp < bounds.weak
            if (small, factor) == (16, 4):
                assert 4.0 <= bounds.sharp <= 4.35
