"""Makes this folder anew from boston_house_prices.csv: the data, the trained model, and the keyed model.

    python examples/boston/make.py

The seed is fixed: the same versions on the same kind of processor give the same data and the same keyed
model, byte for byte, and a model.keras with the same weights (it holds the time at which it was saved).
"""

import csv
import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).resolve().parent
SEED = 113  # Keras's own for this data: with it, the test rows begin with the tutorial's ten.
TEST_SPLIT = 0.2


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The whole table: features (506, 13) and prices (506,)."""
    with path.open(newline="") as file:
        _, _, *records = csv.reader(file)  # Two lines of head: the size, then the names.
    table = np.array(records, dtype=np.float64)
    return table[:, :-1], table[:, -1]


def split(features: np.ndarray, prices: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Training and test rows, as keras.datasets.boston_housing.load_data() shuffles and cuts them."""
    order = np.random.RandomState(SEED).permutation(len(features))
    cut = int(len(order) * (1 - TEST_SPLIT))
    return tuple((features[part], prices[part]) for part in (order[:cut], order[cut:]))


def check_against_tutorial(features: np.ndarray) -> None:
    """Raises unless the first test rows are those that the tutorial prints."""
    with (FOLDER / "tutorial.jsonl").open() as file:
        printed = [json.loads(line)["features"] for line in file]
    if features[: len(printed)].tolist() != printed:
        raise ValueError("the test split does not begin with the rows of tutorial.jsonl")


def write_rows(features: np.ndarray, folder: Path) -> None:
    """Writes the rows as JSON Lines without keys, in two files."""
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(np.array_split(features, 2), start=1):
        lines = [json.dumps({"features": row}) + "\n" for row in part.tolist()]
        (folder / f"part-{number}.jsonl").write_text("".join(lines))


def write_csv(path: Path) -> None:
    """Writes the same rows as CSV: the 13 columns of the table, as it spells them, without the price."""
    with (FOLDER / "boston_house_prices.csv").open(newline="") as file:
        _, head, *records = csv.reader(file)
    order = np.random.RandomState(SEED).permutation(len(records))
    tested = order[int(len(order) * (1 - TEST_SPLIT)) :]
    lines = [head, *(records[row] for row in tested)]
    path.write_text("".join(",".join(cells[:-1]) + "\n" for cells in lines))


def train(features: np.ndarray, prices: np.ndarray) -> keras.Model:
    """The model of Keras's example for this data, with the normalization inside."""
    keras.utils.set_random_seed(SEED)
    normalize = keras.layers.Normalization()
    normalize.adapt(features)
    inputs = keras.Input((features.shape[1],), name="features")
    hidden = keras.layers.Dense(64, activation="relu")(normalize(inputs))
    hidden = keras.layers.Dense(64, activation="relu")(hidden)
    outputs = keras.layers.Dense(1, name="prediction")(hidden)
    trained = keras.Model(inputs, outputs)
    trained.compile(optimizer="adam", loss="mse")
    trained.fit(features, prices, epochs=100, batch_size=16, verbose=0)
    # A model that was never compiled has no optimizer to be saved, which would be twice its own size.
    return keras.Model(inputs, outputs, name="boston")


def save_with_key(model: keras.Model, folder: Path) -> None:
    """Saves the model in the tutorial's second style: a function that passes the key through."""
    width = model.input_shape[-1]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, width], tf.float32, name="features"),
            tf.TensorSpec([None], tf.int32, name="key"),
        ]
    )
    def add_key(features: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"prediction": model(features, training=False), "key": key}

    keyed = tf.Module()
    # The module keeps the variables alone: with the whole Keras model the files would be larger.
    keyed.weights = [variable.value for variable in model.variables]
    keyed.add_key = add_key
    tf.saved_model.save(keyed, str(folder), signatures={"serving_default": add_key})


def main() -> None:
    """Makes everything and prints how good the model is."""
    training, test = split(*load(FOLDER / "boston_house_prices.csv"))
    check_against_tutorial(test[0])
    write_rows(test[0], FOLDER / "data")
    write_csv(FOLDER / "houses.csv")
    model = train(*training)
    model.save(FOLDER / "model.keras")
    save_with_key(model, FOLDER / "model")
    error = np.abs(model.predict(test[0], verbose=0)[:, 0] - test[1]).mean()
    print(f"{len(training[0])} training rows, {len(test[0])} test rows, mean absolute error {error:.2f}")


if __name__ == "__main__":
    main()
