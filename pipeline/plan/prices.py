"""Reads prices: of keyjoin's own table, and of a file of the user, `--prices`.

The table has list prices with their dates and sources, and no others. What it does not have is unknown.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from transforms.errors import UsageError
from transforms.storage import files

TABLE = Path(__file__).with_name("prices.json")
EXAMPLE = '{"currency": "EUR", "vcpu_hour": 0.05, "memory_gb_hour": 0.003, "disk_gb_hour": 0.00005, "shuffle_gb": 0.01}'

Price = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Prices(NamedTuple):
    """The prices of a region.

    Attributes:
        currency: Their currency.
        of: Item -> its price. The items are `vcpu_hour`, `memory_gb_hour`, `disk_gb_hour`, `shuffle_gb`, and the types
            of accelerators, such as `nvidia-l4`, for an hour of one.
        source: Where they are from, with the date.
    """

    currency: str
    of: Mapping[str, float]
    source: str


class _Row(msgspec.Struct):
    item: str
    region: str
    price: Price
    date: str
    source: str


class _Table(msgspec.Struct):
    currency: str
    prices: tuple[_Row, ...]


def read(region: str | None, path: str | None) -> Prices:
    """Reads the prices of a region.

    Args:
        region: The region of a job; None if it is not given.
        path: The user's file; None for keyjoin's own table.

    Raises:
        UsageError: The file cannot be read, or is no object of prices.
    """
    if path is not None:
        return _own(path)
    table = msgspec.json.decode(TABLE.read_bytes(), type=_Table)
    rows = [row for row in table.prices if row.region == region]
    dates = sorted({row.date for row in rows})
    source = f"list prices of {region}, {' to '.join(dates)}" if rows else f"no list prices of {region} are known"
    return Prices(table.currency, {row.item: row.price for row in rows}, source)


def _own(path: str) -> Prices:
    try:
        with files.open_raw(path) as file:
            found = msgspec.json.decode(file.read(files.SMALL_BYTES), type=dict[str, Price | str])
        currency = msgspec.convert(found.pop("currency", "USD"), str)
        return Prices(currency, msgspec.convert(found, dict[str, Price]), path)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"--prices={path} is no JSON object of prices: {error}; write one as {EXAMPLE}") from error
