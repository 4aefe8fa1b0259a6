"""A stand-in for the Dataflow service: serves its REST API on the loopback interface, and holds jobs in memory.

    api = DataflowApi()
    with api.serving() as url:  # http://localhost:PORT, for --dataflow_endpoint
        …
        api.set_counters(job.id, rows_read=10)
        api.add_message(job.id, "all workers are busy")
        api.end(job.id)

The test decides what a job does: the service calls `api.run` with each new job, in a thread. The job succeeds if that
call returns, and fails if it raises.
Requests are parsed with the messages of Google's own client library, which refuse unknown fields.
https://cloud.google.com/dataflow/docs/reference/rest
"""

import contextlib
import datetime
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from google.cloud import dataflow

State = dataflow.JobState
ENDED = (State.JOB_STATE_DONE, State.JOB_STATE_FAILED, State.JOB_STATE_CANCELLED, State.JOB_STATE_DRAINED)
SEVERITIES = dataflow.JobMessageImportance
STARTED = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)


class Request(NamedTuple):
    """A request that the API received.

    Attributes:
        method: HTTP method.
        path: Decoded path, with the query string.
        body: The JSON object; empty if the request has none.
    """

    method: str
    path: str
    body: dict[str, Any]


class ApiError(Exception):
    """An error response: HTTP status, the API's name of the status, and a message."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(message)
        self.status, self.name = status, name


class DataflowApi:
    """The service.

    Attributes:
        run: What a new job does. If it returns, the job is done; if it raises, the job fails with that message. With
            None, the job runs until the test ends it.
        hold_seconds: How long GetJob waits for the job to end before it responds, so that a client that polls need not
            sleep.
        jobs: Job id -> job, in the order of their creation.
        launches: Bodies of the requests to `flexTemplates:launch`.
        requests: All requests.
        refuse: Returns the error to respond with to a request, or None.
    """

    def __init__(self, run: Callable[[dataflow.Job], None] | None = None, hold_seconds: float = 0) -> None:
        self.run, self.hold_seconds = run, hold_seconds
        self.jobs: dict[str, dataflow.Job] = {}
        self.launches: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.refuse: Callable[[Request], ApiError | None] = lambda _: None
        self.messages: dict[str, list[dataflow.JobMessage]] = {}
        self.counters: dict[str, dict[tuple[str, str], int]] = {}
        self.changed = threading.Condition(threading.RLock())
        self._tick = 0

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Serves the API until the context ends; yields its address."""
        server = http.server.ThreadingHTTPServer(("localhost", 0), handler(self))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()

    def named(self, name: str) -> dataflow.Job:
        """The newest job of this name."""
        return [job for job in self.jobs.values() if job.name == name][-1]

    def create(self, job: dataflow.Job) -> dataflow.Job:
        """Starts a new job. If a job of the same name runs in the same region, returns that one instead."""
        with self.changed:
            for other in self._running(job.name, job.location):
                return other
            job.id = f"2026-01-31_04_00_00-{len(self.jobs) + 1:019d}"
            job.create_time = self._now()
            self.jobs[job.id] = job
            self.messages[job.id], self.counters[job.id] = [], {}
            self.set_state(job.id, State.JOB_STATE_RUNNING)
        if self.run is not None:
            threading.Thread(target=self._run, args=(self.run, job), daemon=True).start()
        return job

    def start(self, template: bytes, name: str, location: str) -> dataflow.Job:
        """Starts a job from a classic template. A template can be started any number of times, under any name."""
        job = dataflow.Job.from_json(template.decode())
        job.name, job.location = name, location
        return self.create(job)

    def _running(self, name: str, location: str) -> list[dataflow.Job]:
        """The running jobs of this name in this region. The service allows one at a time."""
        named = [job for job in self.jobs.values() if (job.name, job.location) == (name, location)]
        return [job for job in named if job.current_state not in ENDED]

    def _run(self, run: Callable[[dataflow.Job], None], job: dataflow.Job) -> None:
        try:
            run(job)
        except Exception as error:  # noqa: BLE001  whatever it is, the job has failed of it
            self.fail(job.id, str(error) or repr(error))
        else:
            self.end(job.id)

    def set_state(self, job_id: str, state: State) -> None:
        """Sets the state of a job; a job that has ended keeps its state."""
        with self.changed:
            job = self.jobs[job_id]
            if job.current_state not in ENDED:
                job.current_state, job.current_state_time = state, self._now()
            self.changed.notify_all()

    def end(self, job_id: str) -> None:
        self.set_state(job_id, State.JOB_STATE_DONE)

    def fail(self, job_id: str, message: str) -> None:
        self.add_message(job_id, message, SEVERITIES.JOB_MESSAGE_ERROR)
        self.set_state(job_id, State.JOB_STATE_FAILED)

    def add_message(self, job_id: str, text: str, importance: Any = SEVERITIES.JOB_MESSAGE_BASIC) -> None:
        """Adds a message to a job's log."""
        with self.changed:
            said = self.messages[job_id]
            made = dataflow.JobMessage(id=f"{len(said):020x}", message_text=text, message_importance=importance)
            made.time = self._now()
            said.append(made)

    def set_counters(self, job_id: str, namespace: str = "ledger", step: str = "s1", **values: int) -> None:
        """Sets counters of a job, for one step."""
        with self.changed:
            self.counters[job_id].update({(f"{namespace}/{name}", step): value for name, value in values.items()})

    def wait(self, job_id: str, seconds: float = 300) -> dataflow.Job:
        """Waits until a job ends, for at most `seconds`; returns the job."""
        with self.changed:
            self.changed.wait_for(lambda: self.jobs[job_id].current_state in ENDED, timeout=seconds)
            return self.jobs[job_id]

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Returns the status and body of the response to a request, for REST and gRPC alike."""
        request = Request(method, urllib.parse.unquote(path), json.loads(body or b"{}"))
        with self.changed:
            self.requests.append(request)
        try:
            refused = self.refuse(request)
            if refused:
                raise refused
            return 200, self._answer(request).encode()
        except ApiError as error:
            error_body = {"code": error.status, "message": str(error), "status": error.name}
            return error.status, json.dumps({"error": error_body}).encode()

    def _answer(self, request: Request) -> str:
        bare, _, query = request.path.partition("?")
        found = re.fullmatch(r"/v1b3/projects/[^/]+(?:/locations/([^/]+))?/(jobs|flexTemplates)([:/].*)?", bare)
        if not found:
            raise ApiError(404, "NOT_FOUND", f"no such method: {request.method} {bare}")
        location, kind, rest = found[1] or "", found[2], found[3] or ""
        given = dict(urllib.parse.parse_qsl(query))
        if (request.method, kind, rest) == ("POST", "flexTemplates", ":launch"):
            return self._launch(request.body, location)
        if (request.method, kind, rest) == ("POST", "jobs", ""):
            job = dataflow.Job.from_json(json.dumps(request.body))
            job.location = location
            return _json(self.create(job))
        if kind == "jobs" and request.method == "GET" and rest in ("", ":aggregated"):
            return self._list(given, location)
        job_id, _, part = rest.removeprefix("/").partition("/")
        if kind != "jobs" or job_id not in self.jobs:
            raise ApiError(404, "NOT_FOUND", f"(f00): Information about job {job_id} could not be found in our system.")
        if request.method == "PUT" and not part:
            return self._update(job_id, dataflow.Job.from_json(json.dumps(request.body)))
        parts = {"": self._get, "messages": self._list_messages, "metrics": self._metrics}
        if request.method != "GET" or part not in parts:
            raise ApiError(404, "NOT_FOUND", f"no such method: {request.method} {bare}")
        return parts[part](job_id)

    def _launch(self, body: dict[str, Any], location: str) -> str:
        dataflow.LaunchFlexTemplateRequest.from_json(json.dumps(body))  # an unknown field raises
        given = body["launchParameter"]
        with self.changed:
            self.launches.append(body)
            running = self._running(given["jobName"], location)
        if running:
            raise ApiError(
                409,
                "ALREADY_EXISTS",
                f"There is already an active job named {given['jobName']}. If you want to submit a second job, "
                "try again by setting a different name.",
            )
        job = dataflow.Job(name=given["jobName"], type_=dataflow.JobType.JOB_TYPE_BATCH, location=location)
        return _json(dataflow.LaunchFlexTemplateResponse(job=self.create(job)))

    def _get(self, job_id: str) -> str:
        return _json(self.wait(job_id, self.hold_seconds))

    def _list(self, given: dict[str, str], location: str) -> str:
        wanted = {"1": None, "2": True, "3": False, "ALL": None, "TERMINATED": True, "ACTIVE": False}
        ended = wanted.get(given.get("filter", "ALL"))
        with self.changed:
            found = [
                job
                for job in self.jobs.values()
                if job.location in (location, "") or not location
                if ended in (None, job.current_state in ENDED)
                if given.get("name", job.name) == job.name
            ]
            return _json(dataflow.ListJobsResponse(jobs=found))

    def _update(self, job_id: str, given: dataflow.Job) -> str:
        if given.requested_state:
            self.set_state(job_id, given.requested_state)
        return self._get(job_id)

    def _list_messages(self, job_id: str) -> str:
        with self.changed:
            return _json(dataflow.ListJobMessagesResponse(job_messages=self.messages[job_id]))

    def _metrics(self, job_id: str) -> str:
        with self.changed:
            updates = [
                {"name": {"origin": "user", "name": name.partition("/")[2], "context": context}, "scalar": value}
                for (name, step), value in self.counters[job_id].items()
                for context in (
                    {"namespace": name.partition("/")[0], "step": step},
                    {"namespace": name.partition("/")[0], "step": step, "tentative": "true"},
                )
            ]
        return json.dumps({"metricTime": _text(STARTED), "metrics": updates})

    def _now(self) -> datetime.datetime:
        """A time later than all earlier ones."""
        self._tick += 1
        return STARTED + datetime.timedelta(milliseconds=self._tick)


def _json(message: Any) -> str:
    """A message as the REST API writes it: with the names of states and kinds, not their numbers."""
    text: str = type(message).to_json(message, use_integers_for_enums=False)
    return text


def _text(moment: datetime.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def handler(api: DataflowApi) -> type[http.server.BaseHTTPRequestHandler]:
    """Makes the class that serves the API's responses over HTTP."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # buffered: a header in a packet of its own would wait for the acknowledgement of the one before

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = api.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _serve  # noqa: N815  the names that the server looks for

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
