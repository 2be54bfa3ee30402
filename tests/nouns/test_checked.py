"""Strict models, and what their refusals say: file, line, place, value and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from rltune.nouns.checked import Checked, Says, check_fields, checked, model_of
from rltune.nouns.documents import Document, parse_yaml
from rltune.nouns.errors import InputError


class Item(Checked):
    """An item."""

    name: Annotated[str, Says("a name is needed")]
    weight_kg: Annotated[float, Field(gt=0), Says("kilograms above 0 are needed")] = 1.0
    """Kilograms."""
    count: int = 1


class Basket(Checked):
    """A file of tasks."""

    accepted = "a basket begins with version: 1"
    version: Literal[1]
    tasks: list[Item] = Field([])


BAD = {
    "": "f.yaml: None; a basket begins with version: 1",
    "version: true": "f.yaml: line 1: version True is unknown; this release reads version: 1",
    "version: 1.0": "f.yaml: line 1: version 1.0 is unknown; this release reads version: 1",
    "kind: 3\nversion: 2": "f.yaml: line 2: version 2 is unknown; this release reads version: 1",
    "version: 1\ntask: []": "f.yaml: line 2: 'task' is unknown; known are version, tasks; did you mean tasks?",
    "version: 1\ntasks: {}": "f.yaml: line 2: tasks={}; input should be a valid list",
    "version: 1\ntasks:\n- 7": "f.yaml: line 2: tasks[0]=7; a mapping is needed",
    "version: 1\ntasks:\n- weight_kg: 1": "f.yaml: line 3: tasks[0]: name is missing; a name is needed",
    "version: 1\ntasks:\n- name: a\n  weight_kg: '8'": "f.yaml: line 4: task a: weight_kg='8'; kilograms above 0 are needed",
    "version: 1\ntasks:\n- name: a\n  weight_kg: .inf": "f.yaml: line 4: task a: weight_kg=inf; kilograms above 0 are needed",
    "version: 1\ntasks:\n- name: a\n  weight_kg: true": "f.yaml: line 4: task a: weight_kg=True; kilograms above 0 are needed",
    "version: 1\ntasks:\n- name: a\n  count: '3'": "f.yaml: line 4: task a: count='3'; input should be a valid integer",
    "version: 1\ntasks:\n- name: a\n  count: 3.0": "f.yaml: line 4: task a: count=3.0; input should be a valid integer",
    "version: 1\ntasks:\n- name: a\n  wieght_kg: 3": "f.yaml: line 4: task a: 'wieght_kg' is unknown; "
    "known are name, weight_kg, count; did you mean weight_kg?",
    "version: 1\ntasks:\n- 'name': a\n  5: 3": "f.yaml: line 4: task a: 5 is unknown; known are name, weight_kg, count",
}


@pytest.mark.parametrize("text", BAD)
def test_refusals_name_place_and_remedy(text: str) -> None:
    """A slip would be taken for something else, or the user search a long file for it."""
    with pytest.raises(InputError) as refused:
        checked(Basket, parse_yaml("f.yaml", text.encode()))
    assert str(refused.value) == BAD[text]


@pytest.mark.parametrize("key", ["a\nb", "k" * 10_000])
def test_keys_of_users_stay_in_one_short_line(key: str) -> None:
    """A key that holds a line break would break the message in two."""
    with pytest.raises(InputError) as refused:
        checked(dict[str, Item], Document("f", {key: {"name": key, "count": 0.5}}))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


def test_what_is_right_is_kept_and_cannot_change() -> None:
    """Values would be converted in silence, or change after they were checked."""
    basket = checked(Basket, Document("f", {"version": 1, "tasks": [{"name": "a", "weight_kg": 3}]}))
    assert basket.tasks == [Item(name="a", weight_kg=3.0)]
    with pytest.raises(ValidationError, match="frozen"):
        basket.version = 1


def test_huge_values_are_told_short() -> None:
    """A message would fill the screen, or fail itself: Python does not write numbers of thousands of digits."""
    for value, told in ((["x"] * 10_000, "..."), (10**5000, "a number of thousands of digits")):
        with pytest.raises(InputError) as refused:
            checked(Item, Document("f", {"name": value}))
        assert told in str(refused.value) and len(str(refused.value)) < 150


@dataclass(frozen=True, slots=True)
class Noun:
    """A plain dataclass."""

    name: str
    size: Annotated[int, Field(ge=1), Says("at least 1 is needed")] = 1

    def __post_init__(self) -> None:
        check_fields(self, f"noun {self.name}")


def test_a_dataclass_is_checked_by_its_annotations() -> None:
    """What a program builds would be checked less than what a file says."""
    assert Noun("a", size=3).size == 3
    with pytest.raises(InputError, match=r"^noun a: size=0; at least 1 is needed$"):
        Noun("a", 0)
    with pytest.raises(InputError, match="size='3'"):
        Noun("a", "3")
    assert model_of(Noun).model_json_schema()["properties"]["size"]["minimum"] == 1
