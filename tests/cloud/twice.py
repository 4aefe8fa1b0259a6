"""Reruns bundles of a step, as Dataflow does when it loses a worker, or seems to lose one. Prism never does so."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apache_beam as beam
from apache_beam.internal import cloudpickle, pickler
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue


class Again(beam.DoFn):
    """Runs each bundle of a step three times: two attempts at the same time, then a third whose outputs count."""

    def __init__(self, step: beam.DoFn) -> None:
        self.attempts = [step, pickler.loads(pickler.dumps(step))]

    def setup(self) -> None:
        for attempt in self.attempts:
            attempt.setup()

    def start_bundle(self) -> None:
        self.elements: list[Any] = []

    def process(self, element: Any) -> None:
        self.elements.append(element)

    def finish_bundle(self) -> Iterator[Any]:
        with ThreadPoolExecutor() as threads:
            list(threads.map(self._attempt, self.attempts))
        yield from self._attempt(self.attempts[0])

    def _attempt(self, step: beam.DoFn) -> list[Any]:
        step.start_bundle()
        made = [_windowed(output) for element in self.elements for output in step.process(element) or ()]
        return made + list(step.finish_bundle() or ())

    def teardown(self) -> None:
        for attempt in self.attempts:
            attempt.teardown()


def _windowed(output: Any) -> Any:
    if isinstance(output, TaggedOutput):
        return TaggedOutput(output.tag, _windowed(output.value))
    return output if isinstance(output, WindowedValue) else GlobalWindows.windowed_value(output)


def send_along() -> None:
    """Pickles this module by value, because workers do not have the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
