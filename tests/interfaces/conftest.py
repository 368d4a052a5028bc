"""One small check that several tests look at."""

import pytest

QUADRATIC = """
[problem]
kind = "quadratic"
hessian = [[1.0, 0.2], [0.2, 0.5]]
noise_covariance = [[1.0, 0.0], [0.0, 1.0]]
batch_size = 4

[optimizer]
name = "sgd"
learning_rate = 0.125
weight_decay = 0.5

[run]
steps = 16
save_every = 2
paths = 64
x0 = [2.0, -2.0]

[scale]
batch_sizes = [1, 24]
equilibrium_steps = 96
"""


@pytest.fixture(scope="session")
def quadratic_recipe(tmp_path_factory):
    """The file of a recipe that runs in seconds."""
    file = tmp_path_factory.mktemp("recipe") / "quadratic.toml"
    file.write_text(QUADRATIC)
    return file


@pytest.fixture(scope="session")
def quadratic_check(quadratic_recipe):
    """The check of that recipe."""
    from itograd.check import check
    from itograd.recipes import load_recipe

    return check(load_recipe(quadratic_recipe), progress=False)


@pytest.fixture(scope="session")
def quadratic_folder(quadratic_check, tmp_path_factory):
    """The folder that is written of it."""
    from itograd.report.folder import write_results

    folder = tmp_path_factory.mktemp("results")
    write_results(quadratic_check, folder)
    return folder
