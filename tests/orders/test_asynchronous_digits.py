"""A network trained asynchronously: the best explicit momentum falls with the workers and turns negative."""

import numpy as np
import pytest

from benchmarks.asynchronous_digits import Search, curvatures, lowest, predicted


def test_the_lowest_point_of_a_parabola_and_of_an_edge():
    x = np.array([0.0, 1.0, 2.0])
    place, value = lowest(x, np.array([(x - 0.8) ** 2 + 3, x, [np.inf, 1.0, 2.0]]))
    np.testing.assert_allclose(place, [0.8, 0.0, 1.0])
    np.testing.assert_allclose(value, [3.0, 0.0, 1.0])


@pytest.mark.slow
def test_the_best_momentum_falls_with_the_workers_and_turns_negative():
    """A coarser grid and fewer paths than the table of docs/asynchrony.md."""
    found, momenta = curvatures(), (-0.8, -0.4, 0.0, 0.4, 0.8)
    best = {}
    for workers, first_rate in ((1, 16.0), (16, 4.0)):
        best[workers] = Search(workers, 48, momenta, first_rate).best()
        print(workers, best[workers], predicted(workers, found))
    (few, its_error), (many, error) = best[1].momentum, best[16].momentum
    assert many + 3 * np.hypot(error, its_error) < few
    assert many + 2 * error < 0 < few - 2 * its_error
    assert 30 < found.largest / found.smallest < 42  # the curvatures that the table was predicted from
    for workers, setting in best.items():
        assert predicted(workers, found).momentum == pytest.approx(setting.momentum[0], abs=0.2)
