"""An object store that misbehaves: an emulator of Google Cloud Storage, with faults injected before and behind it.

It listens on the loopback interface only. It also stands for the metadata service that Google's client asks for
credentials, so nothing outside of this machine is looked for.
"""

import contextlib
import http.server
import io
import json
import logging
import re
import socket
import struct
import sys
import threading
import time
import types
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from apache_beam.internal.gcp import auth
from apache_beam.io.gcp import gcsio
from google.auth.compute_engine import _metadata

BUCKET = "bucket"
# Before the store has seen a request; after it has carried it out; while its answer is on the way.
REFUSED = ("429", "500", "503", "reset")
LOST = "lost"
CUT, SLOW = "cut", "slow"


class Request(NamedTuple):
    """What the proxy was asked.

    Attributes:
        method: Of HTTP.
        name: What it is about: an object's name, or the path of the request.
        kind: What is wanted: `upload`, `begin` (of an upload), `read`, `list`, `look`, `delete`, `batch` or `other`.
    """

    method: str
    name: str
    kind: str


Plan = Callable[[Request, int], str | None]  # a request and how often it was asked before -> a fault


class Store:
    """The running store.

    Attributes:
        plan: Which faults are injected.
        faults: Those that were, by their kind and the request's.
        requests: All requests.
        address: Where it listens, as STORAGE_EMULATOR_HOST has it.
    """

    def __init__(self) -> None:
        from gcp_storage_emulator.handlers import buckets
        from gcp_storage_emulator.storage import Storage

        self.plan: Plan = lambda *_: None
        self.faults: Counter[tuple[str, str]] = Counter()
        self.requests: list[Request] = []
        self.storage = Storage(use_memory_fs=True)
        buckets.create_bucket(BUCKET, self.storage)
        self.lock = threading.RLock()
        self._asked: Counter[Request] = Counter()
        self._server = _Server(("localhost", 0), _handler(self))
        self.address = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def inject(self, plan: Plan | None) -> None:
        """From now on this plan counts, and requests are counted anew."""
        with self.lock:
            self.plan = plan or (lambda *_: None)
            self._asked.clear()
            self.faults.clear()
            self.requests.clear()

    def fault_of(self, request: Request) -> str | None:
        with self.lock:
            before = self._asked[request]
            self._asked[request] += 1
            self.requests.append(request)
            fault = self.plan(request, before)
            if fault:
                self.faults[fault, request.kind] += 1
            return fault

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """What it holds; no request, so nothing is injected."""
        with self.lock:
            names = [item["name"] for item in self.storage.get_file_list(BUCKET, prefix)[0]]
            return {name.removeprefix(prefix): self.storage.get_file(BUCKET, name) for name in sorted(names)}

    def put(self, name: str, data: bytes) -> str:
        """Writes an object behind everybody's back, and returns its path."""
        from gcp_storage_emulator.handlers import objects

        with self.lock:
            made = objects._make_object_resource(self.address, BUCKET, name, "application/octet-stream", str(len(data)))
            self.storage.create_file(BUCKET, name, data, objects._checksums(data, made))
        return f"gs://{BUCKET}/{name}"

    def clear(self) -> None:
        with self.lock:
            self.storage.wipe(keep_buckets=True)


def once(*faults: str, kinds: Sequence[str] = ("upload", "begin", "read", "list", "look", "delete", "batch")) -> Plan:
    """The first time, the second time … that a request comes it meets these faults; then it is answered."""

    def plan(request: Request, before: int) -> str | None:
        return faults[before] if request.kind in kinds and before < len(faults) else None

    return plan


def turns(faults: Sequence[str], seed: int) -> Plan:
    """Each request meets one of these faults at its first time; which, differs from request to request."""

    def plan(request: Request, before: int) -> str | None:
        if before or request.kind == "other":
            return None
        return faults[(sum(request.name.encode()) + len(request.kind) + seed) % len(faults)]

    return plan


def request_of(method: str, path: str, headers: Any, body: bytes = b"") -> Request:
    """What a request is about.

    >>> request_of("GET", "/storage/v1/b/bucket/o/a%2Fb.jsonl?alt=json", {})
    Request(method='GET', name='a%2Fb.jsonl', kind='look')
    """
    bare, _, query = path.partition("?")
    name = re.sub(r".*/b/[^/]+/o/?", "", bare)
    given = re.search(r"(?:^|&)(?:name|prefix|upload_id)=([^&]*)", query)
    if "/upload/" in bare:
        kind = "upload" if "upload_id=" in query or "uploadType=multipart" in query else "begin"
        # Who begins an upload says in the body what of.
        given = given or re.search('"name": ?"([^"]+)"', body.decode("latin-1"))
        return Request(method, (given[1] if given else "") + headers.get("Content-Range", ""), kind)
    if "/batch/" in bare:
        return Request(method, bare, "batch")
    if "/download/" in bare or "alt=media" in query:
        return Request(method, name + headers.get("Range", ""), "read")
    if bare.endswith("/o"):
        return Request(method, given[1] if given else "", "list")
    if "/o/" in bare:
        return Request(method, name, "delete" if method == "DELETE" else "look")
    return Request(method, bare, "other")


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *client: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # who asked was killed
            super().handle_error(*client)


def _handler(store: Store) -> type[http.server.BaseHTTPRequestHandler]:
    from gcp_storage_emulator.server import RequestHandler, Router

    class Handler(RequestHandler):  # type: ignore[misc]
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # a header in a packet of its own would wait for the acknowledgement of the one before

        def __init__(self, *args: Any) -> None:
            super().__init__(store.storage, *args)

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "Metadata-Flavor" in self.headers:
                self._metadata()
                return
            fault = store.fault_of(request_of(self.command, self.path, self.headers, body))
            if fault == "reset":
                self._reset()
            elif fault in REFUSED:
                self._send(int(fault), [("Content-Type", "application/json")], b'{"error": {"message": "injected"}}')
            else:
                answer = self._emulated(body)
                if fault == LOST:
                    self._reset()
                else:
                    self._pass_on(answer, fault)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer  # noqa: N815  the names that the server looks for

        def _emulated(self, body: bytes) -> bytes:
            """The emulator's answer, head and all."""
            kept = self.rfile, self.wfile
            self.rfile, self.wfile = io.BytesIO(body), io.BytesIO()
            try:
                with store.lock:
                    if self._is_refused(body):
                        self._send(412, [], b"")
                    elif self._is_gone():
                        self._send(404, [], b"")
                    else:
                        Router(self).handle(self.command)
                return self.wfile.getvalue()
            finally:
                self.rfile, self.wfile = kept

        def _is_gone(self) -> bool:
            """Whether a generation is asked for that is not there any more: the emulator gives the newest."""
            asked = re.search(r"[?&]generation=(\d+)", self.path)
            return self.command == "GET" and asked is not None and self._generation() != asked[1]

        def _generation(self, body: bytes = b"") -> str:
            """That of the object which a request is about; 0 if there is none."""
            named = re.search(rb'"name": "([^"]+)"', body)
            name = named[1].decode() if named else urllib.parse.unquote(self.path.partition("/o/")[2].partition("?")[0])
            there = {item["name"]: item["generation"] for item in store.storage.get_file_list(BUCKET, name)[0]}
            return str(there.get(name, "0"))

        def _is_refused(self, body: bytes) -> bool:
            """Whether an object is not of the generation that is asked for: the emulator does not look at it."""
            asked = re.search(r"[?&]ifGenerationMatch=(\d+)", self.path)
            return asked is not None and self._generation(body) != asked[1]

        def _pass_on(self, answer: bytes, fault: str | None) -> None:
            head = answer.index(b"\r\n\r\n") + 4
            size = len(answer) - head
            if fault == CUT and size > 1:
                self.wfile.write(answer[: head + size // 2])
                self.wfile.flush()
                self._reset()
            elif fault == SLOW:
                for at in range(0, len(answer), 1 + len(answer) // 20):
                    self.wfile.write(answer[at : at + 1 + len(answer) // 20])
                    self.wfile.flush()
                    threading.Event().wait(0.001)
            else:
                self.wfile.write(answer)

        def _metadata(self) -> None:
            """Credentials of a machine, as Google's library looks for them."""
            answers: dict[str, Any] = {
                "token": {"access_token": "none", "expires_in": 3600, "token_type": "Bearer"},
                "default": {"email": "default", "scopes": ["https://www.googleapis.com/auth/cloud-platform"]},
            }
            asked = self.path.partition("?")[0].rstrip("/").rpartition("/")[2]
            flavor = [("Metadata-Flavor", "Google"), ("Content-Type", "application/json")]
            status = 404 if asked == "universe-domain" else 200  # Google's own is the default
            self._send(status, flavor, json.dumps(answers.get(asked, answers["default"])).encode())

        def _send(self, status: int, headers: Any, content: bytes) -> None:
            self.send_response(status)
            for name, value in (*headers, ("Content-Length", str(len(content)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _reset(self) -> None:
            # Closed with data of ours unsent and no time to linger: the other side gets a RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
            self.close_connection = True
            self.connection.close()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextlib.contextmanager
def running(patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store, which this process and those that it starts take for Google Cloud Storage."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    logging.getLogger("api.object").setLevel(logging.CRITICAL)
    store = Store()
    try:
        patch.setenv("STORAGE_EMULATOR_HOST", store.address)
        for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"):
            patch.setenv(name, store.address.removeprefix("http://"))
        # Read when it was imported, which may have been for an earlier store.
        patch.setattr(_metadata, "_GCE_METADATA_HOST", store.address.removeprefix("http://"))
        patch.setattr(auth._Credentials, "_credentials_init", False)
        # Beam makes a client for each operation, which takes longer than the operation here.
        create, made = gcsio.create_storage_client, []
        patch.setattr(gcsio, "create_storage_client", lambda *given: (made or made.append(create(*given)) or made)[0])
        _without_waiting(patch)
        yield store
    finally:
        store.close()
        socket.setdefaulttimeout(None)  # Beam sets one


def _without_waiting(patch: pytest.MonkeyPatch) -> None:
    """Has the client's retries take no time, though it believes that they do: it gives up as it would after minutes."""
    from google.api_core.retry import retry_base, retry_unary

    waited = [0.0]

    def sleep(seconds: float) -> None:
        waited[0] += seconds

    clock = types.SimpleNamespace(sleep=sleep, monotonic=lambda: time.monotonic() + waited[0])
    for module in (retry_base, retry_unary):
        patch.setattr(module, "time", clock)
