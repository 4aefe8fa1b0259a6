"""Makes awkward JSON lines from a seed: unusual spellings, invalid rows, and lines that are no rows."""

import json
import random

SPACES = ("", " ", "\t", "  ")
NUMBERS = ("0", "-0.0", "1", "-2.5", "1e3", "1E-2", "0.1", "16777217", "3.0000000000000001", "1e38", "666")
WRONG = (
    '"x"', "null", "[1, 2]", "[1, 2, 3, 4]", '[1, "2", 3]', "[1, null, 3]", "[[1], 2, 3]", "{}", "1", "true",
    "[1, 2, 1e400]", "[1, 2, NaN]", "[1, 2, 03]",
)  # fmt: skip
TEXTS = ("", "a", "é", "日本", "\\u00e9", '\\"', "}", "{", "[", ",", "\\\\", "NaN", "\\ud83d\\ude00", "prediction")
BROKEN = (b"{", b"}", b"[1]", b"7", b"null", b'{"x": [1, 2, 3]', b'{"x": [1, 2, 3]}}', b'{"x": [1,2,3]} {"x": [4,5,6]}',
          b'{"x": [1, 2, 3], "n": "\xff"}', b"nothing", b'{"x": [1, 2, 3],}', b'{"x" [1, 2, 3]}')  # fmt: skip


def line(chosen: random.Random) -> bytes:
    """One line, without its line end."""
    kind = chosen.random()
    if kind < 0.04:
        return chosen.choice((b"", b" ", b"\t ", b"\r"))
    if kind < 0.10:
        return chosen.choice(BROKEN)
    space = chosen.choice(SPACES)
    x = f"[{f',{space}'.join(chosen.choice(NUMBERS) for _ in range(3))}]"
    if kind < 0.18:
        x = chosen.choice(WRONG)
    fields = [("x", x), ("id", str(chosen.randrange(10**9)))]
    if chosen.random() < 0.5:
        fields.append((chosen.choice(("n", "ä", "x.y", "X")), f'"{chosen.choice(TEXTS)}"'))
    if chosen.random() < 0.05:
        fields.append(chosen.choice((("prediction", "1"), ("x", "[1, 2, 3]"))))
    if chosen.random() < 0.05:
        fields = [field for field in fields if field[0] != "x"]
    chosen.shuffle(fields)
    names = [(json.dumps(name, ensure_ascii=chosen.random() < 0.5), value) for name, value in fields]
    body = f",{space}".join(f"{name}{space}:{space}{value}" for name, value in names)
    return f"{space}{{{space}{body}{space}}}{chosen.choice(SPACES)}".encode()


def source(chosen: random.Random, count: int) -> bytes:
    """A source with this number of lines."""
    end = chosen.choice((b"\n", b"\r\n"))
    text = end.join(line(chosen) for _ in range(count))
    return text + end * (chosen.random() < 0.7)
