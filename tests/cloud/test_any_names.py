"""Any text works as a name on Dataflow, too: in storage, in the submitted graph, and on workers."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.cloud.stand_ins import Cloud
from tests.cloud.test_run_dataflow import cloud, stand_ins
from tests.conftest import Result
from tests.end_to_end.test_odd_names import FIELD, OTHER, OUTPUT, PREFIX, SIGNATURE, named
from tests.support.store import BUCKET

__all__ = ("cloud", "stand_ins")


def test_on_dataflow(cloud: Cloud, keyjoin: Callable[..., Result], tmp_path: Path) -> None:
    model = Path(named(tmp_path / "model", FIELD, key=OTHER))
    for path in filter(Path.is_file, model.rglob("*")):
        cloud.store.put(f"josé=, 'm' 🎈/{path.relative_to(model)}", path.read_bytes())
    rows = [{FIELD: at, "ïd": f"é{at}"} for at in range(5)]
    cloud.store.put("ein gäbe/dät, =ei 🎈.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    flags = (
        f"--input=gs://{BUCKET}/ein gäbe/",
        f"--model=gs://{BUCKET}/josé=, 'm' 🎈",
        f"--output=gs://{BUCKET}/aus é 🎈",
    )
    names = (f"--signature={SIGNATURE}", f"--key_input={OTHER}", f"--prediction_prefix={PREFIX}")
    done = keyjoin("run", *flags, *names, *cloud.flags)
    assert done.code == 0, done.err
    (part,) = (text for name, text in cloud.store.objects("aus é 🎈/").items() if name.endswith("of-00001.jsonl"))
    assert [json.loads(line)[PREFIX + OUTPUT] for line in part.splitlines()] == [2.0 * at for at in range(5)]
