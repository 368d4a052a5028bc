"""The engine: draws, chains, modified equations and schemes, schedules, ensembles and their results."""

from itograd.simulation.chain import Chain as Chain
from itograd.simulation.draws import Draws as Draws
from itograd.simulation.equation import ModifiedEquation as ModifiedEquation
from itograd.simulation.history import recall as recall
from itograd.simulation.history import remember as remember
from itograd.simulation.history import ring as ring
from itograd.simulation.noise import noise_source as noise_source
from itograd.simulation.schemes import EulerMaruyama as EulerMaruyama
from itograd.simulation.schemes import ExactAffine as ExactAffine
from itograd.simulation.schemes import HeunDrift as HeunDrift
from itograd.simulation.schemes import WeakOrder2 as WeakOrder2
