"""Asynchrony: laws of staleness, optimisers with stale gradients, and what they do."""

from itograd.asynchrony.asynchronous import Asynchronous as Asynchronous
from itograd.asynchrony.efficiency import time_to_target as time_to_target
from itograd.asynchrony.implicit_momentum import MomentumCascade as MomentumCascade
from itograd.asynchrony.implicit_momentum import implicit_momentum as implicit_momentum
from itograd.asynchrony.implicit_momentum import memory_kernel as memory_kernel
from itograd.asynchrony.stability import largest_stable_learning_rate as largest_stable_learning_rate
from itograd.asynchrony.stability import mean_rate as mean_rate
from itograd.asynchrony.stability import mean_square_rate as mean_square_rate
from itograd.asynchrony.stability_margin import stability_margin as stability_margin
from itograd.asynchrony.stale_read_moments import read_moments as read_moments
from itograd.asynchrony.staleness import Fixed as Fixed
from itograd.asynchrony.staleness import Geometric as Geometric
from itograd.asynchrony.staleness import Pmf as Pmf
from itograd.asynchrony.staleness import Staleness as Staleness
from itograd.asynchrony.staleness import WorkerQueue as WorkerQueue
from itograd.asynchrony.tuning import tune as tune
