"""Moments, weak errors and orders, transfer operators, noise scale, equilibrium and the verdict."""

from itograd.analysis.equilibrium import equilibrium as equilibrium
from itograd.analysis.moments import moments as moments
from itograd.analysis.moments import stationary_covariance as stationary_covariance
from itograd.analysis.noise_scale import noise_scale as noise_scale
from itograd.analysis.noise_scale import noise_scale_from_norms as noise_scale_from_norms
from itograd.analysis.noise_shape import noise_skewness as noise_skewness
from itograd.analysis.noise_shape import reshuffling_share as reshuffling_share
from itograd.analysis.regime import regime as regime
from itograd.analysis.rmsprop_transfer import rmsprop_transfer as rmsprop_transfer
from itograd.analysis.transfer import transfer_expectation as transfer_expectation
from itograd.analysis.transfer import transfer_on_grid as transfer_on_grid
from itograd.analysis.verdict import Verdict as Verdict
from itograd.analysis.verdict import verdict as verdict
from itograd.analysis.weak_error import weak_error as weak_error
from itograd.analysis.weak_order import fit_weak_order as fit_weak_order
from itograd.analysis.weak_order import weak_order as weak_order
