"""An optimiser whose gradients are stale.

    g_k = noisy gradient at read(s_{k−τ_k}),      s_{k+1} = update(s_k, k, C(g_k))

The point that an optimiser reads goes through the law of staleness on its way to the gradient; the rule itself is
untouched, so any optimiser of the library can be asynchronous. Delays and batches are independent. C is a neighbours'
rule that answers staleness (`compensation.py`), by default none.
"""

from __future__ import annotations

from itograd.asynchrony.compensation import Compensation
from itograd.asynchrony.equations import stale_clock, stale_equation
from itograd.asynchrony.staleness import Staleness
from itograd.optimizers.optimizer import Optimizer
from itograd.problems.problem import Problem
from itograd.simulation.chain import Chain
from itograd.simulation.draws import STALENESS
from itograd.validation import require


class Asynchronous(Optimizer):
    """`optimizer` with gradients that are stale by the law `staleness`. Without delay it is the optimiser itself.

    `compensation` changes each stale gradient before the rule sees it.

    Raises ValueError for SVAG and for another `Asynchronous`: SVAG makes a times as many steps in the same time, and
    a delay of so many writes would be another part of it; so the test of the SDE belongs to the optimiser with fresh
    gradients.

    >>> from itograd.asynchrony import Geometric
    >>> from itograd.optimizers.momentum import Momentum
    >>> Asynchronous(Momentum(0.1, momentum=-0.5), Geometric(mean=7)).staleness.geometric_ratio
    0.875
    """

    optimizer: Optimizer
    staleness: Staleness
    compensation: Compensation | None = None

    def __check_init__(self):
        for name, value, kind in (("optimizer", self.optimizer, Optimizer), ("staleness", self.staleness, Staleness)):
            if not isinstance(value, kind):
                raise TypeError(f"{name} must be a {kind.__name__}: got {value!r}")
        if not isinstance(self.compensation, Compensation | None):
            raise TypeError(f"compensation must be a Compensation or None: got {self.compensation!r}")
        require(
            type(self.optimizer).chain is Optimizer.chain,
            f"{type(self.optimizer).__name__} changes the problem or the steps itself, and a delay has no meaning "
            "for it: give the optimiser inside it",
        )

    @property
    def time_per_step(self):
        """√(η(1−μ)) for SGD at a constant rate under a geometric law, else the optimiser's own clock."""
        if self.compensation is not None:  # then there is no SDE whose time it could be
            return self.optimizer.time_per_step
        return stale_clock(self.optimizer, self.staleness)

    @property
    def is_affine(self):
        return self.optimizer.is_affine and self.compensation is None

    def init(self, x0):
        return self.optimizer.init(x0)

    def read(self, state):
        return self.optimizer.read(state)

    def update(self, state, k, gradient):
        return self.optimizer.update(state, k, gradient)

    def observe(self, state):
        return self.optimizer.observe(state)

    def chain(self, problem):
        if self.staleness.mean == 0:
            return self.optimizer.chain(problem)
        return AsynchronousChain(problem, self)

    def modified_equation(self, problem, order=1, *, staleness_noise=True, forcing="auto", **options):
        """The SDE of SGD with geometric staleness (`equations.py`); without delay the optimiser's own."""
        if self.staleness.mean == 0:
            return self.optimizer.modified_equation(problem, order, **options)
        require(not options, f"the modified equation of stale gradients takes no options {sorted(options)}")
        require(self.compensation is None, f"no modified equation is known with {self.compensation!r}: simulate it")
        return stale_equation(
            self.optimizer, self.staleness, problem, order, staleness_noise=staleness_noise, forcing=forcing
        )


class AsynchronousChain(Chain):
    """A stale optimiser on a problem. The state: the optimiser's, the law's memory, and the compensation's."""

    problem: Problem
    optimizer: Asynchronous

    @property
    def time_per_step(self):
        return self.optimizer.time_per_step

    def _started(self, x0, memory_of):
        state = self.optimizer.init(x0)
        point, compensation = self.optimizer.read(state), self.optimizer.compensation
        return state, memory_of(point), None if compensation is None else compensation.start(point)

    def start(self, x0):
        return self._started(x0, self.optimizer.staleness.start)

    def start_from(self, x0, draws):
        return self._started(x0, lambda point: self.optimizer.staleness.start_from(point, draws))

    def step(self, state, k, draws):
        state, memory, own = state
        point, compensation = self.optimizer.read(state), self.optimizer.compensation
        read, memory = self.optimizer.staleness.read(memory, k, point, draws.of(STALENESS))
        gradient = self.problem.noisy_gradient(read.point, draws)
        if compensation is not None:
            gradient, own = compensation.compensate(gradient, read, point, own)
        return self.optimizer.update(state, k, gradient), memory, own

    def observe(self, state):
        return self.optimizer.observe(state[0])
