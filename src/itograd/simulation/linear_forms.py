"""Sums of scaled numbers, kept open while a step is taken apart: h·(a·x + b·y) becomes (h·a)·x + (h·b)·y.

Factors that are the same for all paths are multiplied among themselves, once, and every path is left with one
multiplication and addition for each term. Nothing cancels: equal terms are not merged, sums of whole numbers keep
their order, and a factor is carried into a sum of products only, so a compensated sum stays what it was. Results
change by rounding, by the same rule each time, as long as no product of factors leaves the range of the precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

MOST_TERMS = 8


@dataclass(eq=False)
class LinearForm:
    """Σ wholes + Σ factor·number; numbers are (paths,), factors the same for all paths."""

    wholes: tuple
    terms: tuple[tuple, ...]
    _value: object = None

    def value(self, spread):
        """The sum, (paths,): products first, which are small beside what they are added to."""
        if self._value is None:
            parts = [lax.mul(spread(factor), number) for factor, number in self.terms]
            if parts:
                parts = [reduce(lax.add, parts)]
            self._value = reduce(lax.add, [*self.wholes[:1], *parts, *self.wholes[1:]])
        return self._value

    def scaled(self, factor, product) -> LinearForm | None:
        """factor·(the form), if it is a short sum of products."""
        if self.wholes or len(self.terms) > MOST_TERMS:
            return None
        return LinearForm((), tuple((product(factor, own), number) for own, number in self.terms))

    def plus(self, other: LinearForm) -> LinearForm | None:
        """The sum of two forms, if it is short and only one has whole numbers."""
        if (self.wholes and other.wholes) or len(self.terms) + len(other.terms) > MOST_TERMS:
            return None
        return LinearForm(self.wholes + other.wholes, self.terms + other.terms)

    def shares_a_term_with(self, other: LinearForm) -> bool:
        """Whether one of the products is in both forms: taken away again, it must leave the rounding of its sum."""
        own = {(id(factor), id(number)) for factor, number in self.terms}
        return any((id(factor), id(number)) in own for factor, number in other.terms)


def is_number(element, value: float) -> bool:
    """Whether an element is the number `value`, known while tracing."""
    return not isinstance(element, jax.Array | LinearForm) and bool(element == value)


def combined(name: str, elements: list, spread, product):
    """The result of add, sub, mul, div or neg as an open form, or None where it has none.

    `spread` makes an array (paths,) of an element, `product` multiplies two factors.
    """
    if name == "neg":
        return elements[0].scaled(_MINUS, product) if isinstance(elements[0], LinearForm) else None
    a, b = elements
    if name in ("mul", "div"):
        return _product(name, a, b, spread, product)
    if name == "sub":
        if not isinstance(b, LinearForm) or _is_factor(a) or _form(a).shares_a_term_with(b):
            return None
        negative = b.scaled(_MINUS, product)
        return None if negative is None else _form(a).plus(negative)
    if _is_factor(a) or _is_factor(b) or not (isinstance(a, LinearForm) or isinstance(b, LinearForm)):
        return None
    return _form(a).plus(_form(b))


_MINUS = -1.0


def _product(name, a, b, spread, product):
    if _is_factor(b):
        a, b = (1 / b if name == "div" else b), a
    elif name == "div":
        return None
    if not _is_factor(a):
        return _product_of_terms(a, b, spread, product)
    if _is_factor(b):
        return None
    if is_number(a, 1):
        return b
    return b.scaled(a, product) if isinstance(b, LinearForm) else LinearForm((), ((a, b),))


def _product_of_terms(a, b, spread, product):
    """(f·x)·y = f·(x·y), so that the factor can meet others."""
    if not isinstance(a, LinearForm):
        a, b = b, a
    if not isinstance(a, LinearForm) or a.wholes or len(a.terms) != 1:
        return None
    ((factor, number),) = a.terms
    if isinstance(b, LinearForm) and not b.wholes and len(b.terms) == 1:
        ((other, b),) = b.terms
        factor = product(factor, other)
    return LinearForm((), ((factor, lax.mul(number, spread(b))),))


def _is_factor(element) -> bool:
    return not isinstance(element, LinearForm) and jnp.ndim(element) == 0


def _form(element) -> LinearForm:
    return element if isinstance(element, LinearForm) else LinearForm((element,), ())
