"""A problem of your own: logistic regression on scikit-learn's breast-cancer data, for `itograd check`.

itograd check examples/own_problem.toml
"""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_breast_cancer

import itograd as ig


def loss(params, example):
    """log(1 + exp(−s)) with the margin s of one example: any differentiable function of (params, example) will do."""
    features, sign = example
    margin = sign * (features @ params["weight"] + params["bias"])
    return jax.nn.softplus(-margin)


def logistic(batch_size: int = 16, l2: float = 1e-2):
    """The problem, with standardised features and labels ±1."""
    features, labels = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    template = {"weight": jnp.zeros(features.shape[1]), "bias": jnp.zeros(())}
    return ig.problems.FiniteSum(loss, (features, 2.0 * labels - 1.0), params=template, batch_size=batch_size, l2=l2)


def main() -> None:
    """Measure the noise scale, and ask for a verdict."""
    problem = logistic()
    print(ig.noise_scale(problem, problem.x0))
    names = {"loss": problem.loss, "squared_norm": lambda x: x @ x}
    print(ig.verdict(ig.SGD(0.05), problem, steps=400, save_every=20, paths=512, observables=names, progress=False))


if __name__ == "__main__":
    main()
