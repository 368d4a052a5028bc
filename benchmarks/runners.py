"""Who runs what: the limit, itograd and its rivals, each with the sizes at which it is measured."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from benchmarks.loading import load
from benchmarks.workloads import WORKLOADS, Run, Workload

# Rivals are slower, by up to a thousand times: they make fewer steps, and the better of two numbers of paths counts.
# By dimension: (steps, numbers of paths).
Sizes = dict[int, tuple[int, tuple[int, ...]]]
_SIZES: Sizes = {
    2: (200, (4096, 32_768)),
    20: (200, (1024, 8192)),
    100: (100, (512, 2048)),
    650: (100, (64, 512)),
}
_TORCHSDE: Sizes = {2: (40, (8192, 65_536)), 20: (40, (2048, 16_384))}
_NOT_OWN_FORM = [name for name in WORKLOADS if not name.startswith("drift-")]


@dataclass(frozen=True)
class Runner:
    """`home`, "module:function", is loaded when it is first used: a process that measures memory holds nothing else."""

    name: str  # as on the command line
    title: str
    home: str
    workloads: Collection[str]
    options: tuple[tuple[str, str], ...] = ()
    sizes: Sizes | None = None  # None: those of the workload
    is_rival: bool = False

    def prepare(self, workload: Workload, cores: int) -> Run:
        """A function from a seed to moments. Raises `LeftOut` where it cannot run here."""
        return load(self.home)(workload, cores, **dict(self.options))

    def sized(self, workload: Workload, shrink: int = 1) -> list[Workload]:
        """The sizes to try. With `shrink` > 1, one size and that many times fewer paths."""
        steps, paths = (self.sizes or {}).get(workload.dim, (workload.steps, (workload.paths,)))
        tried = paths if shrink == 1 else paths[-1:]
        return [workload.resized(max(64, count // shrink), steps) for count in tried]


def _rival(name, title, home, workloads=_NOT_OWN_FORM, sizes=_SIZES) -> Runner:
    return Runner(name, title, f"benchmarks.rivals.{home}", workloads, sizes=sizes, is_rival=True)


def _itograd(noise: str, title: str) -> list[Runner]:
    home = "benchmarks.itograd_runner:runner"
    single = (("noise", noise),)
    double = (*single, ("dtype", "float64"))
    return [
        Runner(f"itograd-{noise}", title, home, list(WORKLOADS), single),
        Runner(f"itograd-{noise}-float64", f"{title}, float64", home, ["em-2", "em-20"], double),
    ]


_EQUATIONS = ["em-2", "em-20", "em-100"]

RUNNERS: dict[str, Runner] = {
    runner.name: runner
    for runner in (
        Runner("limit", "limit", "benchmarks.limit.run:runner", list(WORKLOADS)),
        *_itograd("compiled", "itograd, compiled noise"),
        *_itograd("jax", "itograd, pure JAX"),
        _rival("jax", "JAX as usually written", "jax_scan:runner"),
        _rival("diffrax", "diffrax, mapped", "diffrax_euler:mapped", _EQUATIONS),
        _rival("diffrax-batched", "diffrax, batched", "diffrax_euler:batched", _EQUATIONS),
        _rival("torchsde", "torchsde", "torchsde_euler:runner", _EQUATIONS[:2], _TORCHSDE),
        _rival("torch", "PyTorch eager", "torch_eager:runner"),
        _rival("numpy", "NumPy", "numpy_loop:runner"),
    )
}
