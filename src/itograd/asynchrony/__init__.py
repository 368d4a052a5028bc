"""Asynchrony: laws of staleness, optimisers with stale gradients, and what they do."""

from itograd.asynchrony.asynchronous import Asynchronous as Asynchronous
from itograd.asynchrony.staleness import Fixed as Fixed
from itograd.asynchrony.staleness import Geometric as Geometric
from itograd.asynchrony.staleness import Pmf as Pmf
from itograd.asynchrony.staleness import Staleness as Staleness
from itograd.asynchrony.staleness import WorkerQueue as WorkerQueue
from itograd.asynchrony.stale_read_moments import read_moments as read_moments
