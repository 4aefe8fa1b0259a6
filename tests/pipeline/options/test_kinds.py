"""Numbers are read in the spellings that people use, and each value has one spelling in a record."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.options import kinds
from pipeline.options.error_limits import ErrorLimits
from transforms.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1_000", 1000),
        ("64M", 64 << 20),
        ("64m", 64 << 20),
        ("64MiB", 64 << 20),
        ("64MB", 64_000_000),
        ("4GB", 4_000_000_000),
        ("1.5k", 1536),
        ("0.5kB", 500),
        ("2TiB", 2 << 40),
        ("7B", 7),
        ("64 MB", 64_000_000),
    ],
)
def test_a_size_may_have_a_unit(text: str, size: int) -> None:
    kind = kinds.size()
    assert kind.parse(text) == size
    assert list(kind.texts(size)) == [str(size)]
    assert kind.check is not None
    assert re.fullmatch(kind.check, text)


@pytest.mark.parametrize(
    "text", ["", "0", "0M", "M", "-1", "1.5", "1.0001k", "64  M", "M 64", "64X", "1__0", "_1", "1e3", "5%", "٣"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size from 1 to 1073741824 bytes, such as 64M or 4GB"):
        kinds.size(1 << 30).parse(text)


def test_a_size_has_a_limit() -> None:
    assert kinds.size(1 << 30).parse("1G") == 1 << 30
    with pytest.raises(ValueError, match=r"1.1G is not a size"):
        kinds.size(1 << 30).parse("1.1G")


@given(st.integers(1, 1 << 50))
def test_any_size_is_read_as_written_in_each_unit(number: int) -> None:
    for power, unit in enumerate(["", "k", "M", "G", "T"]):
        assert kinds.size().parse(f"{number:_}{unit}") == number << (10 * power)
        assert kinds.size().parse(f"{number}{unit}iB") == number << (10 * power) if unit else True
        assert kinds.size().parse(f"{number}{unit}B") == number * 1000**power


def test_a_number_of_rows_may_have_groups_of_digits() -> None:
    assert kinds.whole(1000).parse("1_000") == 1000
    for text in ("1__0", "_1", "1_", "٣", "0_0", "1k"):
        with pytest.raises(ValueError, match="is not a whole number from 1 to 1000"):
            kinds.whole(1000).parse(text)


@given(st.decimals(0, 100, allow_nan=False).map(lambda number: f"{number:f}"))
def test_a_percentage_of_bad_rows_is_the_exact_ratio_in_one_spelling(percent: str) -> None:
    limit = ErrorLimits.parse([f"{percent}%"]).limits["all"]
    assert (limit.is_ratio, limit.value) == (True, Fraction(percent) / 100)
    assert ErrorLimits.parse([limit.text]).limits["all"] == limit


@pytest.mark.parametrize("text", ["5%", "5 %", "0.05", ".05", "5e-2"])
def test_every_flag_with_a_share_takes_the_same_spellings(text: str) -> None:
    share = kinds.SHARE.parse(text)
    assert share == 0.05
    assert [kinds.SHARE.parse(written) for written in kinds.SHARE.texts(share)] == [share]
    assert float(ErrorLimits.parse([text]).limits["all"].value) == share


@pytest.mark.parametrize("text", ["0%", "0.0", "5", "1", "101%", "1.5", "-1%", "%", "nan", "inf%", "", "٣%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a share such as 5%, 0.05 or 100%"):
        kinds.SHARE.parse(text)


def test_limits_have_one_spelling() -> None:
    assert ErrorLimits.parse(["5%,null=1%"]).texts() == {"all": "0.05", "null": "0.01"}
    assert ErrorLimits.parse(["100%"]).texts() == {"all": "1.00"}
    assert ErrorLimits.parse(["1_000"]).texts() == {"all": "1000"}
    for text in ("101%", "%", "1_%", "1__0", "5%%", "1_0.5"):
        with pytest.raises(UsageError, match=r"is neither a number of rows nor a ratio from 0.0 to 1.0, or 0% to 100%"):
            ErrorLimits.parse([text])
