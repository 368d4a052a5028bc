"""The list of cases that only the slow suite runs names tests that there are."""

import re
import runpy
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_family_of_the_list_is_a_test_with_cases():
    kept = runpy.run_path(str(TESTS / "conftest.py"))["KEPT"]
    sources = "\n".join(file.read_text() for file in TESTS.glob("*/test_*.py"))
    assert [name for name in kept if not re.search(rf"^def {name}\(", sources, re.MULTILINE)] == []
