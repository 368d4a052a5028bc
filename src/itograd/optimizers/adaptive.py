"""What RMSprop, Adam and AdamW share (Malladi, Lyu, Panigrahi, Arora 2022; theory 2.2, 2.3; options derived).

The rules divide, coordinate by coordinate, by the root of a second moment v of the gradients. With γ₁, γ₂ the bias
corrections of the two moments at step j (1 where they are off), ε outside the root and ε_r inside it, n the gradient
(RMSprop) or its mean m (Adam):

    v_{k+1} = b₂ v_k + (1−b₂) g_k²
    x_{k+1} = x_k − η_k (√γ₂/γ₁) n / P_k,      P_k = √(v + ε_r γ₂) + ε √γ₂,      γ_i = 1 − b_i^j

`denominator` is "new" (v = v_{k+1}, γ₂ at j = k+1; PyTorch's and optax's, default) or "old" (v = v_k, γ₂ at j = k; the
papers'). With "old" and v₀ = 0 the first step divides by ε alone, which is a large step: the papers skip it. Where
γ₂ is 0, at j = 0, v_0 is not corrected.

In continuous time t = kη² (η the base rate, u(t) the shape of its schedule) the numbers that a batch size, SVAG or a
scaling leaves as they are, are

    w = η² v,      c_i = (1−b_i)/η²,      ε₀ = η ε,      ε_r0 = η² ε_r,      η² Σ

and with γ_i(t) = 1 − e^{−c_i t} (1 where the correction is off)

    dw = c₂ (η² diag Σ − w) dt,      P = √(w + ε_r0 γ₂) + ε₀ √γ₂

(w is σ₀² u of the paper, whose σ₀² S is η² Σ.) The signal (∇F)² is left out of dw, as in the paper: it is of relative
order η², and the equation fails where it dominates. The equation has weak order 1 in η² for noise of small skewness,
1/2 for other noise.

Where it starts: P must not vanish. From v₀ > 0 the equation starts at time 0 in (x₀, 0, η² v₀), unless the first
moment is corrected: m/γ₁ is singular at 0. Else `warm_start` = k₀ lets the rule itself make its first k₀ steps, and the
equation starts at t₀ = k₀ η² in the random state that they reach; or `start` = (t₀, m₀, w₀) states one.

Scaling rule for a batch κ times larger, the square-root rule: η → η√κ, b → b^κ (`betas="memory"`, its memory in time,
always legal) or 1 − κ(1−b) ("linear", the papers', which keeps c_i exactly), ε → ε/√κ, ε_r → ε_r/κ, v₀ → v₀/κ,
coupled decay kept, steps / κ.
"""

import math
from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from itograd.optimizers.optimizer import Optimizer
from itograd.optimizers.scaling_rules import DecayRate, Power
from itograd.problems.problem import Problem
from itograd.simulation.equation import ModifiedEquation
from itograd.simulation.precision import plus_times
from itograd.simulation.schedule import Hyperparameter, Schedule, base, shape
from itograd.validation import require, require_choice, require_count, require_number

DENOMINATORS = ("new", "old")


def correction(b, steps):
    """1 − b^steps, accurate for b near 1."""
    return -jnp.expm1(steps * jnp.log(b))


class AdaptiveMethod(Optimizer):
    """What the adaptive rules share: the second moment, its options, the clock and the scaling rule."""

    learning_rate: eqx.AbstractVar[Hyperparameter]
    eps: eqx.AbstractVar[float]
    weight_decay: eqx.AbstractVar[float]
    eps_root: eqx.AbstractVar[float]
    v0: eqx.AbstractVar[float]
    denominator: eqx.AbstractVar[str]
    correct_second: eqx.AbstractVar[bool]

    def __check_init__(self):
        require_number("learning_rate", base(self.learning_rate), minimum=0, exclusive=True)
        for name in ("eps", "weight_decay", "eps_root", "v0"):
            require_number(name, getattr(self, name), minimum=0)
        for name, b in self.decay_rates.items():
            require_number(name, b, minimum=0)
            require(b < 1, f"{name} must be below 1: got {b:g}")
        require_choice("denominator", self.denominator, DENOMINATORS)
        require_choice("correct_second", self.correct_second, (False, True))
        require(
            self.denominator == "new" or max(self.eps, self.eps_root, self.v0) > 0,
            "denominator='old' divides the first step by the root of v0 and eps: one of v0, eps and eps_root must be "
            "positive",
        )

    @property
    @abstractmethod
    def decay_rates(self) -> dict[str, float]:
        """The decay rates of the moments by name, that of the second one last."""

    @property
    def b2(self):
        """b₂, by whatever name."""
        return list(self.decay_rates.values())[-1]

    @property
    def corrects_first(self) -> bool:
        """Whether the rule corrects a first moment."""
        return False

    @property
    def time_per_step(self):
        return base(self.learning_rate) ** 2

    def _rate(self, k):
        return base(self.learning_rate) * shape(self.learning_rate, k * self.time_per_step)

    def _second_moment(self, v, g):
        return self.b2 * v + (1 - self.b2) * g**2

    def _divided(self, n, k, v_before, v):
        """√γ₂ n / P_k."""
        j = k + 1
        if self.denominator == "old":
            v, j = v_before, k
        if not self.correct_second:
            return n / (jnp.sqrt(plus_times(v, self.eps_root, 1.0)) + self.eps)
        gamma = jnp.where(j > 0, correction(self.b2, j), 1.0)
        root = jnp.sqrt(gamma)
        return root * n / plus_times(jnp.sqrt(plus_times(v, self.eps_root, gamma)), self.eps, root)

    def observe(self, state):
        return state[0]

    @property
    def scaling(self):
        fixed = {"learning_rate": Power(0.5), "eps": Power(-0.5), "eps_root": Power(-1), "v0": Power(-1)}
        return fixed | dict.fromkeys(self.decay_rates, DecayRate("memory"))

    def modified_equation(self, problem, order=1, *, warm_start=0, start=None):
        require_choice("order", order, (1, 2))
        name = type(self).__name__
        require(
            order == 1,
            f"no modified equation of order 2 is given for {name}: at that order the second moment has a noise of its "
            "own, and no verified equation is known; use order=1",
        )
        return self._equation(problem, *_checked_start(self, warm_start, start))

    def equation_start(self, steps):
        """A warm start, where the SDE has no other.

        Of so many steps that the correction of a first moment is down to 1 % and a tenth of the second moment's memory
        is filled, but of at most a tenth of the run.
        """
        if self.v0 > 0 and not self.corrects_first:
            return {}
        *first, second = self.decay_rates.values()
        needed = [math.log(0.01) / math.log(b) for b in first if b > 0] + [0.1 / (1 - second)]
        return {"warm_start": max(1, min(math.ceil(max(needed)), steps // 10))}

    @abstractmethod
    def _equation(self, problem: Problem, warm_start: int, given: tuple | None) -> "AdaptiveEquation":
        """The SDE with its start."""


def _checked_start(optimizer: AdaptiveMethod, warm_start, start) -> tuple[int, tuple | None]:
    require_count("warm_start", warm_start, minimum=0)
    require(start is None or warm_start == 0, "give either warm_start or start, not both")
    singular, name = optimizer.corrects_first, type(optimizer).__name__
    if start is not None:
        require(len(start) == 3, f"start must be (t0, m0, w0), a time and the two moments then: got {start!r}")
        time, first, second = (float(number) for number in start)
        require_number("the time of start", time, minimum=0)
        require_number("m0 of start", first)
        require_number("w0 of start", second, minimum=0, exclusive=True)
        require(
            time > 0 or not singular, f"the SDE of {name} is singular at time 0: the time of start must be positive"
        )
        return 0, (time, first, second)
    needs = "give warm_start=k0, so that the rule makes its first k0 steps itself and the SDE starts at time k0·η²"
    if warm_start == 0:
        require(
            optimizer.v0 > 0,
            f"the SDE of {name} has no usable limit from a second moment of 0 at time 0, however large eps: v0=0; "
            f"{needs}, or v0 > 0",
        )
        require(
            not singular,
            f"the SDE of {name} is singular at time 0, where the bias correction of its first moment vanishes; "
            f"{needs}, or correct_first=False",
        )
    return int(warm_start), None


class AdaptiveEquation(ModifiedEquation):
    """The SDE of an adaptive rule, of weak order 1; see the head of this file. The state ends with w.

    `given` is (t₀, m₀, w₀) where the start was stated, `warm_start` the steps that the rule makes before it.
    """

    problem: Problem
    optimizer: Any
    warm_start: int = eqx.field(static=True)
    given: tuple | None

    @property
    def time_per_step(self):
        return self.optimizer.time_per_step

    @property
    def weak_order(self):
        return 1

    @property
    def is_affine(self):
        return False

    @property
    def is_autonomous(self):
        rule = self.optimizer
        return not (rule.corrects_first or rule.correct_second or isinstance(rule.learning_rate, Schedule))

    @property
    def start_time(self):
        if self.given is not None:
            return self.given[0]
        return self.warm_start * self.time_per_step if self.warm_start else 0.0

    @property
    def eta(self):
        """The base rate η."""
        return base(self.optimizer.learning_rate)

    def speed(self, b):
        """c = (1−b)/η²."""
        return (1 - b) / self.time_per_step

    def gamma(self, b, t):
        """γ(t) = 1 − e^{−ct}."""
        return -jnp.expm1(-self.speed(b) * t)

    def divided(self, n, t, w):
        """√γ₂ n / P."""
        rule = self.optimizer
        gamma = self.gamma(rule.b2, t) if rule.correct_second else 1.0
        root = jnp.sqrt(gamma)
        inside = plus_times(w, rule.eps_root, self.time_per_step * gamma)  # w + ε_r0 γ₂
        return root * n / plus_times(jnp.sqrt(inside), rule.eps, self.eta * root)

    def variances(self, x):
        """η² diag Σ, where w goes."""
        return self.time_per_step * self.problem.noise_variances(x)

    @property
    def coupled_decay(self):
        """λ, where the decay is a part of ∇F."""
        return self.optimizer.weight_decay

    def force(self, x):
        """∇F."""
        return plus_times(self.problem.gradient(x), self.coupled_decay, x)

    def noisy_force(self, x, dt, z):
        """∇F + (η² Σ)^½ z/√dt."""
        return plus_times(self.problem.perturbed_gradient(x, z, self.eta / jnp.sqrt(dt)), self.coupled_decay, x)

    def _second_drift(self, x, w):
        return self.speed(self.optimizer.b2) * (self.variances(x) - w)

    def start(self, x0):
        if self.warm_start:
            raise ValueError("a warm start is random: use start_from(x0, draws)")
        first, second = (0.0, self.time_per_step * self.optimizer.v0) if self.given is None else self.given[1:]
        return self._state(x0, jnp.full_like(x0, first), jnp.full_like(x0, second))

    def start_from(self, x0, draws):
        if not self.warm_start:
            return self.start(x0)
        chain = self.optimizer.chain(self.problem)

        def step(k, state):  # step 0 of these draws is that of a random x0
            return chain.step(state, jnp.asarray(k, jnp.int32), draws.at_step(k + 1))

        x, *m, v = jax.lax.fori_loop(0, self.warm_start, step, chain.start(jnp.asarray(x0, float)))
        return (x, *m, self.time_per_step * v)

    def _state(self, x, m, w):
        """The state of these parts, for the rules that have a first moment."""
        return x, m, w

    def observe(self, y):
        return y[0]

    def affine_form(self):
        require(
            self.problem.has_additive_noise,
            "the moments of an adaptive method's SDE close only where Σ does not depend on x and the second moment "
            f"is a known function of time: {type(self.problem).__name__} has no such noise; simulate it instead",
        )
        require(
            not self.warm_start,
            "the moments of an adaptive method's SDE need a known start: warm_start makes it random, by a rule that is "
            "not affine; give start=(t0, m0, w0), or simulate it instead",
        )
        return KnownSecondMoment(self, stationary=False)

    def stationary_form(self):
        require(
            self.problem.has_additive_noise,
            "the stationary law of an adaptive method's SDE is known only where Σ does not depend on x: "
            f"{type(self.problem).__name__} has no such noise; simulate it instead",
        )
        require(
            not isinstance(self.optimizer.learning_rate, Schedule),
            "no stationary law: the learning rate has a schedule",
        )
        return KnownSecondMoment(self, stationary=True)


class KnownSecondMoment(ModifiedEquation):
    """The SDE where Σ is constant: w is a known function of time, the rest is affine (theory 3.5).

        w(t) = η² diag Σ + (w(t₀) − η² diag Σ) e^{−c₂ (t−t₀)}

    With `stationary` the equation that is left as t → ∞, where w = η² diag Σ and γ₁ = γ₂ = 1.
    """

    equation: AdaptiveEquation
    stationary: bool = eqx.field(static=True)

    def __init__(self, equation: AdaptiveEquation, stationary: bool):
        self.equation, self.stationary = equation, stationary

    @property
    def problem(self):
        return self.equation.problem

    @property
    def time_per_step(self):
        return self.equation.time_per_step

    @property
    def weak_order(self):
        return 1

    @property
    def start_time(self):
        return self.equation.start_time

    @property
    def has_additive_noise(self):
        return True

    @property
    def is_autonomous(self):
        return self.stationary

    def _whole(self, t, y):
        """The time and the whole state, w included."""
        limit = self.equation.variances(jnp.zeros_like(y[0]))
        if self.stationary:
            return jnp.inf, (*y, limit)
        first = self.equation.start(y[0])[-1]
        decay = jnp.exp(-self.equation.speed(self.equation.optimizer.b2) * (t - self.start_time))
        return t, (*y, limit + (first - limit) * decay)

    def start(self, x0):
        if self.stationary:
            return self.equation._state(x0, jnp.zeros_like(x0), x0)[:-1]
        return self.equation.start(x0)[:-1]

    def drift(self, t, y):
        time, whole = self._whole(t, y)
        return self.equation.drift(time, whole)[:-1]

    def diffusion(self, t, y, z):
        time, whole = self._whole(t, y)
        return self.equation.diffusion(time, whole, z)[:-1]

    def observe(self, y):
        return y[0]
