"""A law of staleness whose moments close, for any law: itself where they do, else independent delays of its own law.

Independent, equal exponential and equal deterministic workers have exact moments (`moments.py`). Any other queue is
simulated for the frequencies of its delays, and a trace has its own; that their order matters no more is the
approximation.
"""

from __future__ import annotations

from itograd.asynchrony.events import measured_law
from itograd.asynchrony.staleness import Fixed, Pmf, Staleness
from itograd.asynchrony.trace import Trace
from itograd.asynchrony.worker_queue import WorkerQueue
from itograd.validation import require

LONGEST_RING = 512  # delays for which stability is still found in seconds
WRITES = 400_000


def closed_law(staleness: Staleness, seed: int = 0, longest: int = LONGEST_RING) -> tuple[Staleness, str | None]:
    """A law whose moments close for `staleness`, and why it is an approximation (None where it is exact).

    Raises ValueError where it would have a memory of more than `longest` delays.
    """
    law, approximation = staleness, None
    if isinstance(staleness, WorkerQueue) and staleness.geometric_ratio is None:
        if staleness.takes_turns:  # each delay is M − 1 once every worker has written
            law = Fixed(staleness.workers - 1)
        else:
            law = measured_law(staleness, WRITES, seed)
            approximation = (
                f"The law of this queue has no closed form: it was simulated ({WRITES} writes), and its delays are "
                "taken as independent."
            )
    elif isinstance(staleness, Trace):
        law = Pmf(staleness.probabilities())
        approximation = "Delays are taken as independent, with the trace's frequencies; their order is left out."
    if law.geometric_ratio is None:
        length = len(law.probabilities(1e-9))
        require(
            length <= longest,
            f"{'trace' if isinstance(staleness, Trace) else 'queue'}: moments need a memory of {length} delays under "
            f"this law, and {longest} are feasible here: take shorter delays, or equal exponential workers, which need "
            "none",
        )
    return law, approximation
