"""YellowFin's two controls of momentum (Zhang, Mitliagkas 2017; theory: asynchrony 2.5).

The tuner of a synchronous run chooses μ* and α from the curvature range, the gradient's variance and the distance to
the minimum. The closed loop then holds the *total* momentum of an asynchronous run at μ*, whatever the delay τ adds:

    μ̂_T = median_i [ (x_{s+1} − x_s + α g(x_s)) / (x_s − x_{s−1}) ]_i,      μ ← μ + γ (μ* − μ̂_T),      s = k−1−τ

The tuner is that of the authors' code in Caffe2; the final form of the loop is recalled, and was measured (theory 2.5).
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from jaxtyping import Float

from itograd.validation import require, require_count, require_number


def yellowfin_tuning(
    curvature_min: float, curvature_max: float, gradient_variance: float, distance: float
) -> tuple[float, float]:
    """(μ, α): the momentum and the learning rate that YellowFin's synchronous tuner sets.

        p = (D h_min)²/(2 C),    p x = (1−x)³,    μ = max(x², ((√r − 1)/(√r + 1))²),    α = (1 − √μ)²/h_min

    with r = h_max/h_min, C the variance of the gradient (summed over coordinates) and D the distance to the minimum.

    Raises ValueError unless 0 < h_min <= h_max and D, C are positive.

    >>> momentum, rate = yellowfin_tuning(1.0, 9.0, gradient_variance=1e-9, distance=1.0)
    >>> round(momentum, 6), round(rate, 6)  # without noise: heavy ball's optimum
    (0.25, 0.25)
    """
    require_number("curvature_min", curvature_min, minimum=0, exclusive=True)
    require_number("curvature_max", curvature_max)
    require(
        curvature_max >= curvature_min,
        f"curvature_max must be at least curvature_min={curvature_min:g}: got {curvature_max:g}",
    )
    require_number("gradient_variance", gradient_variance, minimum=0, exclusive=True)
    require_number("distance", distance, minimum=0, exclusive=True)
    p = (distance * curvature_min) ** 2 / (2 * gradient_variance)
    # y³ + p y + p = 0, y = x − 1, has one real root: y = −2√(p/3) sinh(u), sinh(3u) = (3/2)√(3/p).
    scale = 2 * math.sqrt(p / 3)
    x = 1 - scale * math.sinh(math.asinh(3 / scale) / 3)
    root = math.sqrt(curvature_max / curvature_min)
    sqrt_momentum = max(x, (root - 1) / (root + 1))
    return sqrt_momentum**2, (1 - sqrt_momentum) ** 2 / curvature_min


class ClosedLoopMomentum:
    """A controller that keeps the total momentum of a run with stale gradients at `target`.

    At each step k give `observe` the iterate x_k and the gradient that is about to be applied, which was taken at
    x_{k−delay}; it returns the momentum to apply in this step. `gain` is γ; `momentum` starts at `initial`, by default
    the target. Coordinates that did not move are left out of the median; where none did, momentum stays. It is kept
    within ±`LIMIT`, so that an outlier of the estimate cannot make the run unstable by itself. `target` and
    `learning_rate` may be set anew between steps.

    >>> loop = ClosedLoopMomentum(0.5, learning_rate=0.1, delay=0, gain=0.1)
    >>> x = [np.array([0.9**k]) for k in range(3)]  # moves with momentum 0.9, though it is told to use 0.5
    >>> [round(loop.observe(point, np.zeros(1)), 3) for point in x]
    [0.5, 0.5, 0.46]
    """

    LIMIT = 0.999

    def __init__(
        self, target: float, *, learning_rate: float, delay: int, gain: float = 0.01, initial: float | None = None
    ):
        require_number("target", target, minimum=-self.LIMIT, maximum=self.LIMIT)
        require_number("learning_rate", learning_rate, minimum=0, exclusive=True)
        require_count("delay", delay, minimum=0)
        require_number("gain", gain, minimum=0, maximum=1)
        require_number("initial", target if initial is None else initial, minimum=-self.LIMIT, maximum=self.LIMIT)
        self.target, self.learning_rate, self.delay, self.gain = target, learning_rate, delay, gain
        self.momentum = float(target if initial is None else initial)
        self.measured = math.nan  # the last μ̂_T
        self._points: deque = deque(maxlen=delay + 3)  # x_{k−τ−2}, …, x_k
        self._gradient = np.zeros(1)  # of the step before, taken at x_{k−1−τ}

    def observe(self, x: Float[np.ndarray, " d"], gradient: Float[np.ndarray, " d"]) -> float:
        """The momentum of this step, from the iterate and the stale gradient."""
        self._points.append(np.array(x, float))
        if len(self._points) == self.delay + 3:
            before, at, after = (self._points[i] for i in range(3))
            step = at - before
            moved = step != 0
            if moved.any():
                push = self.learning_rate * self._gradient
                self.measured = float(np.median((after - at + push)[moved] / step[moved]))
                wanted = self.momentum + self.gain * (self.target - self.measured)
                self.momentum = min(max(wanted, -self.LIMIT), self.LIMIT)
        self._gradient = np.array(gradient, float)
        return self.momentum
