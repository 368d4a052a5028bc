"""What is minimised: objectives with the law of their noisy gradients."""

from itograd.problems.digits import digits as digits
from itograd.problems.finite_sum import FiniteSum as FiniteSum
from itograd.problems.landscapes import Circle as Circle
from itograd.problems.landscapes import DoubleWell as DoubleWell
from itograd.problems.landscapes import FlatSharp as FlatSharp
from itograd.problems.landscapes import LogCosh as LogCosh
from itograd.problems.linear_regression import LinearRegression as LinearRegression
from itograd.problems.problem import Problem as Problem
from itograd.problems.quadratic import Quadratic as Quadratic
from itograd.problems.rayleigh import Rayleigh as Rayleigh
