"""Products: upstream's item and attribute files read into immutable records.

Facts about the files are those of WebShop's ``load_products`` (princeton-nlp/WebShop, web_agent_site/engine/engine.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from empg.environments.webshop.engine.buttons import RESERVED_NAMES
from empg.errors import DataError
from empg.files import read_json

NO_PRICE = 100.0  # dollars: upstream's price of a product without one
NO_ATTRIBUTES = ("DUMMY_ATTR",)  # upstream's attributes of a product without any
LONGEST_ASIN = 10  # characters


@dataclass(frozen=True, eq=False)
class Product:
    """One product as the shop shows and scores it. Two products are equal only if they are the same object.

    ``pricing`` holds the price in dollars, or the least and the greatest; ``options`` maps an option's name to its
    values in the order shown; ``instruction`` and ``instruction_attributes`` are what the synthetic goals are made of.
    """

    asin: str
    name: str
    description: str
    bullets: tuple[str, ...]
    category: str
    query: str
    product_category: str
    options: Mapping[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    pricing: tuple[float, ...]
    instruction: str | None = None
    instruction_attributes: tuple[str, ...] = ()

    @cached_property
    def price_tag(self) -> str:
        """The price as pages show it: "$9.99" or "$9.99 to $19.99"."""
        return " to ".join(f"${price}" for price in self.pricing)

    @cached_property
    def texts(self) -> tuple[str, str, str]:
        """Title, bullets and description in lower case: where the score looks for words."""
        return self.name.lower(), " ".join(self.bullets).lower(), self.description.lower()

    @cached_property
    def category_path(self) -> frozenset[str]:
        """The names in ``product_category``, which reads like "Home & Kitchen › Furniture"."""
        return category_path(self.product_category)


def category_path(text: str) -> frozenset[str]:
    """The category names that "›" separates."""
    return frozenset(name.strip() for name in text.split("›"))


def parse_pricing(text: str) -> tuple[float, ...]:
    """One or two prices in dollars from a text such as "$9.99" or "$9.99 - $1,019.99". Further prices are ignored.

    Raises ValueError if there is no price after a dollar sign.
    """
    if not text:
        return (NO_PRICE,)
    try:
        prices = tuple(float(Decimal(re.sub(r"[^\d.]", "", part))) for part in text.split("$")[1:])
    except InvalidOperation:
        prices = ()
    if not prices or not all(map(isfinite, prices)):
        raise ValueError("expected prices such as $9.99")
    return prices[:2]


def read_products(items: str | Path, attributes: str | Path, *, strict: bool = True) -> tuple[Product, ...]:
    """Read ``items_shuffle*.json`` and ``items_ins_v2*.json``.

    Products whose asin is "nan", longer than ten characters or a repetition are left out, as upstream does.

    Args:
        items: the file of products.
        attributes: the file of attributes, which also holds the synthetic instructions.
        strict: whether a product without attributes is an error; if not, it gets ``NO_ATTRIBUTES``, as upstream.

    Raises:
        DataError: a file or record is missing or malformed, or there is no product; names file, record, what was
            expected and what was found.
    """
    items, attributes = Path(items), Path(attributes)
    records = read_records(items, list)
    described: dict[str, Any] = read_records(attributes, dict)
    products: dict[str, Product] = {}
    for number, record in enumerate(records):
        field = Fields(record, f"{items}: record {number}")
        asin = field.text("asin")
        if asin == "nan" or len(asin) > LONGEST_ASIN or asin in products:
            continue
        if not asin or asin.lower() in RESERVED_NAMES:
            raise DataError(f"{field.where}: asin: expected a product id, found {asin!r}")
        field.where += f" ({asin})"
        products[asin] = _product(field, asin, _attributes(described, attributes, asin, strict))
    if not products:
        raise DataError(f"{items}: expected at least one product, found none among {len(records)} records")
    return tuple(products.values())


def _product(field: Fields, asin: str, described: dict[str, Any]) -> Product:
    try:
        pricing = parse_pricing(field.text("pricing", optional=True))
    except ValueError as error:
        raise DataError(f"{field.where}: pricing: {error}, found {field.record['pricing']!r:.100}") from None
    bullets = field.record.get("small_description")
    return Product(
        asin=asin,
        name=field.text("name"),
        description=field.text("full_description"),
        bullets=(field.text("small_description"),) if isinstance(bullets, str) else field.texts("small_description"),
        category=field.text("category"),
        query=field.text("query").lower().strip(),
        product_category=field.text("product_category"),
        options=_options(field),
        pricing=pricing,
        **described,
    )


def _options(field: Fields) -> dict[str, tuple[str, ...]]:
    customization = field.record.get("customization_options")
    if not customization and "customization_options" in field.record:
        return {}
    if not isinstance(customization, dict):
        raise field.error("customization_options", "an object of lists")
    options = {}
    for name, contents in customization.items():
        if contents is None:
            continue
        if not isinstance(contents, list):
            raise DataError(f"{field.where}: option {name!r}: expected a list, found {type(contents).__name__}")
        values = [Fields(content, f"{field.where}: option {name!r}").text("value") for content in contents]
        options[_printable(name, field.where).lower()] = tuple(
            value.strip().replace("/", " | ").lower() for value in values
        )
    return options


def _attributes(described: dict[str, Any], path: Path, asin: str, strict: bool) -> dict[str, Any]:
    """What the attribute file says about a product, as fields of :class:`Product`."""
    if not strict and asin not in described:
        return {"attributes": NO_ATTRIBUTES}
    if asin not in described:
        raise DataError(f"{path}: record {asin}: expected attributes of this product, found none")
    field = Fields(described[asin], f"{path}: record {asin}")
    missing = not strict and "attributes" not in field.record
    found: dict[str, Any] = {"attributes": NO_ATTRIBUTES if missing else field.texts("attributes")}
    if field.record.get("instruction") is not None:
        found["instruction"] = field.text("instruction")
        found["instruction_attributes"] = field.texts("instruction_attributes")
        if not found["instruction_attributes"]:
            raise field.error("instruction_attributes", "at least one text")
    return found


class Fields:
    """The typed fields of one JSON record; ``where`` names file and record in errors.

    Raises :class:`~empg.errors.DataError` if the record is not an object.
    """

    def __init__(self, record: Any, where: str) -> None:
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected an object, found {record!r:.100}")
        self.record: dict[str, Any] = record
        self.where = where

    def error(self, key: str, expected: str) -> DataError:
        """The error of a field that is not as expected, to be raised."""
        found = f"{self.record[key]!r:.100}" if key in self.record else "none"
        return DataError(f"{self.where}: {key}: expected {expected}, found {found}")

    def text(self, key: str, *, optional: bool = False) -> str:
        """A text field; "" where it is ``optional`` and absent. Raises :class:`~empg.errors.DataError` otherwise."""
        value = self.record.get(key)
        if optional and value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(key, "a text")
        return _printable(value, f"{self.where}: {key}")

    def texts(self, key: str) -> tuple[str, ...]:
        """A field that is a list of texts. Raises :class:`~empg.errors.DataError` if it is absent or something else."""
        values = self.record.get(key)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self.error(key, "a list of texts")
        return tuple(_printable(value, f"{self.where}: {key}") for value in values)


def _printable(text: str, where: str) -> str:
    """The text. Raises :class:`~empg.errors.DataError` for a lone surrogate, which no file or index can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: expected Unicode text, found a lone surrogate in {text!a:.100}") from None
    return text


def read_records(path: Path, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """The JSON list or object in a file. Raises :class:`~empg.errors.DataError` if the file holds anything else."""
    try:
        records = read_json(path)
    except RecursionError:
        raise DataError(f"{path}: expected JSON nested less deep, found more than Python can read") from None
    if not isinstance(records, kind):
        name = "a list" if kind is list else "an object"
        raise DataError(f"{path}: expected {name} of records, found {records!r:.100}")
    return records
