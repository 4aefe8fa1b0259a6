"""Imports TensorFlow and Beam and loads the model: the start-up cost of any program that uses both."""

import argparse

import apache_beam as beam
import tensorflow as tf


def main() -> None:
    """Loads the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    loaded = tf.saved_model.load(parser.parse_args().model)
    if "serving_default" not in loaded.signatures or not beam.__version__:
        raise ValueError("the model has no signature to call")


if __name__ == "__main__":
    main()
