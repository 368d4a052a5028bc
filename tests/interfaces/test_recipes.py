"""The recipe file: what it becomes, and the one clear line that each mistake gets."""

import inspect
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import itograd as ig
from itograd.recipe_schema import OPTIMIZERS, PROBLEMS, SCHEDULES, RunSection, ScaleSection, TrainingSection
from itograd.recipes import RecipeError, load_recipe, optimizer_from_table

ROOT = Path(__file__).parents[2]
SECTIONS = (TrainingSection, RunSection, ScaleSection)

GOOD = """
[problem]
kind = "quadratic"
hessian = [[1.0, 0.2], [0.2, 0.5]]
noise_covariance = [[1.0, 0.0], [0.0, 1.0]]
batch_size = 4

[optimizer]
name = "sgd"
learning_rate = 0.125

[run]
time = 2
"""


@pytest.fixture
def load(tmp_path):
    """Load a recipe from its text."""

    def from_text(text, **overrides):
        file = tmp_path / "recipe.toml"
        file.write_text(text, encoding="utf-8")
        return load_recipe(file, overrides or None)

    return from_text


def test_a_recipe_becomes_the_objects_of_the_library(load):
    recipe = load(GOOD)
    assert isinstance(recipe.problem, ig.problems.Quadratic)
    assert recipe.problem.batch_size == 4
    assert recipe.optimizer.learning_rate == 0.125
    assert recipe.steps == 16
    assert (recipe.paths, recipe.run.seed, recipe.x0) == (256, 0, None)
    assert recipe.text == GOOD


def test_the_built_in_recipe_and_the_examples_are_one_experiment():
    recipes = [load_recipe(), *(load_recipe(ROOT / "examples" / f"digits_{b}.toml") for b in (16, 256))]
    assert [recipe.problem.batch_size for recipe in recipes] == [64, 16, 256]
    assert [recipe.steps for recipe in recipes] == [40, 160, 10]
    for recipe in recipes:
        assert recipe.steps * recipe.optimizer.time_per_step == 640
        assert recipe.optimizer.learning_rate / recipe.problem.batch_size == 0.25
        assert recipe.problem.decay == 1e-3
        assert recipe.run.tolerance == load_recipe().run.tolerance


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ('kind = "linear_regression"\nfeatures = [[1.0], [2.0]]\ntargets = [1.0, 0.5]', ig.problems.LinearRegression),
        ('kind = "rayleigh"\nbatch_size = 2', ig.problems.Rayleigh),
        ('kind = "double_well"\nnoise_std = 0.5\nnoise = "skewed"', ig.problems.DoubleWell),
        ('kind = "circle"', ig.problems.Circle),
        ('kind = "flat_sharp"\ntilt = -0.02\nstate_dependent_noise = true', ig.problems.FlatSharp),
    ],
)
def test_every_problem(load, problem, kind):
    text = re.sub(r"(?s)\[problem\].*?\n\n", f"[problem]\n{problem}\n\n", GOOD)
    assert isinstance(load(text).problem, kind)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('name = "momentum"\nlearning_rate = 0.1', ig.Momentum(0.1)),
        ('name = "momentum"\nlearning_rate = 1\nmomentum = -0.5\nweight_decay = 0.1', ig.Momentum(1.0, -0.5, 0.1)),
        (
            'name = "nesterov"\nlearning_rate = 0.01\nclock = "underdamped"\npoint = "iterate"',
            ig.Nesterov(0.01, clock="underdamped", point="iterate"),
        ),
        ('name = "nesterov"\nlearning_rate = 0.25\nmomentum = "increasing"', ig.IncreasingNesterov(0.25)),
        (
            'name = "sgd"\nlearning_rate = {base = 0.5, kind = "cosine", duration = 3.0, final = 0.1}',
            ig.SGD(ig.schedules.Cosine(0.5, 3.0, 0.1)),
        ),
        (
            'name = "sgd"\nlearning_rate = {base = 0.5, kind = "piecewise", boundaries = [1.0], factors = [1.0, 0.5]}',
            ig.SGD(ig.schedules.Piecewise(0.5, (1.0,), (1.0, 0.5))),
        ),
        (
            'name = "sgd"\nlearning_rate = {base = 0.5, kind = "warmup", duration = 3.0}',
            ig.SGD(ig.schedules.Warmup(0.5, 3.0)),
        ),
        (
            'name = "momentum"\nlearning_rate = 0.01\nclock = "underdamped"\n'
            'momentum = {base = 0.9, kind = "exponential", rate = 0.1}',
            ig.Momentum(0.01, ig.schedules.Exponential(0.9, 0.1), clock="underdamped"),
        ),
        ('name = "rmsprop"\nlearning_rate = 0.1', ig.RMSprop(0.1)),
        (
            'name = "rmsprop"\nlearning_rate = 0.1\nbeta = 0.9\neps = 0\neps_root = 1e-6\nv0 = 1\n'
            'denominator = "old"\ncorrect_second = true\nweight_decay = 0.1',
            ig.RMSprop(0.1, 0.9, 0.0, 0.1, 1e-6, 1.0, "old", True),
        ),
        ('name = "adam"\nlearning_rate = 0.1\nb1 = 0.8\nb2 = 0.9', ig.Adam(0.1, 0.8, 0.9)),
        (
            'name = "adam"\nlearning_rate = {base = 0.1, kind = "warmup", duration = 3.0}\ncorrect_first = false',
            ig.Adam(ig.schedules.Warmup(0.1, 3.0), correct_first=False),
        ),
        ('name = "adamw"\nlearning_rate = 0.1', ig.AdamW(0.1)),
        (
            'name = "adamw"\nlearning_rate = 0.1\nweight_decay = 0.2\ndecay_times_rate = false',
            ig.AdamW(0.1, weight_decay=0.2, decay_times_rate=False),
        ),
    ],
)
def test_every_optimizer_and_schedule(table, expected):
    assert repr(optimizer_from_table(tomllib.loads(table))) == repr(expected)


def changed(line, new):
    """GOOD with the first line that begins with `line` replaced."""
    return re.sub(rf"(?m)^{re.escape(line)}.*$", new, GOOD, count=1)


def run_with(line):
    return GOOD + line + "\n"


BAD = {
    "unknown key": (run_with("pahts = 3"), "run.pahts is no key of [run]; did you mean 'paths'?"),
    "unknown section": (GOOD + "[scaling]\n", "scaling is no key of a recipe; did you mean 'scale'?"),
    "key of another optimiser": (
        changed("learning_rate", "learning_rate = 0.1\nmomentum = 0.9"),
        "optimizer.momentum is no key of [optimizer]",
    ),
    "wrong type": (changed("batch_size", 'batch_size = "4"'), "problem.batch_size must be a whole number: got '4'"),
    "a float for a count": (
        changed("batch_size", "batch_size = 4.0"),
        "problem.batch_size must be a whole number: got 4.0",
    ),
    "a boolean for a number": (
        changed("learning_rate", "learning_rate = true"),
        "optimizer.learning_rate must be a number: got true",
    ),
    "negative rate": (
        changed("learning_rate", "learning_rate = -1"),
        "optimizer.learning_rate must be greater than 0: got -1",
    ),
    "negative rate of a schedule": (
        changed("learning_rate", 'learning_rate = {base = -1.0, kind = "cosine", duration = 1.0}'),
        "optimizer.learning_rate must be a finite number in (0, inf): got -1",
    ),
    "rate that is not finite": (
        changed("learning_rate", "learning_rate = nan"),
        "optimizer.learning_rate must be finite: got nan",
    ),
    "unknown schedule": (
        changed("learning_rate", 'learning_rate = {base = 1.0, kind = "cosin"}'),
        "optimizer.learning_rate.kind must be one of 'cosine'",
    ),
    "schedule without kind": (
        changed("learning_rate", "learning_rate = {base = 1.0}"),
        "optimizer.learning_rate.kind is missing",
    ),
    "factors that do not fit": (
        changed("learning_rate", 'learning_rate = {base = 1, kind = "piecewise", boundaries = [1], factors = [1]}'),
        "optimizer.learning_rate must have one factor more than boundaries: got 1 and 1",
    ),
    "unknown optimiser": (
        changed("name", 'name = "sdg"'),
        "optimizer.name must be one of 'sgd', 'momentum', 'nesterov', 'rmsprop', 'adam', 'adamw': got 'sdg'; did you "
        "mean 'sgd'?",
    ),
    "unknown problem": (changed("kind", 'kind = "quadratc"'), "got 'quadratc'; did you mean 'quadratic'?"),
    "missing key": (changed("learning_rate", ""), "optimizer.learning_rate is missing"),
    "missing section": (GOOD.replace("[run]\ntime = 2\n", ""), "the section [run] is missing"),
    "section that is no table": ("run = 3\n" + GOOD.replace("[run]\ntime = 2\n", ""), "run must be a table: got 3"),
    "neither steps nor time": (changed("time", ""), "run.steps or run.time is needed, and not both: got neither"),
    "steps and time": (run_with("steps = 3"), "run.steps or run.time is needed, and not both: got both"),
    "no steps": (changed("time", "steps = 0"), "run.steps must be at least 1: got 0"),
    "time off the grid": (
        changed("time", "time = 0.3"),
        "run.time must be a multiple of the optimiser's clock 0.125: got 0.3; the nearest are 0.25, 0.375",
    ),
    "save_every beyond the run": (run_with("save_every = 17"), "run.save_every must be at most the 16 steps"),
    "too few paths": (run_with("paths = 2"), "run.paths must be at least 16: got 2"),
    "tolerance": (run_with("tolerance = 1.0"), "run.tolerance must be less than 1: got 1"),
    "dtype": (run_with('dtype = "float16"'), "run.dtype must be one of 'float32' or 'float64': got 'float16'"),
    "order": (run_with("order = 3"), "run.order must be one of 1 or 2: got 3"),
    "order that does not exist": (
        changed("name", 'name = "momentum"').replace("time = 2", "steps = 2\norder = 2"),
        "run.order=2: no modified equation",
    ),
    "x0 of another dimension": (run_with("x0 = [1.0]"), "run.x0 must hold 2 numbers"),
    "x0 that is not finite": (
        run_with("x0 = [1.0, nan]"),
        "run.x0 must be finite: NaN or infinite are 1 of its 2 numbers",
    ),
    "NaN in data": (changed("hessian", "hessian = [[1.0, nan], [nan, 1.0]]"), "problem.hessian must be finite"),
    "ragged array": (
        changed("hessian", "hessian = [[1.0, 0.0], [1.0]]"),
        "problem.hessian must have rows of one length",
    ),
    "array of words": (changed("hessian", 'hessian = [["a"]]'), "problem.hessian must hold numbers only: got 'a'"),
    "dimensions that do not fit": (
        changed("noise_covariance", "noise_covariance = 1.0"),
        "problem.noise_covariance must be 2×2 like the hessian: got (1, 1)",
    ),
    "data file that is not there": (
        changed("hessian", 'hessian = "nothing.npy"'),
        "problem.hessian names a file that does not exist",
    ),
    "data file of another kind": (
        changed("hessian", 'hessian = "recipe.toml"'),
        "problem.hessian must be numbers or the name of a file that ends in .npy, .csv, .txt",
    ),
    "syntax": (GOOD + "[run\n", "is not valid TOML: "),
    "batch size to scale to": (
        GOOD + "[scale]\nbatch_sizes = [8, 0]\n",
        "scale.batch_sizes[1] must be at least 1: got 0",
    ),
    "clock of the increasing momentum": (
        changed("name", 'name = "nesterov"\nmomentum = "increasing"\nclock = "overdamped"'),
        "optimizer.clock must be left out where momentum = 'increasing'",
    ),
    "key of another adaptive method": (
        changed("name", 'name = "rmsprop"\nb1 = 0.9'),
        "optimizer.b1 is no key of [optimizer]",
    ),
    "beta of 1": (changed("name", 'name = "adam"\nb2 = 1.0'), "optimizer.b2 must be less than 1: got 1"),
    "order of an adaptive method": (
        changed("name", 'name = "adam"').replace("time = 2", "steps = 20\norder = 2"),
        "run.order=2: no modified equation of order 2 is given for Adam",
    ),
    "warm start of SGD": (run_with("warm_start = 3"), "run.warm_start belongs to rmsprop, adam and adamw"),
    "warm start beyond the run": (
        changed("name", 'name = "adam"').replace("time = 2", "steps = 20\nwarm_start = 20"),
        "run.warm_start must be less than the 20 steps of the run: got 20",
    ),
    "no warm start": (
        changed("name", 'name = "adam"').replace("time = 2", "steps = 20\nwarm_start = 0"),
        "the SDE of Adam has no usable limit",
    ),
    "rule": (GOOD + '[scale]\nrule = "sqrt"\n', "scale.rule must be one of 'linear', 'square_root'"),
    "rule without meaning": (
        GOOD + '[scale]\nrule = "square_root_keep_eps"\n',
        "[scale] the rule 'square_root_keep_eps' speaks of ε, and SGD has none",
    ),
    "clip": (GOOD + "[training]\nclip_norm = 0\n", "training.clip_norm must be greater than 0: got 0"),
    "ema": (GOOD + "[training]\nema = 1.0\n", "training.ema must be less than 1: got 1"),
    "accumulation": (GOOD + "[training]\naccumulation = 3\n", "training.accumulation must divide the batch size"),
    "schedule before the warm-up": (
        GOOD + "[training]\nwarmup_steps = 9\nschedule_steps = [3]\n",
        "training.schedule_steps must not be less than the 9 steps of the warm-up: got 3",
    ),
    "key of a group": (
        GOOD + "[training.groups.bias]\nmomentum = 0.9\n",
        "training.groups.bias.momentum is no key of [sgd]",
    ),
    "optimiser of a group": (
        GOOD + '[training.groups.bias]\nname = "adam"\n',
        "training.groups.bias.name: a group has the optimiser of the recipe",
    ),
    "friction of the underdamped clock": (
        changed("name", 'name = "momentum"\nmomentum = 0.5\nclock = "underdamped"'),
        "[optimizer] the underdamped clock needs",
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_gets_one_line_that_names_the_field(load, mistake):
    text, message = BAD[mistake]
    with pytest.raises(RecipeError) as caught:
        load(text)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("optimizer", "steps", "expected"),
    [
        ('name = "adam"\nb2 = 0.99', 1000, 44),  # .9^44 = .0097
        ('name = "adam"', 2000, 100),  # .1/(1 − .999)
        ('name = "adam"\nb1 = 0.5', 2000, 100),
        ('name = "adam"\nb1 = 0.999', 1000, 100),
        ('name = "adam"', 5, 1),
        ('name = "adam"\nv0 = 1.0', 2000, 100),
        ('name = "adam"\nv0 = 1.0\ncorrect_first = false', 1000, 0),
        ('name = "rmsprop"', 1000, 10),
        ('name = "rmsprop"\nv0 = 1.0', 1000, 0),
        ('name = "sgd"', 1000, 0),
    ],
)
def test_where_the_sde_of_a_recipe_starts(load, optimizer, steps, expected):
    text = changed("name", optimizer).replace("time = 2", f"steps = {steps}")
    recipe = load(text)
    assert recipe.warm_start == expected
    sde = ig.modified_equation(recipe.optimizer, recipe.problem, **recipe.equation_options)
    assert sde.start_time == pytest.approx(expected * recipe.optimizer.time_per_step)
    if recipe.optimizer.is_affine or expected == 0:
        return
    assert load(text + "warm_start = 3\n" if steps > 3 else text).warm_start in (3, 1)


def test_the_section_training_is_a_training_recipe(load):
    text = GOOD + (
        "[training]\nclip_norm = 1\nema = 0.99\nwarmup_steps = 2\nschedule_steps = [3, 16]\naccumulation = 2\n"
        "[training.groups.bias]\nweight_decay = 0.5\n"
    )
    recipe = load(text)
    groups = {"bias": ig.SGD(0.125, weight_decay=0.5)}
    assert recipe.training == ig.TrainingRecipe(recipe.optimizer, 4, 16, 1.0, 0.99, 2, (3, 16), 2, groups)
    assert load(GOOD).training == ig.TrainingRecipe(recipe.optimizer, 4, 16)


def test_every_mistake_is_told_at_once(load):
    text = changed("learning_rate", "learning_rate = -1").replace("time = 2", "steps = 0\npahts = 3")
    with pytest.raises(RecipeError) as caught:
        load(text)
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == [
        "optimizer.learning_rate",
        "run.steps",
        "run.pahts",
    ]


def test_what_only_the_constructors_see_is_told_at_once_too(load):
    text = changed("noise_covariance", "noise_covariance = 1").replace("time = 2", "time = 0.3")
    with pytest.raises(RecipeError) as caught:
        load(text)
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == ["problem.noise_covariance", "run.time"]


def test_the_line_of_a_syntax_error_is_told(load):
    with pytest.raises(RecipeError, match="line 3"):
        load("[problem]\nkind = 'digits'\n[run\n")


@pytest.mark.parametrize("batch_sizes", ["batch_size = 5", "batch_size = 2\n[scale]\nbatch_sizes = [2, 5]"])
def test_a_batch_beyond_the_data_is_refused_although_it_could_be_drawn(load, batch_sizes):
    ig.problems.LinearRegression(np.ones((4, 1)), np.ones(4), batch_size=5)  # with replacement: legal in the library
    size, _, rest = batch_sizes.partition("\n")
    text = (
        re.sub(
            r"(?s)\[problem\].*?\n\n",
            '[problem]\nkind = "linear_regression"\nfeatures = [[1], [2], [3], [4]]\n'
            f"targets = [1, 2, 3, 4]\n{size}\n\n",
            GOOD,
        )
        + rest
    )
    message = r"(problem\.batch_size|scale\.batch_sizes\[1\]) must be at most the 4 examples of the data: got 5"
    with pytest.raises(RecipeError, match=message):
        load(text)


def test_arrays_may_stand_in_files_beside_the_recipe(load, tmp_path):
    np.save(tmp_path / "hessian.npy", np.diag([2.0, 3.0]))
    (tmp_path / "covariance.csv").write_text("1, 0\n0, 4\n")
    text = changed("hessian", 'hessian = "hessian.npy"').replace("[[1.0, 0.0], [0.0, 1.0]]", '"covariance.csv"')
    problem = load(text).problem
    np.testing.assert_array_equal(problem.hessian, np.diag([2.0, 3.0]))
    np.testing.assert_allclose(problem.root @ problem.root.T, np.diag([1.0, 4.0]), atol=1e-14)


def test_a_file_with_words_is_refused(load, tmp_path):
    (tmp_path / "hessian.csv").write_text("one, two\n")
    with pytest.raises(RecipeError, match=r"problem.hessian cannot be read from .*hessian.csv"):
        load(changed("hessian", 'hessian = "hessian.csv"'))


OWN = '[problem]\nfunction = "{}"\narguments = {{size = {}}}\n\n'
MODULE = """
import itograd as ig
import numpy as np

def own(size):
    return ig.problems.LinearRegression(np.ones((size, 1)), np.ones(size))

def wrong(size):
    return size

def vector(size):
    return ig.problems.FiniteSum(lambda w, a: w * a, np.ones((size, 1)), params=np.ones(1))

def broken(size):
    raise KeyError("no data")
"""


@pytest.fixture
def own(load, tmp_path, monkeypatch, request):
    """Load a recipe whose problem is a function of a module in the current folder."""
    module = f"own_{abs(hash(request.node.name))}"  # a name of its own: modules are cached
    (tmp_path / f"{module}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)

    def of(name, size=6, more=""):
        table = OWN.format(f"{module}:{name}", size).replace("\n\n", f"\n{more}\n\n")
        return load(re.sub(r"(?s)\[problem\].*?\n\n", table, GOOD))

    return of


def test_a_problem_of_the_users_own(own):
    assert own("own").problem.dataset_size == 6
    assert own("own", more="batch_size = 3").problem.batch_size == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "has no function missing"),
        ("wrong", "must return an itograd Problem"),
        ("broken", "raised KeyError (own_"),
        ("vector", "loss must return a scalar per example: got shape (1,)"),
    ],
)
def test_a_wrong_problem_of_the_users_own(own, name, message):
    with pytest.raises(RecipeError) as caught:
        own(name)
    assert message in str(caught.value)
    assert str(caught.value).startswith("problem.function")


def test_a_module_that_is_not_there(load):
    with pytest.raises(RecipeError, match=r"problem\.function: no module named 'nowhere_at_all'"):
        load(re.sub(r"(?s)\[problem\].*?\n\n", OWN.format("nowhere_at_all:f", 3), GOOD))


def test_overrides_are_checked_like_the_file(load):
    assert load(GOOD, run={"paths": 32}).run.paths == 32
    with pytest.raises(RecipeError, match=r"run\.paths must be at least 16: got 1"):
        load(GOOD, run={"paths": 1})


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match=r"nothing.toml cannot be read: No such file"):
        load_recipe(tmp_path / "nothing.toml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        load_recipe(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="is no text in UTF-8"):
        load_recipe(tmp_path / "binary.toml")


def test_defaults_are_those_of_the_library():
    defaults = {name: parameter.default for name, parameter in inspect.signature(ig.verdict).parameters.items()}
    for key in ("seed", "tolerance", "confidence", "order", "dtype"):
        assert RunSection.model_fields[key].default == defaults[key], key


def test_every_key_is_documented():
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    for section in (*PROBLEMS.values(), *OPTIMIZERS.values(), *SCHEDULES.values(), *SECTIONS):
        for key in section.model_fields:
            assert f"`{key}`" in text, key
    for kind in (*PROBLEMS, *OPTIMIZERS, *SCHEDULES):
        assert f'`"{kind}"`' in text, kind


def test_the_examples_of_the_documentation_are_recipes(load):
    blocks = re.findall(r"(?s)```toml\n(.*?)```", (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8"))
    assert load(blocks[0]).steps == 40
    assert optimizer_from_table(tomllib.loads(blocks[2])["optimizer"]).momentum == 0.9
