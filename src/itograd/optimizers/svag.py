"""SVAG: an optimiser at a smaller step and with more noise, which follows the same SDE more closely.

With a the factor by which the *variance* of the gradient noise grows:

    SVAG(optimiser, a) on a problem  =  optimiser.scaled(1/a) on problem.amplified(a)

    amplified:   g = r₁ g₁ + r₂ g₂ from two independent batches,   r₁, r₂ = (1 ± √(2a−1))/2
    scaled:      the optimiser's own rule for a batch a times smaller, whose noise has a times the variance: all
                 hyperparameters, and a times as many steps

The rule keeps the SDE, whatever the optimiser, so the SDE of SVAG is that of the optimiser for every a, and the weak
error is of order 1 in 1/a at a fixed recipe. Where runs at a = 1 and at larger a differ, the SDE does not describe the
optimiser (Li, Malladi, Arora 2021; Malladi, Lyu, Panigrahi, Arora 2022). A path costs 2a gradients for each of the
optimiser's steps.

Two letters l in the papers: the l of Li et al. is a; the l of Malladi et al. multiplies the noise's scale, l² = a.

The betas move by 1−b → (1−b)/a, the papers' form, which is legal for every a ≥ 1: b^(1/a) would keep −log b in place of
1−b, and its limit would be the SDE with that in its place. So SVAG of momentum in its underdamped clock is η/a² and
1−μ → (1−μ)/a; at a fixed μ it would approach the overdamped SDE, as it does in that clock.
"""

from itograd.optimizers.optimizer import Optimizer
from itograd.validation import require_number


class SVAG(Optimizer):
    """`optimizer` with its noise amplified: `noise_amplification` a ≥ 1 multiplies the variance. At 1 it is itself.

    Its clock is that of the rule it makes: a steps stand for one of the optimiser's. `chain(problem)` amplifies the
    problem; `update` alone expects gradients that are amplified already.

    Raises ValueError for a < 1, and where the optimiser has no scaling rule.

    >>> from itograd.optimizers.sgd import SGD
    >>> SVAG(SGD(0.5), 4).time_per_step
    0.125
    """

    optimizer: Optimizer
    noise_amplification: float

    def __check_init__(self):
        require_number("noise_amplification", self.noise_amplification, minimum=1)
        _ = self.rule  # refused here where there is none

    @property
    def rule(self) -> Optimizer:
        """The optimiser at its smaller step."""
        if self.noise_amplification == 1:
            return self.optimizer
        return self.optimizer.scaled(1 / self.noise_amplification, betas="linear")

    @property
    def time_per_step(self):
        return self.rule.time_per_step

    @property
    def is_affine(self):
        return self.optimizer.is_affine

    def init(self, x0):
        return self.rule.init(x0)

    def read(self, state):
        return self.optimizer.read(state)

    def update(self, state, k, gradient):
        return self.rule.update(state, k, gradient)

    def observe(self, state):
        return self.optimizer.observe(state)

    def chain(self, problem):
        return self.rule.chain(problem.amplified(self.noise_amplification))

    def modified_equation(self, problem, order=1, **options):
        """The SDE of the rule on the amplified problem: to order 1 the optimiser's own. `options` are the rule's."""
        return self.rule.modified_equation(problem.amplified(self.noise_amplification), order, **options)

    def scaled(self, batch_factor, betas=None):
        return SVAG(self.optimizer.scaled(batch_factor, betas), self.noise_amplification)
