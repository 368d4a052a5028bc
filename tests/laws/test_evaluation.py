"""A traced function evaluated with the path as the last axis is the function of one path mapped over the paths."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from itograd.simulation.draws import Draws
from itograd.simulation.evaluation import run, take_apart
from itograd.simulation.history import recall, remember, ring
from itograd.simulation.lane_rules import LANE_RULES
from itograd.simulation.lanes import Form
from itograd.simulation.precision import precision
from itograd.simulation.program import trace
from itograd.simulation.scalar_rules import SCALAR_RULES

PATHS = 6
FORMS = [16, 1]

A = np.random.default_rng(1).normal(size=(3, 3)).astype("float32")
WIDE = np.random.default_rng(2).normal(size=(3, 9)).astype("float32")
TABLE = np.random.default_rng(3).normal(size=(5, 3)).astype("float32")
LONG = np.random.default_rng(4).normal(size=(40, 2)).astype("float32")
MATRICES = np.random.default_rng(5).normal(size=(5, 2, 3)).astype("float32")
TABLES = TABLE, LONG, MATRICES


def evaluated(function, *arguments, most_scalars=16, compiler=None):
    """The function of one path, for arguments with a leading axis of paths, by the rules of the engine."""
    program, structure = trace(function, *(jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in arguments))
    form = Form(len(arguments[0]), most_scalars)
    take_apart(form, program, {})

    def of_all(*arrays):
        values = {v: form.value(jnp.moveaxis(a, 0, -1), v) for v, a in zip(program.inputs, arrays)}
        return [jnp.moveaxis(form.lanes(found), -1, 0) for found in run(form, program, values)]

    return jax.tree.unflatten(structure, (compiler or compiled)(of_all)(*arguments))


def compiled(function):
    """The function as a program of XLA, little optimised."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def inputs(*kinds, dtype="float32"):
    """Arguments for all paths: "v3" is a vector, "m23" a matrix, "i" an integer from −7 to 7, "b" a boolean."""
    rng = np.random.default_rng(7)
    found = []
    for kind in kinds:
        shape = (PATHS, *(int(length) for length in kind[1:]))
        if kind[0] == "i":
            found.append(rng.integers(-7, 8, shape).astype("int32"))
        elif kind[0] == "b":
            found.append(rng.integers(0, 2, shape).astype(bool))
        else:
            found.append(rng.normal(size=shape).astype(dtype))
    return found


@dataclass
class Case:
    name: str
    function: object
    kinds: tuple
    exact: bool = False  # nothing is rounded, or in one way only

    def check(self, most_scalars, dtype="float32"):
        arguments = inputs(*self.kinds, dtype=dtype)
        expected = compiled(jax.vmap(self.function))(*arguments)
        found = evaluated(self.function, *arguments, most_scalars=most_scalars)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for (where, ours), theirs in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected)):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), where
            ours, theirs = np.asarray(ours), np.asarray(theirs)
            if self.exact or not np.issubdtype(theirs.dtype, np.floating):
                np.testing.assert_array_equal(ours, theirs, str(where))
            else:
                eps = 16 * np.finfo(dtype).eps
                np.testing.assert_allclose(ours, theirs, rtol=eps, atol=eps, err_msg=str(where))


def elementwise(x, y, i, j, b):
    p, small = jnp.abs(x) + 0.5, jnp.tanh(x) * 0.9
    u = i.astype(jnp.uint32)
    return {
        "floats": [
            lax.abs(x), lax.acos(small), lax.acosh(1 + p), lax.asin(small), lax.asinh(x), lax.atan(x),
            lax.atan2(x, y),
            lax.atanh(small), lax.cbrt(x), lax.ceil(x), lax.clamp(-0.5, x, 0.5), lax.clamp(y - 1, x, y + 1),
            lax.cos(x),
            lax.cosh(x), lax.div(x, p), lax.erf(x), lax.erf_inv(small), lax.erfc(x), lax.exp(x), lax.exp2(x),
            lax.expm1(x), lax.floor(x), lax.integer_pow(x, 3), lax.lgamma(p), lax.log(p), lax.log1p(p),
            lax.logistic(x),
            lax.max(x, y), lax.min(x, y), lax.mul(x, y), lax.neg(x), lax.nextafter(x, y), lax.pow(p, y),
            lax.reduce_precision(x, 8, 7), lax.rem(x, y), lax.round(x), lax.rsqrt(p), lax.sign(x), lax.sin(x),
            lax.sinh(x), lax.sqrt(p), lax.square(x), lax.sub(x, y), lax.tan(small), lax.tanh(x), lax.add(x, y),
            jnp.copy(x), lax.select(b, x, y), jnp.where(b[0], x, y), x / 3, 3 / p, x * 0.1 * 7 + 2 * y,
            jax.grad(lambda z: (z * z * y + z).sum())(x),
        ],
        "integers": [
            lax.bitcast_convert_type(x, jnp.int32), lax.population_count(u), lax.shift_left(i, jnp.abs(j)),
            lax.shift_right_arithmetic(i, jnp.abs(j)), lax.shift_right_logical(i, jnp.abs(j)), i & j, i | j, i ^ j,
            ~i,
            i // (jnp.abs(j) + 1), i % 3, i * j - i, x.astype(jnp.int32), i.astype(jnp.int8),
        ],
        "booleans": [x == y, x != y, i >= j, i > j, i <= j, i < j, lax.is_finite(x / (y - y)), b & (i > 0),
        b | (i > 0)],
        "mixed": [i * x, x + b, i.astype(float) + x.astype(jnp.float16)],
    }  # fmt: skip


def gathers(i):
    TABLE, LONG, MATRICES = map(jnp.asarray, TABLES)
    near = jnp.clip(i, 0, 4)
    return [
        TABLE[i], TABLE[near, 1], TABLE[1, near % 3], TABLE[i, i % 3], TABLE[:, near % 3], LONG[i], LONG[i % 40, 1],
        TABLE[jnp.stack([i, near])], TABLE[jnp.stack([i, near])[:, None]], MATRICES[i],
        MATRICES[jnp.stack([i, near])],
        TABLE.ravel()[i], TABLE.ravel()[jnp.stack([i, near])],
        *(TABLE.at[jnp.stack([i, near])].get(mode=mode) for mode in ("clip", "fill", "promise_in_bounds", "drop")),
        *(LONG.at[jnp.stack([near, near + 1])].get(mode=mode) for mode in ("clip", "promise_in_bounds")),
        TABLE.at[i].get(mode="fill", fill_value=9.0), TABLE.at[i].get(mode="clip"), LONG.at[i].get(mode="clip"),
        jnp.take(TABLE, jnp.stack([i, near]), axis=1, mode="clip"), jnp.take(TABLE, i, axis=0),
        jnp.take(LONG, i, axis=0),
        jnp.take_along_axis(TABLE, jnp.stack([near, near, near])[None], axis=0), TABLE[i.astype(jnp.int8)],
        TABLE[(i + 7).astype(jnp.uint32)], TABLE[3], TABLE[jnp.array([1, -1])],
    ]  # fmt: skip


def own_gathers(x, m, t, i):
    near = jnp.clip(i, 0, 2)
    return [
        x[i], m[i], m[near, 1], m[:, near % 3], m[near, near], t[i], t[near, 1], t[:, near % 2],
        t.at[i].get(mode="clip"),
        x[jnp.stack([i, near])], m[jnp.stack([near, near])], x.at[jnp.stack([i, i])].get(mode="clip"),
        x.at[near].set(5.0), x.at[near].add(x[0]), m.at[1].set(x), m.at[near].set(x), t.at[near, 1].mul(2.0),
        x.at[jnp.array([0, 2])].add(1.0), jnp.take_along_axis(m, jnp.stack([near, near, near])[None], axis=0),
    ]  # fmt: skip


def slices(x, m, t, i):
    zero, own = jnp.int32(0), jnp.abs(i) % 3
    return [
        lax.dynamic_slice(x, (1,), (2,)), lax.dynamic_slice(x, (i,), (2,)), lax.dynamic_slice(m, (i, zero), (1, 3)),
        lax.dynamic_slice(m, (i, i), (2, 2)), lax.dynamic_slice(t, (i, zero), (1, 2)),
        lax.dynamic_slice(t, (3, 0), (1, 2)),
        lax.dynamic_slice(t, (3, 1), (4, 1)), lax.dynamic_slice(t, (i, zero), (4, 2)),
        lax.dynamic_slice(t, (2, i), (1, 1)),
        lax.dynamic_slice(jnp.asarray(LONG), (i, zero), (1, 2)), lax.dynamic_slice(jnp.asarray(LONG), (i, i), (3, 1)),
        lax.dynamic_update_slice(x, x[:1], (2,)), lax.dynamic_update_slice(x, x[:1], (i,)),
        lax.dynamic_update_slice(m, x[None], (own, zero)), lax.dynamic_update_slice(t, x[None, :2], (4, 0)),
        lax.dynamic_update_slice(t, x[None, :2], (i, zero)), lax.dynamic_update_slice(t, m[:, :2], (3, 0)),
        lax.dynamic_update_slice(jnp.asarray(LONG), x[None, :2], (5, 0)),
        lax.dynamic_update_slice(x, jnp.ones(1), (1,)),
        lax.dynamic_index_in_dim(t, i, 0, keepdims=False), lax.dynamic_index_in_dim(t, 70, 0),
    ]  # fmt: skip


def moves(x, m, w):
    return [
        m.T, m.reshape(9), w.reshape(9, 3), x[::2], w[1:, ::3], x[::-1], m[::-1, ::-1], jnp.squeeze(x[:1]), x[None],
        jnp.concatenate([x, m[0], jnp.zeros(2, x.dtype)]), jnp.concatenate([m, w], axis=1), jnp.stack([x, m[0]]),
        jnp.stack([w[0], w[1]], axis=1), jnp.broadcast_to(x, (4, 3)), jnp.broadcast_to(x[:, None], (3, 9)),
        lax.pad(x, x.dtype.type(7), [(1, 2, 1)]), lax.pad(x, x.dtype.type(0), [(-1, 3, 0)]),
        lax.pad(m, x[0], [(0, 1, 0), (2, 0, 2)]),
        lax.pad(w, x.dtype.type(1), [(1, -1, 0), (-2, 0, 1)]), lax.pad(w, x[1], [(1, 0, 0), (0, 0, 0)]),
        jnp.roll(x, 1),
        jnp.tile(x, 3), jnp.repeat(x, 2), jnp.diag(x), jnp.triu(m), jnp.where(jnp.eye(3, dtype=bool), m, 0), x[:0],
        jnp.concatenate([x[:0], x]), jnp.zeros((3, 0)) @ x[:0], jnp.eye(3), jnp.moveaxis(w[None], 0, 2),
        lax.rev(w, (0, 1)),
        jnp.sort(x), jnp.argsort(x), jnp.flip(x), lax.expand_dims(x, (0, 2)), jnp.arange(3.0), jnp.split(x, 3),
    ]  # fmt: skip


def last(cumulative):
    return lambda z: cumulative(z, z.ndim - 1)


def reductions(x, m, w, b):
    integers = (100 * w).astype(jnp.int32)
    return {
        "exact": [
            [f(v, axis=a) for v in (x, m, w) for a in (0, -1, None)
             for f in (jnp.max, jnp.min, jnp.argmax, jnp.argmin)],
            [f(v, axis=a) for v in (b, m > 0, w > 0) for a in (0, -1, None) for f in (jnp.all, jnp.any, jnp.sum)],
            [f(v) for v in (x, m, w) for f in (last(lax.cummax), last(lax.cummin))],
            [integers.sum(axis=a) for a in (0, 1, None)], jnp.cumsum(integers, axis=1), integers.sum(axis=(0, 1)),
        ],
        "sums": [
            [f(v, axis=a) for v in (x, m, w) for a in (0, -1, None) for f in (jnp.sum, jnp.prod, jnp.mean, jnp.var)],
            [f(v, axis=0) for v in (x, m, w) for f in (jnp.cumsum, jnp.cumprod)], lax.cumsum(m, 1, reverse=True),
            jax.nn.softmax(w, axis=1), jax.nn.logsumexp(x), jnp.linalg.norm(x),
        ],
    }  # fmt: skip


def products(x, m, w):
    return [
        A @ x, x @ A, x @ m, m @ x, m @ m, A @ m, m @ A, x @ x, jnp.outer(x, x), jnp.outer(x, A[0]), w @ w.T, w.T @ w,
        WIDE.T @ x, x @ WIDE, WIDE @ w.T, w @ WIDE.T, jnp.vdot(x, A[1]), w[0] @ w[1], w[0] @ WIDE[0], WIDE[0] @ w.T,
        jnp.einsum("ij,jk,kl->il", A, m, A), jnp.einsum("ij,ij->i", m, A), jnp.einsum("ij,ij->i", m, m),
        jnp.einsum("bij,bj->bi", jnp.stack([m, 2 * m]), jnp.stack([x, x])), jnp.tensordot(m, A, 2),
        jnp.tensordot(w, WIDE, 2),
        jnp.einsum("i,j,ij", x, x, A), jnp.kron(x, x), jnp.cross(x, A[0]), jnp.trace(m @ A),
        jnp.einsum("ijk,k->ji", MATRICES, x),
        (m.astype(jnp.int32) @ x.astype(jnp.int32)).astype(x.dtype), jnp.einsum("kj,ji->ik", w, WIDE.T),
    ]  # fmt: skip


def potential(x):
    return (x @ (A @ A.T) @ x) ** 2 / 4 - x[0] * x[1] ** 2 + jnp.sum(x**4) / 8 - x[2] * 0.3


def derivatives(x, v):
    return [
        jax.grad(potential)(x), jax.jvp(jax.grad(potential), (x,), (v,))[1], jax.hessian(potential)(x) @ v,
        jax.jacfwd(lambda z: jnp.stack([z[0] * z[1], z[1] ** 2, z @ z]))(x), jax.linearize(potential, x)[1](v),
        jax.vjp(lambda z: A @ (z * z), x)[1](v)[0], jax.grad(jax.checkpoint(potential))(x),
        jax.grad(lambda z: jax.nn.softplus(z).sum())(x), jax.nn.softplus(x), jax.nn.relu(x),
        jax.grad(lambda z: jax.nn.relu(z).sum())(x),
        jax.nn.gelu(x), jax.jit(potential)(x), jax.vmap(lambda e: potential(x + 0.1 * e))(jnp.eye(3)),
    ]  # fmt: skip


@jax.custom_vjp
def clipped(x):
    return x * x


clipped.defvjp(lambda x: (x * x, x), lambda x, g: (jnp.clip(2 * x * g, -1, 1),))


def control(x, i):
    def halved(c):
        return c[0] / 2, c[1] + 1

    return [
        lax.cond(x[0] > 0, lambda: A @ x, lambda: -x), lax.cond(True, lambda: x, lambda: 2 * x),
        lax.switch(i % 3, [jnp.sin, jnp.cos, jnp.exp], x),
        lax.scan(lambda c, a: (c * 0.5 + a, c.sum()), x, A),
        lax.while_loop(lambda c: c[0] @ c[0] > 0.01, halved, (x, 0)),
        lax.fori_loop(0, 4, lambda j, c: c + j * x, x), lax.fori_loop(0, jnp.abs(i), lambda j, c: c + x, x),
        lax.map(lambda r: r @ x, A),
        lax.scan(lambda c, _: (c + 1, None), 0, None, length=3)[0], lax.associative_scan(jnp.add, x), clipped(x),
        jax.grad(lambda z: clipped(z).sum())(x), lax.top_k(x, 2),
        jnp.interp(x, jnp.arange(3.0), jnp.arange(3.0) ** 2),
    ]  # fmt: skip


def linear_algebra(x, m):
    spd = m @ m.T + jnp.eye(3)
    return [
        jnp.linalg.solve(spd, x), jnp.linalg.cholesky(spd), jnp.linalg.det(spd), jnp.linalg.inv(spd),
        jnp.linalg.eigvalsh(spd),
        jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(spd), x, lower=True),
    ]  # fmt: skip


def dead_code(x):
    jnp.linalg.eigvalsh(jnp.outer(x, x))
    unused = jnp.sin(x) @ A
    return x, (unused, 3.0, jnp.arange(2))[1:]


def scalars_and_empties(s, x, i, b):
    return [
        s * 2 + 1,
        s**2,
        s * x,
        jnp.stack([s, s]),
        -s,
        i + 1,
        ~b,
        i * b,
        jnp.where(b, s, i),
        s[None],
        s * jnp.zeros(0),
        x[:0].sum(),
    ]


CASES = [
    Case("elementwise", elementwise, ("v2", "v2", "i2", "i2", "b2")),
    Case("gathers from a table", gathers, ("i",), exact=True),
    Case("gathers from what differs by path", own_gathers, ("v3", "m33", "m92", "i"), exact=True),
    Case("dynamic slices", slices, ("v3", "m33", "m92", "i"), exact=True),
    Case("moves", moves, ("v3", "m33", "m39"), exact=True),
    Case("reductions", reductions, ("v3", "m33", "m39", "b3")),
    Case("products", products, ("v3", "m33", "m39")),
    Case("derivatives", derivatives, ("v3", "v3")),
    Case("control flow", control, ("v3", "i")),
    Case("linear algebra", linear_algebra, ("v3", "m33")),
    Case("dead code", dead_code, ("v3",)),
    Case("scalars and empties", scalars_and_empties, ("v", "v3", "i", "b")),
]


@pytest.mark.parametrize("most_scalars", [16, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_evaluation_is_the_function_mapped_over_the_paths(case, most_scalars):
    case.check(most_scalars)


@pytest.mark.parametrize(("name", "most_scalars"), [("products", 1), ("derivatives", 16), ("control flow", 16)])
def test_evaluation_in_float64(name, most_scalars):
    with precision("float64"):
        next(case for case in CASES if case.name == name).check(most_scalars, "float64")


def test_every_rule_is_used_by_a_case(monkeypatch):
    used = set()
    for table, rules in (("scalars", SCALAR_RULES), ("lanes", LANE_RULES)):
        for name, rule in rules.items():

            def watched(form, equation, values, rule=rule, place=(table, name)):
                found = rule(form, equation, values)
                if found is not None:
                    used.add(place)
                return found

            monkeypatch.setitem(rules, name, watched)
    monkeypatch.setattr(jax, "jit", lambda function, **_: lambda *arguments: jax.eval_shape(function, *arguments))
    for case in CASES:
        for most_scalars in FORMS:
            evaluated(case.function, *inputs(*case.kinds), most_scalars=most_scalars)
    monkeypatch.undo()
    every = {("scalars", name) for name in SCALAR_RULES} | {("lanes", name) for name in LANE_RULES}
    assert every - used <= UNWRITABLE


# Primitives that no function of this version of jax is traced to.
UNWRITABLE = {(table, name) for table in ("scalars", "lanes") for name in ("copy_p", "expand_dims")}


@pytest.mark.parametrize("most_scalars", FORMS)
@pytest.mark.parametrize("n", [40, 200])
def test_an_index_that_is_drawn_is_never_wrapped_and_any_other_is(n, most_scalars):
    """array[i] counts a negative i from the end; the test for it is left out only where i cannot be negative."""
    table = jnp.arange(float(n))

    def looked_up(k0, k1):
        i = Draws((k0, k1), 3).index(n, (4,))
        masked = Draws((k0, k1), 4).words(4) & np.uint32(31)
        short = i.astype(jnp.int8)  # 200 is negative there
        found = [table.at[j].get(mode="clip") for j in (i, i - 5, masked, masked.astype(jnp.int32), -i)]
        return [*found, table[i[0]], jnp.where(short < 0, 1, 2)]

    keys = np.random.default_rng(8).integers(0, 2**32, (2, 200), dtype=np.uint32)
    expected = jax.jit(jax.vmap(looked_up))(*keys)
    for ours, theirs in zip(evaluated(looked_up, *keys, most_scalars=most_scalars), expected):
        np.testing.assert_array_equal(ours, theirs)


def many(count=2, dtype="float32", paths=4096):
    return np.random.default_rng(9).normal(size=(count, paths)).astype(dtype)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("most_scalars", FORMS)
def test_rings_taken_apart_or_whole(width, length, most_scalars):
    def step(x, r, delay):
        for k in range(5):
            r = remember(r, k, x)
            x = 0.5 * x + recall(r, k, jnp.minimum(delay, k) % length)
        return x, r, ring(x, length)

    delays = np.arange(PATHS, dtype="int32")
    arguments = (
        many(width, paths=PATHS).T.copy(),
        many(length * width, paths=PATHS).T.reshape(PATHS, length, width),
        delays,
    )
    ours, theirs = evaluated(step, *arguments, most_scalars=most_scalars), compiled(jax.vmap(step))(*arguments)
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)
