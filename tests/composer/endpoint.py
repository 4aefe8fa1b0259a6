"""Serves the Dataflow API on this machine at the address where Google's clients look for it.

Airflow's hooks have no setting for an endpoint, so their requests keep the real address. A proxy on the loopback
interface answers them, and forwards nothing to any other host. Its certificate comes from an authority made for this
test. Only a process with the variables of `environment` trusts that authority.
"""

import concurrent.futures
import contextlib
import datetime
import http.server
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.cloud import dataflow

from tests.cloud.dataflow_api import DataflowApi, handler

HOST = "dataflow.googleapis.com"
CODES = {403: grpc.StatusCode.PERMISSION_DENIED, 404: grpc.StatusCode.NOT_FOUND}


@contextlib.contextmanager
def serving(api: DataflowApi, folder: Path) -> Iterator[dict[str, str]]:
    """Serves until the context ends; yields the variables that direct a process here.

    Args:
        api: Answers both REST and gRPC.
        folder: Folder for the certificates.
    """
    authority, key, certificate = _certificates(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(_grpc(api, key.read_bytes(), certificate.read_bytes()))
        rest = stack.enter_context(_proxy(_answering(api, context)))
        tunnel = stack.enter_context(_proxy(_tunnel(port)))
        yield {
            "https_proxy": rest,
            "grpc_proxy": tunnel,
            "no_proxy": "localhost",
            "HTTPLIB2_CA_CERTS": str(authority),
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(authority),
        }


@contextlib.contextmanager
def _proxy(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Connect(http.server.BaseHTTPRequestHandler):
    """A proxy that accepts connections to one host only, and answers in its place."""

    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        if self.path != f"{HOST}:443":
            self.send_error(403, f"not {HOST}")
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        self.connected()

    def connected(self) -> None:
        raise NotImplementedError

    def log_message(self, *_: Any) -> None:
        pass


def _answering(api: DataflowApi, context: ssl.SSLContext) -> type[_Connect]:
    class Handler(_Connect, handler(api)):  # type: ignore[misc]  # a class that was just made
        def connected(self) -> None:
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
            self.close_connection = False

    return Handler


def _tunnel(port: int) -> type[_Connect]:
    class Handler(_Connect):
        def connected(self) -> None:
            with socket.create_connection(("localhost", port)) as there:
                ways = {self.connection: there, there: self.connection}
                while True:
                    for ready in select.select(list(ways), [], [])[0]:
                        data = ready.recv(1 << 16)
                        if not data:
                            self.close_connection = True
                            return
                        ways[ready].sendall(data)

    return Handler


@contextlib.contextmanager
def _grpc(api: DataflowApi, key: bytes, certificate: bytes) -> Iterator[int]:
    """Serves GetJob, the one method that an Airflow trigger calls; yields its port."""

    def get_job(request: dataflow.GetJobRequest, context: grpc.ServicerContext) -> dataflow.Job:
        path = f"/v1b3/projects/{request.project_id}/locations/{request.location}/jobs/{request.job_id}"
        status, content = api.answer("GET", path, b"")
        if status != 200:
            context.abort(CODES[status], content.decode())
        return dataflow.Job.from_json(content)

    method = grpc.unary_unary_rpc_method_handler(
        get_job, request_deserializer=dataflow.GetJobRequest.deserialize, response_serializer=dataflow.Job.serialize
    )
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    name = "google.dataflow.v1beta3.JobsV1Beta3"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"GetJob": method}),))
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def _certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Makes an authority's certificate, a key, and HOST's certificate for that key."""
    own, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "for one test")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])

    def sign(name: x509.Name, public: Any, extension: x509.ExtensionType, *, critical: bool) -> bytes:
        now = datetime.datetime.now(datetime.timezone.utc)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical)
            .sign(own, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    paths = folder / "authority.pem", folder / "key.pem", folder / "certificate.pem"
    paths[0].write_bytes(sign(issuer, own.public_key(), x509.BasicConstraints(ca=True, path_length=0), critical=True))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    names = x509.SubjectAlternativeName([x509.DNSName(HOST)])
    paths[2].write_bytes(sign(subject, key.public_key(), names, critical=False))
    return paths
