"""What is submitted to Dataflow has all that the command asked for, and nothing of the machine that sends it."""

import getpass
import json
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from apache_beam.portability import common_urns
from google.cloud import dataflow

from tests.cloud import staged
from tests.cloud.rehearsed import CLOUD_FLAGS, IMAGE, Place, command, fill
from tests.cloud.stand_ins import PROJECT, REGION, Cloud
from tests.conftest import ROOT
from tests.support.store import BUCKET

SECRET = "a-token-that-nobody-may-see"  # noqa: S105  it is none
HINT = "type:nvidia-l4;count:1"
GROUP = common_urns.primitives.GROUP_BY_KEY.urn
ACCELERATOR = common_urns.resource_hints.ACCELERATOR.urn


class Sent(NamedTuple):
    """A submitted job.

    Attributes:
        job: The job as the service parsed it.
        body: Body of the request that created it.
        pipeline: The staged pipeline.
        files: All staged files, by name.
    """

    job: dataflow.Job
    body: dict[str, Any]
    pipeline: Any
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def sent(cloud: Cloud, place: Place, expected: dict[str, bytes]) -> Sent:
    """A job that was submitted, and that no worker runs."""
    assert expected  # the fixture has written the model
    fill(cloud, place)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GOOGLE_API_KEY", "KEYJOIN_PASSWORD"):
            patch.setenv(name, SECRET)
        flags = [*place.flags(place.there), *cloud.flags, *CLOUD_FLAGS, f"--accelerator={HINT}", "--detach"]
        done = command("run", *flags)
    assert done.code == 0, done.err
    (job,) = cloud.api.jobs.values()
    (body,) = (request.body for request in cloud.api.requests if request.method == "POST")
    return Sent(job, body, staged.read_pipeline(cloud.store, job), cloud.store.objects("staging/"))


def test_the_image_is_the_one_that_was_given(sent: Sent) -> None:
    (pool,) = sent.job.environment.worker_pools
    assert {image.container_image for image in pool.sdk_harness_container_images} == {IMAGE}
    assert staged.images(sent.pipeline) == {IMAGE}


def test_options_and_labels_arrive(sent: Sent) -> None:
    options = staged.options_of(sent.job)
    given = {"runner": "DataflowRunner", "project": PROJECT, "region": REGION, "sdk_container_image": IMAGE}
    assert {name: options.get(name) for name in given} == given
    assert options["temp_location"].startswith(f"gs://{BUCKET}/scratch/")
    assert options["pickle_library"] == "cloudpickle"
    assert not options["save_main_session"]  # all code is imported from the image
    assert {"team": "x", "stage": "rehearsal"}.items() <= dict(sent.job.labels).items()


def test_only_prediction_asks_for_an_accelerator(sent: Sent) -> None:
    environments = sent.pipeline.components.environments
    steps = staged.steps(sent.pipeline, common_urns.primitives.PAR_DO.urn)
    hinted = {
        name: environments[step.environment_id].resource_hints[ACCELERATOR]
        for name, step in steps.items()
        if ACCELERATOR in environments[step.environment_id].resource_hints
    }
    assert "Predict/RunInference/BeamML_RunInference" in hinted
    assert set(hinted.values()) == {f"{HINT};machine_type:g2-standard-4".encode()}
    assert not [name for name in hinted if not name.startswith("Predict/")]


def test_the_image_holds_all_code_so_only_the_pipeline_is_staged(sent: Sent) -> None:
    assert [name.rpartition("/")[2] for name in sent.files] == ["pipeline.pb"]
    assert not list(staged.artifacts(sent.pipeline))


def test_rows_are_joined_by_one_group(sent: Sent) -> None:
    groups = staged.steps(sent.pipeline, GROUP)
    assert [name for name in groups if "CoGroupByKey" in name] == [
        "JoinPredictions/CoGroupByKey/CoGroupByKeyImpl/GroupByKey"
    ]
    others = {name.partition("/")[0] for name in groups if "CoGroupByKey" not in name}
    # The other groups hold sources, chunks, receipts, and steps that happen once a run; no rows.
    assert others == {"ClaimRun", "SpreadSources", "SpreadChunks", "WriteReceipts", "CommitRun"}


def test_nothing_of_this_machine_is_in_it(sent: Sent, place: Place) -> None:
    texts = [json.dumps(sent.body).encode(), staged.unpacked(sent.pipeline), *sent.files.values()]
    ours = [SECRET, str(ROOT), str(ROOT.resolve()), sys.prefix, str(Path(sys.prefix).resolve()), str(Path.home())]
    ours += [str(place.here), str(place.here.parent)]
    # Only long names: a short one may be a common word that occurs by chance.
    ours += [name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 8]
    assert b"RunInference" in texts[1]
    assert not {name for name in ours if any(name.encode() in text for text in texts)}
