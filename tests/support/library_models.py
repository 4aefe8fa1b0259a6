"""Makes models with ops of tensorflow-text and ydf-tf, in another process.

Importing these packages registers their ops for the rest of the process, and other tests need ops that are not
registered. The result of calling each model directly is written beside it.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

VOCABULARY = ["[UNK]", "the", "cat", "##s", "sat", "on", "mat", "un", "##want", "##ed", "ünder"]
TEXTS = ["The cats SAT", "unwanted, on the mat", "", "mat\tmat  ünder 価格", "dog " * 20]
FOREST_ROWS = [
    {"a": number / 8 - 2, "b": number % 7 / 4, "c": ("red", "blue", "unseen")[number % 3]} for number in range(40)
]
# The modules that register the ops of these models.
LIBRARIES = ("tensorflow_text", "ydf_tf")


def _tokenizer(folder: Path) -> dict[str, Any]:
    """A BERT tokenizer with a vocabulary file, and a weighted sum over the tokens."""
    import tensorflow as tf
    import tensorflow_text as text

    vocabulary = folder.with_name("vocabulary.txt")
    vocabulary.write_text("\n".join(VOCABULARY))

    class Tokenizer(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokenizer = text.BertTokenizer(str(vocabulary), lower_case=True, token_out_type=tf.int64)
            self.weights = tf.Variable(tf.linspace(-1.0, 1.0, len(VOCABULARY)))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def __call__(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
            tokens = self.tokenizer.tokenize(text).merge_dims(1, -1)
            known = tf.minimum(tokens, len(VOCABULARY) - 1)
            return {"tokens": tokens.row_lengths(), "score": tf.reduce_sum(tf.gather(self.weights, known), 1)}

    module = Tokenizer()
    tf.saved_model.save(module, str(folder), signatures=module.__call__)
    vocabulary.unlink()
    given = module(tf.constant(TEXTS))
    return {name: values.numpy().tolist() for name, values in given.items()}


def _forest(folder: Path) -> dict[str, Any]:
    """Gradient boosted trees over two numbers and a category."""
    import numpy as np
    import ydf

    generator = np.random.default_rng(0)
    first, second, third = generator.normal(size=(3, 300)).astype("f")
    rows = {"a": first, "b": second, "c": np.where(third > 0, "red", "blue"), "y": 2 * first + second**2 + (third > 0)}
    ydf.verbose(0)
    made = ydf.GradientBoostedTreesLearner(label="y", task=ydf.Task.REGRESSION, num_trees=10).train(rows)
    made.to_tensorflow_saved_model(str(folder), mode="tf")
    columns = {name: np.array([row[name] for row in FOREST_ROWS]) for name in "abc"}
    return {"output": made.predict(columns).tolist()}


def main(folder: Path) -> None:
    """Makes the models `tokenizer` and `forest` in a folder, and `ops.json`, which maps a module to its ops."""
    import importlib

    import tensorflow  # noqa: F401

    from transforms.saved_model.libraries import _ops

    registered = {}
    for name in LIBRARIES:
        before = _ops()
        importlib.import_module(name)
        registered[name] = sorted(_ops() - before)
    (folder / "ops.json").write_text(json.dumps(registered))
    for name, make in (("tokenizer", _tokenizer), ("forest", _forest)):
        (folder / f"{name}.json").write_text(json.dumps(make(folder / name)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
