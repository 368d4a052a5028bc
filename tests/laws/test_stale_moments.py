"""Exact moments with stale gradients: oracle tables, closed forms, closures against each other (theory 1.8, 2.3)."""

import numpy as np
import pytest

import itograd as ig
from itograd.asynchrony import Asynchronous, Fixed, Geometric, Pmf, WorkerQueue, read_moments
from itograd.problems.linear_regression import LinearRegression
from itograd.problems.quadratic import Quadratic

A = np.array([[2.0, 0.5, 0.2], [0.5, 1.0, -0.3], [0.2, -0.3, 0.5]])
S = np.array([[1.0, -0.4, 0.1], [-0.4, 0.8, 0.3], [0.1, 0.3, 0.6]])
CENTRE = np.array([0.3, -1.0, 2.0])
THREE = Quadratic(A, S, minimizer=CENTRE)  # A and S do not commute
X0 = np.array([1.0, 0.5, -1.0])
LINES = LinearRegression([[1.0, 0.2], [0.3, -0.8], [-0.5, 0.6], [0.9, 0.4]], [0.3, -0.2, 0.5, 0.1])
LAWS = [Geometric(mean=3), WorkerQueue(4), Fixed(3), Pmf([0.3, 0.0, 0.1, 0.6])]


def stale(optimizer, law):
    return Asynchronous(optimizer, law)


def random_curvature(h, va, noise_variance):
    """Four equally likely gradients a x − b: E a = h, Var a = va, E b = 0, Var b = σ², uncorrelated."""
    a, b = np.sqrt(va), np.sqrt(noise_variance)
    return LinearRegression.one_dimensional([h + a, h + a, h - a, h - a], [b, -b, b, -b])


# oracle_asgd_moments.json: k, E x, E m, then E x², E xm, E m², E S of independent geometric delays and of the queue
SETS = {
    "A": (0.05, 0.9, random_curvature(2.0, 0.0, 4.0)),
    "B": (0.1, 0.75, random_curvature(1.0, 0.5, 1.0)),
    "C": (0.025, 0.9, random_curvature(2.0, 0.0, 4.0)),
}
ORACLE = {
    "A": [
        (1, (0.9, 0.99), (0.82, 0.892, 0.9802, 0.982), (0.82, 0.892, 0.9802, 0.982)),
        (2, (0.801, 0.9711), (0.66142, 0.780724, 0.9434926, 0.949942), (0.66142, 0.780742, 0.9435142, 0.949942)),
        (
            3,
            (0.70389, 0.944379),
            (0.52477462, 0.670214728, 0.8930242054, 0.907425262),
            (0.52477102, 0.670292902, 0.8931216502, 0.907424902),
        ),
        (
            5,
            (0.518363469, 0.8716340259),
            (0.31562222642182, 0.46410265582775, 0.7635939325008, 0.80345921829398),
            (0.31556242649422, 0.46450932412922, 0.76414251154848, 0.80345121524522),
        ),
        (
            10,
            (0.13003392335767, 0.6210791124706),
            (0.097698089828163, 0.11329062114633, 0.40252746784385, 0.53520088201423),
            (0.096505354867116, 0.11577003659376, 0.40671927905521, 0.53493560662061),
        ),
        (
            20,
            (-0.25100826516616, 0.11782217755732),
            (0.17274156998387, 0.028790436070254, 0.06001108454954, 0.27419730257519),
            (0.163908059414, 0.032149385467247, 0.073156625601926, 0.2703200933765),
        ),
        (
            50,
            (0.015339887515011, -0.058453027202953),
            (0.10551300246363, 0.055817198562395, 0.058273519900984, 0.12517021313391),
            (0.1023581195056, 0.055305425367254, 0.06072999614967, 0.11996590461542),
        ),
        (
            200,
            (2.2569481190095e-05, -4.3099290884437e-06),
            (0.10249311153478, 0.055124674741703, 0.052631610541477, 0.10249322209471),
            (0.10000002024889, 0.055000012249706, 0.055000024401842, 0.10000008905048),
        ),
    ],
    "B": [
        (1, (0.9, 0.975), (0.825, 0.88125, 0.9515625, 0.95625), (0.825, 0.88125, 0.9515625, 0.95625)),
        (
            2,
            (0.8025, 0.931875),
            (0.67309375, 0.75784375, 0.872107421875, 0.8854609375),
            (0.67309375, 0.7579609375, 0.872458984375, 0.8854609375),
        ),
        (
            3,
            (0.7093125, 0.876234375),
            (0.5448069140625, 0.639176484375, 0.77609823486328, 0.80029743164063),
            (0.5447834765625, 0.63955719726563, 0.77730043212891, 0.80029157226562),
        ),
        (
            5,
            (0.5404292578125, 0.74455584960937),
            (0.35344178199664, 0.43595630000867, 0.57533859105092, 0.62083576554616),
            (0.35319262807819, 0.4370877079015, 0.57937581957334, 0.62075149342397),
        ),
        (
            10,
            (0.23650689539496, 0.41547119492551),
            (0.13776180602981, 0.1572962857067, 0.22278656841592, 0.28603499395755),
            (0.13594246473151, 0.15879512489024, 0.23204709207644, 0.28500896378356),
        ),
        (
            20,
            (0.013231217560747, 0.065855578791295),
            (0.076609113447061, 0.06147729659293, 0.063368392432343, 0.09368570553908),
            (0.074175551037841, 0.060555010469464, 0.067064587403832, 0.091171839638575),
        ),
        (
            50,
            (-0.00050336142162523, -0.0012120664138787),
            (0.07127928189626, 0.055360710781502, 0.053093851591419, 0.071310408699926),
            (0.07035960769583, 0.055286431419427, 0.055294497201003, 0.070381022343292),
        ),
        (
            200,
            (1.1383710613441e-13, -1.0662654380932e-13),
            (0.071266110689917, 0.055344958301744, 0.053070507960576, 0.071266110689917),
            (0.07035175879397, 0.055276381909548, 0.055276381909548, 0.07035175879397),
        ),
    ],
    "C": [
        (1, (0.95, 0.995), (0.905, 0.9455, 0.99005, 0.9905), (0.905, 0.9455, 0.99005, 0.9905)),
        (
            2,
            (0.90025, 0.985525),
            (0.81542625, 0.887940375, 0.9713743125, 0.972992625),
            (0.81542625, 0.887942625, 0.9713792625, 0.972992625),
        ),
        (
            3,
            (0.85097375, 0.972069875),
            (0.7315646940625, 0.82859096284375, 0.94521573875313, 0.94884983190625),
            (0.7315644690625, 0.82860080940625, 0.94523785344062, 0.94884980940625),
        ),
        (
            5,
            (0.75461526059375, 0.93505144787187),
            (0.58152053585514, 0.70877549300421, 0.87530785863642, 0.88554241244179),
            (0.5815167452342, 0.70882799126966, 0.87543098595181, 0.88554190628057),
        ),
        (
            10,
            (0.53326950521045, 0.80197183754625),
            (0.30650910550591, 0.43677025245295, 0.64774084005914, 0.68452237620186),
            (0.30642797544609, 0.43713248171751, 0.64870168864274, 0.68450463699167),
        ),
        (
            20,
            (0.20415309473996, 0.48271228732243),
            (0.076075608963959, 0.11872205133193, 0.24811513007195, 0.32707487418088),
            (0.075263661294289, 0.11974966133942, 0.2520281245839, 0.32675027800121),
        ),
        (
            50,
            (-0.055134149932611, -0.014185021630144),
            (0.041600950848707, 0.027843184505355, 0.026679959089011, 0.053845201852135),
            (0.040304569584519, 0.027195691921055, 0.027937743352848, 0.052319564979085),
        ),
        (
            200,
            (-2.3177803501508e-05, -3.6698353297274e-05),
            (0.037333337967179, 0.025933338465803, 0.025333341773562, 0.037333362756182),
            (0.037037039906713, 0.0259259291716, 0.02592593262958, 0.037037057332624),
        ),
    ],
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", ["independent", "queue"])
def test_the_oracle_table(name, kind):
    eta, mu, problem = SETS[name]
    law = Geometric(ratio=mu) if kind == "independent" else WorkerQueue(round(1 / (1 - mu)))
    exact = read_moments(stale(ig.SGD(eta), law), problem, x0=[1.0], steps=200, save_every=1)
    columns = ["point", "mean_read", "point_point", "point_mean_read", "mean_read_mean_read", "read_read"]
    ours = np.stack([exact[column].values.reshape(201) for column in columns], axis=1)
    for k, mean, independent, queue in ORACLE[name]:
        wanted = [*mean, *(independent if kind == "independent" else queue)]
        np.testing.assert_allclose(ours[k], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("eta", "va"), [(0.05, 0.0), (0.1, 0.5), (0.3, 0.2)])
def test_stationary_closed_forms(eta, va):
    h, variance, workers = 1.3, 0.7, 6
    problem, kappa, mu, rho = random_curvature(h, va, variance), 1.3 * eta, 1 - 1 / 6, 1 + va / 1.3**2
    d = 1 - mu**2 + 2 * mu * kappa
    scale = eta * variance / h
    busy = 1 + workers * kappa
    forms = [
        (Geometric(ratio=mu), scale * d / (2 * (1 - mu) * (1 + mu + mu * kappa) - rho * kappa * d)),
        (WorkerQueue(workers), scale * busy / (2 * (1 + kappa) - rho * kappa * busy)),
    ]
    if va == 0:
        theta, half = 2 * np.arcsin(kappa / 2), 3.5
        fixed = scale / 2 * (1 + np.sin(half * theta)) / (np.cos(half * theta) * np.cos(theta / 2))
        forms.append((Fixed(3), fixed))
    for law, wanted in forms:
        chain = stale(ig.SGD(eta), law)
        assert ig.stationary_covariance(chain, problem).item() == pytest.approx(wanted, rel=1e-12)
        exact = read_moments(chain, problem, x0=[1.0], steps=900, save_every=900).isel(time=-1)
        assert exact["point_point"].item() == pytest.approx(wanted, rel=1e-10)
        if isinstance(law, Geometric):
            assert exact["mean_read_mean_read"].item() == pytest.approx(wanted * (1 - mu**2) / d, rel=1e-10)
        if isinstance(law, WorkerQueue):
            shared = wanted * (1 + kappa) / busy
            assert exact["mean_read_mean_read"].item() == pytest.approx(shared, rel=1e-10)
            assert exact["point_mean_read"].item() == pytest.approx(shared, rel=1e-10)


@pytest.mark.parametrize("queue", [False, True])
def test_the_recursion_in_d_dimensions(queue):
    """Theory 1.8, with the matrices written down."""
    eta, workers = 0.2, 4
    mu, h, start = 1 - 1 / workers, A, np.outer(X0 - CENTRE, X0 - CENTRE)
    a, c, d, s = start, start, start, start
    exact = read_moments(
        stale(ig.SGD(eta), WorkerQueue(4) if queue else Geometric(mean=3)), THREE, x0=X0, steps=25, save_every=1
    )
    for k in range(25):
        new = a - eta * (h @ c.T + c @ h) + eta**2 * (h @ s @ h + S)
        e = c - eta * h @ d
        if queue:
            f = c - eta * h @ s
            left = e.T - d
            d = d + (left + left.T) / workers + (new - f - f.T + s) / workers**2
            c = e + (new - f) / workers
        else:
            d = mu**2 * d + mu * (1 - mu) * (e + e.T) + (1 - mu) ** 2 * new
            c = mu * e + (1 - mu) * new
        s, a = mu * s + (1 - mu) * new, new
        row = exact.isel(time=k + 1)
        x, m = row["point"].values - CENTRE, row["mean_read"].values - CENTRE
        for name, wanted, u, v in (
            ("point_point", a, x, x),
            ("point_mean_read", c, x, m),
            ("mean_read_mean_read", d, m, m),
            ("read_read", s, m, m),
        ):
            shifted = row[name].values - np.outer(u, CENTRE) - np.outer(CENTRE, v) - np.outer(CENTRE, CENTRE)
            np.testing.assert_allclose(shifted, wanted, rtol=0, atol=1e-11)


def seven_moments(kappa, mu, explicit, noise, steps, queue):
    """Theory 2.3: E x² at every step, from x₀ = 1 at rest."""
    p, k, new = 1 + explicit, kappa, 1 - mu
    xx = xz = zz = xm = zm = mm = s = 1.0
    history = []
    for _ in range(steps):
        history.append(xx)
        y = p * xm - explicit * zm - k * s
        u = p * xm - explicit * zm - k * mm
        xx_new = p**2 * xx + explicit**2 * zz - 2 * p * explicit * xz + k**2 * s - 2 * k * (p * xm - explicit * zm)
        xx_new += noise
        xz_new = p * xx - explicit * xz - k * xm
        if queue:
            xm_new, zm_new = u + new * (xx_new - y), xm + new * (xz_new - xm)
            mm_new = mm + 2 * new * (u - mm) + new**2 * (xx_new - 2 * y + s)
        else:
            xm_new, zm_new = mu * u + new * xx_new, mu * xm + new * xz_new
            mm_new = mu**2 * mm + 2 * mu * new * u + new**2 * xx_new
        zz, s = xx, mu * s + new * xx_new
        xx, xz, xm, zm, mm = xx_new, xz_new, xm_new, zm_new, mm_new
    return np.array([*history, xx])


@pytest.mark.parametrize("explicit", [0.6, -0.4])
@pytest.mark.parametrize("queue", [False, True])
def test_explicit_momentum_follows_seven_moments(explicit, queue):
    eta, h, sigma2, workers = 0.1, 1.5, 2.0, 5
    law = WorkerQueue(workers) if queue else Geometric(mean=workers - 1)
    exact = ig.moments(stale(ig.Momentum(eta, explicit), law), Quadratic(h, sigma2), x0=[1.0], steps=80, save_every=1)
    ours = exact["variance"].values[:, 0] + exact["mean"].values[:, 0] ** 2
    np.testing.assert_allclose(
        ours, seven_moments(eta * h, 1 - 1 / workers, explicit, eta**2 * sigma2, 80, queue), rtol=1e-12
    )


class ReadsBeside(ig.SGD):
    """A read that is affine, and not linear, in the state."""

    def read(self, state):
        return state + 0.3


OPTIMIZERS = [ReadsBeside(0.1, weight_decay=0.2), ig.Momentum(0.2, -0.5), ig.Nesterov(0.06, 0.6, point="iterate")]


@pytest.mark.parametrize(("optimizer", "problem"), [*zip(OPTIMIZERS, [LINES, THREE, LINES])])
def test_any_law_agrees_with_the_geometric_one(optimizer, problem):
    mu, x0 = 0.25, X0[: problem.dim]
    q = (1 - mu) * mu ** np.arange(26)
    ring, average = stale(optimizer, Pmf(q / q.sum())), stale(optimizer, Geometric(ratio=mu))
    ours, theirs = (ig.moments(chain, problem, x0=x0, steps=30) for chain in (ring, average))
    for name in ("mean", "covariance"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-13)
    late = [read_moments(chain, problem, x0=x0, steps=12).isel(time=-1) for chain in (ring, average)]
    for name in late[0].data_vars:
        np.testing.assert_allclose(late[0][name], late[1][name], rtol=0, atol=1e-13)
    np.testing.assert_allclose(
        ig.stationary_covariance(ring, problem), ig.stationary_covariance(average, problem), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("law", "optimizer"), [*zip(LAWS, [*OPTIMIZERS, ig.Momentum(0.1, 0.3)])])
def test_the_stationary_law_is_the_limit(law, optimizer):
    for problem in (THREE, LINES):
        chain = stale(optimizer, law)
        limit = ig.moments(chain, problem, save_at=[500 * chain.time_per_step])["covariance"][-1]
        np.testing.assert_allclose(ig.stationary_covariance(chain, problem), limit, rtol=1e-9, atol=1e-13)


def test_no_delay_and_certain_delays():
    """Delays that are always 0, as a queue of one worker or a ring of one, are the optimiser itself."""
    fresh = ig.moments(ig.Nesterov(0.1, 0.5), LINES, x0=X0[:2], steps=20)
    for law in (WorkerQueue(1), Fixed(0), Pmf([1.0])):
        np.testing.assert_allclose(
            ig.moments(stale(ig.Nesterov(0.1, 0.5), law), LINES, x0=X0[:2], steps=20)["covariance"],
            fresh["covariance"],
            atol=1e-15,
        )
    state = ig.stationary_covariance(stale(ig.Momentum(0.1, 0.5), Fixed(2)), THREE, state=True)
    assert state.shape == (6, 6)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_against_simulation(law):
    chain = stale(ig.Momentum(0.15, 0.3), law)
    runs = ig.simulate(chain, LINES, x0=X0[:2], steps=24, paths=40_000, seed=5)
    exact = ig.moments(chain, LINES, x0=X0[:2], steps=24)
    for name in ("mean", "variance"):
        z = (runs[name] - exact[name])[1:] / runs[f"{name}_standard_error"][1:]
        assert np.abs(z.values).max() < 4.5


UNEQUAL = WorkerQueue(4, rates=[1, 1, 1, 2])


@pytest.mark.parametrize(
    ("calculate", "message"),
    [
        (
            lambda: ig.moments(stale(ig.SGD(0.1), WorkerQueue(4, rates=[1, 1, 1, 2])), THREE, steps=3),
            "do not close.*Simulate it, or",
        ),
        (lambda: ig.moments(stale(ig.Adam(0.1), Fixed(2)), THREE, steps=3), "Asynchronous is not; simulate it"),
        (lambda: ig.stationary_covariance(stale(ig.SGD(2.0), Fixed(2)), THREE), "radius of the mean's map is"),
        (lambda: ig.stationary_covariance(stale(ig.SGD(0.4), Geometric(mean=7)), THREE), "gain of the mean square's"),
        (lambda: read_moments(stale(ig.SGD(0.1), Fixed(0)), THREE, steps=3), "without delay every read is the point"),
        (lambda: read_moments(ig.SGD(0.1), THREE, steps=3), "those of an Asynchronous optimiser"),
    ],
)
def test_what_does_not_close_is_refused_with_the_reason(calculate, message):
    with pytest.raises((ValueError, TypeError), match=message):
        calculate()
