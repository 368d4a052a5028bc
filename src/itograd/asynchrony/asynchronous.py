"""An optimiser whose gradients are stale.

    g_k = noisy gradient at read(s_{k−τ_k}),      s_{k+1} = update(s_k, k, g_k)

The point that an optimiser reads goes through the law of staleness on its way to the gradient; the rule itself is
untouched, so any optimiser of the library can be asynchronous. Delays and batches are independent.
"""

from __future__ import annotations

from itograd.asynchrony.equations import stale_clock, stale_equation
from itograd.asynchrony.staleness import Staleness
from itograd.optimizers.optimizer import Optimizer
from itograd.problems.problem import Problem
from itograd.simulation.chain import Chain
from itograd.simulation.draws import STALENESS
from itograd.validation import require


class Asynchronous(Optimizer):
    """`optimizer` with gradients that are stale by the law `staleness`. Without delay it is the optimiser itself."""

    optimizer: Optimizer
    staleness: Staleness

    @property
    def time_per_step(self):
        """√(η(1−μ)) for SGD at a constant rate under a geometric law, else the optimiser's own clock."""
        return stale_clock(self.optimizer, self.staleness)

    @property
    def is_affine(self):
        return self.optimizer.is_affine

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
        return AsynchronousChain(problem, self.optimizer, self.staleness)

    def modified_equation(self, problem, order=1, *, staleness_noise=True, forcing="auto", **options):
        """The SDE of SGD with geometric staleness (`equations.py`); without delay the optimiser's own."""
        if self.staleness.mean == 0:
            return self.optimizer.modified_equation(problem, order, **options)
        require(not options, f"the modified equation of stale gradients takes no options {sorted(options)}")
        return stale_equation(
            self.optimizer, self.staleness, problem, order, staleness_noise=staleness_noise, forcing=forcing
        )


class AsynchronousChain(Chain):
    """An optimiser with a problem and a law of staleness. The state: the optimiser's, and the law's memory."""

    problem: Problem
    optimizer: Optimizer
    staleness: Staleness

    @property
    def time_per_step(self):
        return stale_clock(self.optimizer, self.staleness)

    def start(self, x0):
        state = self.optimizer.init(x0)
        return state, self.staleness.start(self.optimizer.read(state))

    def step(self, state, k, draws):
        state, memory = state
        read, memory = self.staleness.read(memory, k, self.optimizer.read(state), draws.of(STALENESS))
        gradient = self.problem.noisy_gradient(read.point, draws)
        return self.optimizer.update(state, k, gradient), memory

    def observe(self, state):
        return self.optimizer.observe(state[0])
