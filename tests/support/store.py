"""A faulty object store: an emulator of Google Cloud Storage, with faults injected before and after its answers.

It listens on the loopback interface only. It also answers as the metadata service that Google's client asks for
credentials, so no request leaves this machine.
"""

import contextlib
import functools
import gzip
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
from apache_beam.options.pipeline_options import PipelineOptions
from google.auth.compute_engine import _metadata

BUCKET = "bucket"
# Faults before the store gets a request; after it has carried the request out; while it sends the answer.
REFUSED = ("429", "500", "503", "reset")
LOST = "lost"
CUT, SLOW = "cut", "slow"


class Request(NamedTuple):
    """A request to the store.

    Attributes:
        method: The HTTP method.
        name: The name of the object, or the path of the request.
        kind: `upload`, `begin` (of an upload), `read`, `list`, `look` (get metadata), `delete`, `batch` or `other`.
    """

    method: str
    name: str
    kind: str


Plan = Callable[[Request, int], str | None]  # from a request, and how often it was sent before, to a fault or None


class Store:
    """The running store.

    Attributes:
        plan: The faults to inject.
        faults: The number of injected faults, by the kinds of fault and request.
        requests: All requests.
        address: The store's URL, in the form of STORAGE_EMULATOR_HOST.
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
        self._seen: Counter[Request] = Counter()
        self._server = _Server(("localhost", 0), _handler(self))
        self.address = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def inject(self, plan: Plan | None) -> None:
        """Replaces the plan, and resets the counts of requests and faults."""
        with self.lock:
            self.plan = plan or (lambda *_: None)
            self._seen.clear()
            self.faults.clear()
            self.requests.clear()

    def fault_of(self, request: Request) -> str | None:
        with self.lock:
            before = self._seen[request]
            self._seen[request] += 1
            self.requests.append(request)
            fault = self.plan(request, before)
            if fault:
                self.faults[fault, request.kind] += 1
            return fault

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Returns the objects below a prefix, without a request, so without faults."""
        with self.lock:
            names = [item["name"] for item in self.storage.get_file_list(BUCKET, prefix)[0]]
            return {name.removeprefix(prefix): self.storage.get_file(BUCKET, name) for name in sorted(names)}

    def put(self, name: str, data: bytes, encoding: str | None = None) -> str:
        """Writes an object directly, without a request, and returns its path.

        Args:
            name: Name of the object.
            data: Its bytes, as stored.
            encoding: Its Content-Encoding.
        """
        from gcp_storage_emulator.handlers import objects

        with self.lock:
            made = objects._make_object_resource(self.address, BUCKET, name, "application/octet-stream", str(len(data)))
            made["contentEncoding"] = encoding
            self.storage.create_file(BUCKET, name, data, objects._checksums(data, made))
        return f"gs://{BUCKET}/{name}"

    def clear(self) -> None:
        with self.lock:
            self.storage.wipe(keep_buckets=True)


def once(*faults: str, kinds: Sequence[str] = ("upload", "begin", "read", "list", "look", "delete", "batch")) -> Plan:
    """Injects these faults, in order, the first times that a request comes; then the request gets its answer."""

    def plan(request: Request, before: int) -> str | None:
        return faults[before] if request.kind in kinds and before < len(faults) else None

    return plan


def turns(faults: Sequence[str], seed: int) -> Plan:
    """Injects one of these faults the first time that a request comes; the fault depends on the request's name."""

    def plan(request: Request, before: int) -> str | None:
        if before or request.kind == "other":
            return None
        return faults[(sum(request.name.encode()) + len(request.kind) + seed) % len(faults)]

    return plan


def request_of(method: str, path: str, headers: Any, body: bytes = b"") -> Request:
    """Classifies a request.

    >>> request_of("GET", "/storage/v1/b/bucket/o/a%2Fb.jsonl?alt=json", {})
    Request(method='GET', name='a%2Fb.jsonl', kind='look')
    """
    bare, _, query = path.partition("?")
    name = re.sub(r".*/b/[^/]+/o/?", "", bare)
    given = re.search(r"(?:^|&)(?:name|prefix|upload_id)=([^&]*)", query)
    if "/upload/" in bare:
        kind = "upload" if "upload_id=" in query or "uploadType=multipart" in query else "begin"
        # The request that begins an upload has the object's name in its body.
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
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client was killed
            super().handle_error(*client)


def _handler(store: Store) -> type[http.server.BaseHTTPRequestHandler]:
    from gcp_storage_emulator.server import RequestHandler, Router

    class Handler(RequestHandler):  # type: ignore[misc]
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        # Buffers the header, because a separate packet would wait for the acknowledgement of the one before.
        wbufsize = -1

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
            """Returns the emulator's answer, with its header."""
            kept = self.rfile, self.wfile
            self.rfile, self.wfile = io.BytesIO(body), io.BytesIO()
            try:
                with store.lock:
                    if self._is_refused(body):
                        self._send(412, [], b"")
                    elif self._is_stale():
                        self._send(404, [], b"")
                    else:
                        Router(self).handle(self.command)
                return self._transcoded(self.wfile.getvalue())
            finally:
                self.rfile, self.wfile = kept

        def _transcoded(self, answer: bytes) -> bytes:
            """Sends a gzip object as the service does: https://cloud.google.com/storage/docs/transcoding."""
            request = request_of(self.command, self.path, self.headers)
            name = urllib.parse.unquote(self.path.partition("/o/")[2].partition("?")[0])
            listed = store.storage.get_file_list(BUCKET, name)[0] if request.kind == "read" else []
            if not any(item["name"] == name and item.get("contentEncoding") == "gzip" for item in listed):
                return answer
            head, _, stored = answer.partition(b"\r\n\r\n")
            if "gzip" in self.headers.get("Accept-Encoding", ""):
                return head + b"\r\nContent-Encoding: gzip\r\n\r\n" + stored
            # Without a length, and whatever range was asked for.
            return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + gzip.decompress(stored)

        def _is_stale(self) -> bool:
            """Returns whether the requested generation no longer exists; the emulator itself returns the newest one."""
            wanted = re.search(r"[?&]generation=(\d+)", self.path)
            return self.command == "GET" and wanted is not None and self._generation() != wanted[1]

        def _generation(self, body: bytes = b"") -> str:
            """Returns the generation of the requested object; 0 if there is none."""
            named = re.search(rb'"name": "([^"]+)"', body)
            name = named[1].decode() if named else urllib.parse.unquote(self.path.partition("/o/")[2].partition("?")[0])
            there = {item["name"]: item["generation"] for item in store.storage.get_file_list(BUCKET, name)[0]}
            return str(there.get(name, "0"))

        def _is_refused(self, body: bytes) -> bool:
            """Returns whether ifGenerationMatch fails; the emulator does not check it."""
            wanted = re.search(r"[?&]ifGenerationMatch=(\d+)", self.path)
            return wanted is not None and self._generation(body) != wanted[1]

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
            """Answers with credentials, as the metadata service of a Google machine does."""
            answers: dict[str, Any] = {
                "token": {"access_token": "none", "expires_in": 3600, "token_type": "Bearer"},
                "default": {"email": "default", "scopes": ["https://www.googleapis.com/auth/cloud-platform"]},
            }
            wanted = self.path.partition("?")[0].rstrip("/").rpartition("/")[2]
            flavor = [("Metadata-Flavor", "Google"), ("Content-Type", "application/json")]
            status = 404 if wanted == "universe-domain" else 200  # the client then uses Google's own domain
            self._send(status, flavor, json.dumps(answers.get(wanted, answers["default"])).encode())

        def _send(self, status: int, headers: Any, content: bytes) -> None:
            self.send_response(status)
            for name, value in (*headers, ("Content-Length", str(len(content)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _reset(self) -> None:
            # Closing with unsent data and a linger time of 0 sends an RST to the client.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
            self.close_connection = True
            self.connection.close()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def variables(store: Store) -> dict[str, str]:
    """The variables that direct a process to a store."""
    host = store.address.removeprefix("http://")
    metadata = dict.fromkeys(("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"), host)
    return {"STORAGE_EMULATOR_HOST": store.address, **metadata}


@contextlib.contextmanager
def running(patch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Runs a store that this process and its children use as Google Cloud Storage."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    logging.getLogger("api.object").setLevel(logging.CRITICAL)
    store = Store()
    try:
        for name, value in variables(store).items():
            patch.setenv(name, value)
        # The client read this at import, perhaps while an earlier store was running.
        patch.setattr(_metadata, "_GCE_METADATA_HOST", store.address.removeprefix("http://"))
        patch.setattr(auth._Credentials, "_credentials_init", False)
        # Beam makes a client for each operation; here, making one takes longer than the operation.
        create = gcsio.create_storage_client

        @functools.cache
        def client() -> Any:
            made = create(PipelineOptions())
            made._http.hooks["response"].append(_read_refusal)
            return made

        patch.setattr(gcsio, "create_storage_client", lambda *_: client())
        _without_waiting(patch)
        yield store
    finally:
        store.close()
        socket.setdefaulttimeout(None)  # undoes Beam's setting


def _read_refusal(answer: Any, **_: Any) -> None:
    """Reads an answer that refuses a request. Google's client retries a download without that, and its socket stays."""
    if not answer.ok:
        _ = answer.content


def _without_waiting(patch: pytest.MonkeyPatch) -> None:
    """Replaces the clock of the client's retries: they take no time, but it gives up as it would after minutes."""
    from google.api_core.retry import retry_base, retry_unary

    waited = [0.0]

    def sleep(seconds: float) -> None:
        waited[0] += seconds

    clock = types.SimpleNamespace(sleep=sleep, monotonic=lambda: time.monotonic() + waited[0])
    for module in (retry_base, retry_unary):
        patch.setattr(module, "time", clock)
