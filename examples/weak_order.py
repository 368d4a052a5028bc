"""The weak order of SGD's modified equations, with confidence intervals and without Monte Carlo.

On the circle the error is known to ten digits by a transfer operator; on a quadratic the moments are exact; and where
neither holds, `weak_order` runs the ladder by Monte Carlo and gives an interval.
"""

import jax.numpy as jnp
import numpy as np

import itograd as ig
from itograd.analysis import transfer_expectation


def observable(x):
    """cos x + 0.3 sin 2x, of a point of shape (1,)."""
    return jnp.cos(x[0]) + 0.3 * jnp.sin(2 * x[0])


def main() -> None:
    """Print three ladders."""
    circle = ig.problems.Circle()
    ladder = [0.025, 0.0125, 0.00625]
    for order in (1, 2):
        errors = []
        for eta in ladder:
            sgd = ig.SGD(eta)
            sde = ig.modified_equation(sgd, circle, order)
            at = {"observable": observable, "x0": 1.309, "time": 1.0, "modes": 512}
            errors.append(transfer_expectation(sgd, circle, **at) - transfer_expectation(sde, **at))
        print(f"circle, SME{order}, transfer operator:  {ig.fit_weak_order(ladder, errors)}")

    regression = ig.problems.LinearRegression.one_dimensional([0.5, 1.0, 2.0], [0.3, -0.5, 0.2])
    for order in (1, 2):
        errors = []
        for eta in (0.1, 0.05, 0.025):
            runs = ig.moments(ig.SGD(eta), regression, x0=[1.0], save_at=[1.0])
            flow = ig.moments(ig.modified_equation(ig.SGD(eta), regression, order), x0=[1.0], save_at=[1.0])
            second = [float(m["variance"][-1, 0] + m["mean"][-1, 0] ** 2) for m in (runs, flow)]
            errors.append(np.diff(second)[0])
        print(f"regression, SME{order}, exact moments:  {ig.fit_weak_order([0.1, 0.05, 0.025], errors)}")

    orders = ig.weak_order(
        ig.SGD, circle, [0.2, 0.1, 0.05], time=1.0, paths=100_000, observables={"g": observable}, progress=False
    )
    print(f"circle, SME1, Monte Carlo:         {orders['g']}")


if __name__ == "__main__":
    main()
