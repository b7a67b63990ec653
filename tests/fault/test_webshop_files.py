"""Missing and malformed shop files are refused with file, record, what was expected and what was found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from empg.environments.webshop.engine.shop import Shop
from empg.errors import DataError

ITEM = {
    "asin": "B000000001",
    "name": "Red Shirt",
    "full_description": "",
    "small_description": ["soft"],
    "category": "fashion",
    "query": "shirts",
    "product_category": "Clothing",
    "customization_options": {"color": [{"value": "red"}]},
    "pricing": "$9.99",
}
OTHER = ITEM | {"asin": "B000000002", "customization_options": ""}
DESCRIBED = {"attributes": ["soft"], "instruction": "Find me a shirt", "instruction_attributes": ["soft"]}
GOOD: dict[str, Any] = {
    "items.json": [ITEM, OTHER],
    "attributes.json": {"B000000001": DESCRIBED, "B000000002": {"attributes": []}},
    "people.json": {
        "B000000001": [{"instruction": "a shirt.", "instruction_attributes": ["soft"], "instruction_options": ["red"]}]
    },
}


def load(folder: Path, **options: Any) -> Shop:
    return Shop.load(folder / "items.json", folder / "attributes.json", folder / "people.json", **options)


def write(folder: Path, contents: dict[str, Any]) -> None:
    for name, content in contents.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def refusal(folder: Path, name: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, **options)
    message = str(caught.value)
    assert message.startswith(str(folder / name))
    assert "expected" in message
    assert "found" in message
    assert len(message) < 500
    return message


def test_the_good_files_are_good(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert len(load(tmp_path).goals) == 1


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b"3", b'"text"', b"[" * 100_000])
def test_not_a_list_or_an_object(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path, GOOD | {name: content})
    refusal(tmp_path, name)


@pytest.mark.parametrize("name", GOOD)
def test_missing_file(tmp_path: Path, name: str) -> None:
    write(tmp_path, {other: content for other, content in GOOD.items() if other != name})
    refusal(tmp_path, name)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for name, content in GOOD.items():
        whole = json.dumps(content).encode()
        for length in range(0, len(whole), 23):
            write(tmp_path, GOOD | {name: whole[:length]})
            refusal(tmp_path, name)


@pytest.mark.parametrize("items", [[], [ITEM | {"asin": "nan"}], [ITEM | {"asin": "B" * 11}]])
def test_an_empty_catalogue(tmp_path: Path, items: list[Any]) -> None:
    write(tmp_path, GOOD | {"items.json": items})
    assert "at least one product" in refusal(tmp_path, "items.json")


@pytest.mark.parametrize("key", ITEM)
@pytest.mark.parametrize("value", [3, [3], {"a": 3}, "absent"])
def test_missing_or_mistyped_field_of_an_item(tmp_path: Path, key: str, value: Any) -> None:
    item = {name: content for name, content in ITEM.items() if name != key}
    write(tmp_path, GOOD | {"items.json": [OTHER, item if value == "absent" else item | {key: value}]})
    if (key, value) == ("pricing", "absent"):  # upstream's own files leave prices out
        assert load(tmp_path).by_asin["B000000001"].price_tag == "$100.0"
        return
    message = refusal(tmp_path, "items.json")
    assert "record 1" in message
    assert ("option" if key == "customization_options" and value == {"a": 3} else key) in message


@pytest.mark.parametrize("pricing", ["9.99", "free", "$", "$1.2.3", "$9 - $", 9.99])
def test_prices_that_do_not_parse(tmp_path: Path, pricing: Any) -> None:
    write(tmp_path, GOOD | {"items.json": [ITEM | {"pricing": pricing}]})
    message = refusal(tmp_path, "items.json")
    assert "record 0 (B000000001): pricing" in message
    assert repr(pricing) in message


@pytest.mark.parametrize("asin", ["", "Buy Now", "search", "FEATURES"])
def test_an_asin_that_is_a_buttons_name(tmp_path: Path, asin: str) -> None:
    write(tmp_path, GOOD | {"items.json": [ITEM, OTHER | {"asin": asin}]})
    assert "record 1: asin" in refusal(tmp_path, "items.json")


def test_half_a_character(tmp_path: Path) -> None:
    write(tmp_path, GOOD | {"items.json": [ITEM | {"name": "half \ud800"}]})
    assert "surrogate" in refusal(tmp_path, "items.json")


def change(*path: str | int) -> Callable[[Any], dict[str, Any]]:
    """Contents in which the value at the path is another one, or absent."""

    def changed(value: Any) -> dict[str, Any]:
        contents = copy.deepcopy(GOOD)
        place = contents
        for key in path[:-1]:
            place = place[key]  # type: ignore[index]
        if value == "absent":
            del place[path[-1]]  # type: ignore[arg-type]
        else:
            place[path[-1]] = value  # type: ignore[index]
        return contents

    return changed


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (("attributes.json", "B000000001"), ["absent", None, 3, []]),
        (("attributes.json", "B000000001", "attributes"), ["absent", None, "soft", [3]]),
        (("attributes.json", "B000000001", "instruction"), [3, ["text"]]),
        (("attributes.json", "B000000001", "instruction_attributes"), ["absent", None, [], [3]]),
        (("people.json", "B00UNKNOWN"), [[]]),
        (("people.json", "B000000001"), [3, {}, [3], [[]]]),
        (("people.json", "B000000001", 0, "instruction"), ["absent", None, 3]),
        (("people.json", "B000000001", 0, "instruction_attributes"), ["absent", None, "soft", [3]]),
        (("people.json", "B000000001", 0, "instruction_options"), ["absent", None, "red", [3]]),
        (("people.json", "B000000001", 0, "options"), ["color: red", [3]]),
    ],
)
def test_attributes_and_instructions(tmp_path: Path, path: tuple[str | int, ...], values: list[Any]) -> None:
    for value in values:
        write(tmp_path, change(*path)(value))
        assert f"record {path[1]}" in refusal(tmp_path, str(path[0]))


def test_what_upstream_lets_pass_passes_where_asked_for(tmp_path: Path) -> None:
    contents = copy.deepcopy(GOOD)
    contents["people.json"]["B00UNKNOWN"] = []
    contents["attributes.json"] = {"B000000001": {}}
    write(tmp_path, contents)
    shop = load(tmp_path, strict=False)
    assert [product.attributes for product in shop.products] == [("DUMMY_ATTR",)] * 2
    assert len(shop.goals) == 1
