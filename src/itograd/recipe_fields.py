"""What the sections of a recipe file are made of: tables without other keys, numbers of a kind, unions of tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from itograd.recipe_numbers import read_numbers


class Section(BaseModel):
    """A table of the file: no other keys, no conversion of types, no NaN and no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def given(self, *without: str) -> dict[str, Any]:
        """The values that the file states, by key."""
        return {
            key: getattr(self, key)
            for key in type(self).model_fields
            if key in self.model_fields_set and key not in without
        }


Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Numbers = Annotated[Any, AfterValidator(read_numbers)]


def union(classes: dict[str, type[Section]], choose: Callable[[Any], str | None], *more):
    """The union of sections, told apart by `choose`; tags stand in <> so that an error can leave them out."""
    members: list[Any] = [Annotated[member, Tag(tag(name))] for name, member in (*classes.items(), *more)]
    return Annotated[reduce(or_, members), Discriminator(lambda value: tag(choose(value)))]


def tag(name: Any) -> str:
    """The tag of a member of a union, in brackets that an error message can leave out."""
    return f"<{name}>"


def kind(key: str):
    """The choice of `union` that reads this key of a table."""

    def choose(value: Any) -> Any:
        return value.get(key) if isinstance(value, dict) else getattr(value, key, "no table")

    return choose
