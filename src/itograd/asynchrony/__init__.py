"""Asynchrony: laws of staleness, optimisers with stale gradients, and what they do."""

from itograd.asynchrony.asynchronous import Asynchronous as Asynchronous
from itograd.asynchrony.closed_loop import ClosedLoopMomentum as ClosedLoopMomentum
from itograd.asynchrony.closed_loop import yellowfin_tuning as yellowfin_tuning
from itograd.asynchrony.momentum_estimates import MomentumEstimate as MomentumEstimate
from itograd.asynchrony.momentum_estimates import implicit_momentum_from_run as implicit_momentum_from_run
from itograd.asynchrony.momentum_estimates import total_momentum_from_run as total_momentum_from_run
from itograd.asynchrony.staleness import Fixed as Fixed
from itograd.asynchrony.staleness import Geometric as Geometric
from itograd.asynchrony.staleness import Staleness as Staleness
from itograd.asynchrony.staleness import WorkerQueue as WorkerQueue
