"""Makes the rows of each workload: functions from a random generator to lines of JSON.

Except for `houses` and `demo`, rows differ as rows from many writers do: in the spelling of numbers, spaces, the
order of fields, escapes, and length. So a program cannot be tuned to one form of row.
"""

import csv
import json
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.programs import ROOT

NAME = "house-{:08d}"
BOSTON = ROOT / "examples" / "boston"
SPREAD = 0.1
WIDE, HEAVY = 2_000, 256
# Ways to format one value: few and many digits, exponents, and as an integer.
NUMBERS = ("{!r}", "{:.1f}", "{:.4f}", "{:.0f}", "{:.3e}", "{:.2E}", "{:.15g}", "{:.6f}")
SEPARATORS = ((", ", ": "), (",", ":"), (" , ", " : "), (",  ", ":"))
# Contents of JSON strings: with escapes, without, beyond ASCII, beyond 16 bits.
WORDS = (
    "view", "near the station", r"built \"as new\"", r"two\nlines", r"a\tb", "Straße", "東京の家", "maison d'été",
    r"na\u00efve", r"\ud83c\udfe0", "🏡", "100 % cotton", "{braces}", "a, b: c", r"back\\slash", "No Name", "North",
)  # fmt: skip
CITIES = ("Boston", "Köln", "東京", "São Paulo", r"Lule\u00e5", "Winston-Salem", "L'Aquila", "Oslo")
SPOILED = 5  # the number of ways to make a row bad
KINDS = ("flat", "house", "loft", r"\"other\"")
Random = np.random.Generator


def houses(random: Random, first: int, count: int) -> list[str]:
    """Makes rows of Boston houses: their 13 numbers, each changed a little, as `features` beside a `name`."""
    # The text of a list of floats is JSON.
    return [
        f'{{"features": {features}, "name": "{NAME.format(number)}"}}'
        for number, features in enumerate(_near_boston(random, count).tolist(), first)
    ]


def demo(random: Random, first: int, count: int) -> list[str]:
    """Repeats the rows of the example, each with a new name."""
    del random  # these rows are fixed
    lines = [line for path in sorted((BOSTON / "data").iterdir()) for line in path.read_text().splitlines()]
    return [f'{lines[n % len(lines)][:-1]}, "name": "{NAME.format(n)}"}}' for n in range(first, first + count)]


def mixed(random: Random, first: int, count: int) -> list[str]:
    """Makes rows of numbers like those of `houses`, with a few fields that the model does not read."""
    values = _near_boston(random, count) * random.choice([1, 1, 1, -1], (count, 13))
    rows = zip(_lists(random, values), _texts(random, count, 4), strict=True)
    unused = ("true", "null", "-17", "0.5")
    return _lines(
        random,
        first,
        (
            [("features", numbers), ("sold", unused[at % 4]), ("note", note), ("seen", str(at * 7919))]
            for at, (numbers, note) in enumerate(rows)
        ),
    )


def wide(random: Random, first: int, count: int) -> list[str]:
    """Makes rows of 2,000 numbers."""
    values = random.normal(0, 1, (count, WIDE)) * 10.0 ** random.integers(-3, 4, (count, 1))
    return _lines(random, first, ([("sensor", '"b7"'), ("signal", text)] for text in _lists(random, values)))


def text(random: Random, first: int, count: int) -> list[str]:
    """Makes rows of 13 numbers and a text of 10 to 32 KB that the model does not read."""
    rows = zip(_lists(random, _near_boston(random, count)), _texts(random, count, 3_000), strict=True)
    return _lines(random, first, ([("text", long), ("measures", numbers)] for numbers, long in rows))


def strings(random: Random, first: int, count: int) -> list[str]:
    """Makes rows of twelve fields; four numbers and two texts of them feed the model."""
    values = random.normal(50, 30, (count, 4))
    streets, notes = _texts(random, count, 3), _texts(random, count, 12)
    picked = random.integers(0, len(CITIES) * len(KINDS), count).tolist()
    return _lines(random, first, map(_house, _numbers(random, values), streets, notes, picked))


def heavy(random: Random, first: int, count: int) -> list[str]:
    """Makes rows of a few hundred numbers."""
    values = np.round(random.normal(0, 1, (count, HEAVY)), 4)
    return _lines(random, first, ([("x", text)] for text in _lists(random, values)))


def _house(numbers: Sequence[str], street: str, note: str, picked: int) -> list[tuple[str, str]]:
    city, kind = CITIES[picked % len(CITIES)], KINDS[picked % len(KINDS)]
    named = zip(("area", "rooms", "age", "price"), numbers, strict=True)
    return [
        *named, ("city", f'"{city}"'), ("kind", f'"{kind}"'), ("street", street), ("note", note),
        ("größe", "null"), (r"a \"b\"", "[1, 2.5e0, []]"), ("agent", '{"name": "-", "id": 7}'),
    ]  # fmt: skip


def _near_boston(random: Random, count: int) -> npt.NDArray[np.float64]:
    with (BOSTON / "boston_house_prices.csv").open(newline="") as file:
        _, _, *records = csv.reader(file)  # Two lines of head: the size, then the names.
    known = np.array(records, np.float64)[:, :-1]
    spread = random.uniform(1 - SPREAD, 1 + SPREAD, (count, known.shape[1]))
    return np.round(known[random.integers(len(known), size=count)] * spread, 4)


def _numbers(random: Random, values: npt.NDArray[np.float64]) -> Iterable[list[str]]:
    """Formats numbers as text, each in a random spelling."""
    styles = random.integers(0, len(NUMBERS), values.shape).tolist()
    for row, chosen in zip(values.tolist(), styles, strict=True):
        yield [NUMBERS[style].format(value) for style, value in zip(chosen, row, strict=True)]


def _lists(random: Random, values: npt.NDArray[np.float64]) -> Iterable[str]:
    spaces = random.integers(0, 2, len(values)).tolist()
    for row, spaced in zip(_numbers(random, values), spaces, strict=True):
        yield f"[{(', ' if spaced else ',').join(row)}]"


def _texts(random: Random, count: int, longest: int) -> Iterable[str]:
    """Makes JSON strings of `longest // 3` to `longest` words."""
    for size in random.integers(longest // 3, longest, count, endpoint=True).tolist():
        yield f'"{" ".join([WORDS[at] for at in random.integers(0, len(WORDS), size).tolist()])}"'


def _lines(random: Random, first: int, rows: Iterable[list[tuple[str, str]]]) -> list[str]:
    """Formats rows of named values as lines, and puts the row's name at a random place."""
    made = []
    for number, fields in enumerate(rows, first):
        comma, colon = SEPARATORS[number * 7 // 5 % len(SEPARATORS)]
        fields.insert(number // 2 % (len(fields) + 1), ("name", f'"{NAME.format(number)}"'))
        # Three rows of four have the same order of fields.
        turned = int(random.integers(len(fields))) if number % 4 == 3 else 0
        pairs = [f'"{name}"{colon}{value}' for name, value in fields[turned:] + fields[:turned]]
        made.append("{" + comma.join(pairs) + "}")
    return made


def number(name: str) -> int:
    """Returns the number of the row with this name.

    Raises:
        ValueError: No row has this name.
    """
    found = int(name.removeprefix("house-"))
    if NAME.format(found) != name:
        raise ValueError(f"no row is called {name}")
    return found


def spoil(line: str, kind: int) -> str:
    """Makes a row of `mixed` bad, in one of `SPOILED` ways."""
    head, numbers, tail = _around_list(line)
    values = numbers.split(",")
    ways = (
        f'{head}["n/a",{",".join(values[1:])}]{tail}',
        line[: len(line) * 2 // 3],
        line.replace('"features"', '"feature"'),
        f"{head}null{tail}",
        f"{head}[{','.join(values[1:])}]{tail}",
    )
    return ways[kind % SPOILED]


def _around_list(line: str) -> tuple[str, str, str]:
    head, _, rest = line.partition("[")
    numbers, _, tail = rest.partition("]")
    return head, numbers, tail


def example(line: str) -> bytes:
    """Converts a row of numbers and texts to a serialized tf.Example."""
    import tensorflow as tf

    made = tf.train.Example()
    for name, value in json.loads(line).items():
        feature = made.features.feature[name]
        if isinstance(value, str):
            feature.bytes_list.value.append(value.encode())
        else:
            feature.float_list.value.extend(value)
    return made.SerializeToString(deterministic=True)
