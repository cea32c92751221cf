"""Settings of the word filter and of the label that answers carry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self, cast, get_args

from pydantic import Field, ValidationInfo, field_validator

from vqa.settings import Settings

Action = Literal["mask", "flag", "refuse"]

#: the category of entries without one; its action is that of all categories that VQA_FILTER_ACTIONS does not name
DEFAULT = "default"

#: a category's name, which answers and errors show
CATEGORY = re.compile(r"[\w.-]{1,64}")


@dataclass(frozen=True)
class Actions:
    """What to do with a text that has words of a category."""

    named: Mapping[str, Action] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `default=mask,violence=refuse`. Raises ValueError."""
        named: dict[str, Action] = {}
        for pair in filter(None, map(str.strip, text.split(","))):
            category, equals, action = map(str.strip, pair.partition("="))
            if not equals or not CATEGORY.fullmatch(category):
                raise ValueError("must be like default=mask,violence=refuse")
            if action not in get_args(Action):
                raise ValueError(f"the action of {category} must be mask, flag or refuse")
            if category in named:
                raise ValueError(f"{category} is given twice")
            named[category] = cast(Action, action)
        return cls(named)

    def of(self, category: str) -> Action:
        return self.named.get(category, self.named.get(DEFAULT, "mask"))


class FilterSettings(Settings):
    filter_lists: str = Field(
        default="",
        description="files of words that answers must not have, separated by commas (docs/filter.md). Unset: no filter",
    )
    filter_actions: str = Field(
        default="default=mask",
        description="what is done with an answer that has words of a category: mask, flag or refuse, like "
        "default=mask,violence=refuse",
    )
    filter_questions: bool = Field(
        default=False,
        description="1 refuses questions with words that answers would not show, before anything is computed",
    )
    label: str | None = Field(
        default=None,
        max_length=1000,
        description="notice, such as 'Made by a machine.', that each answer ends with, and has as `label`. Unset: none",
    )

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(filter(None, map(str.strip, self.filter_lists.split(","))))

    @property
    def actions(self) -> Actions:
        return Actions.parse(self.filter_actions)

    @field_validator("filter_lists")
    @classmethod
    def _names_files(cls, lists: str) -> str:
        if lists and not lists.strip(", "):
            raise ValueError("names no file")
        return lists

    @field_validator("filter_questions")
    @classmethod
    def _has_lists(cls, questions: bool, info: ValidationInfo) -> bool:
        if questions and not info.data.get("filter_lists"):
            raise ValueError("VQA_FILTER_LISTS, which says what is refused, is unset")
        return questions

    @field_validator("filter_actions")
    @classmethod
    def _are_actions(cls, actions: str) -> str:
        Actions.parse(actions)
        return actions
