"""Real S3 services on the loopback: SeaweedFS as a process, moto in a thread, and a proxy before
either of them that slows, refuses and loses replies."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

BUCKET = "sofs-tests"
READY_S_MAX = 60.0
GRPC_OFFSET = 10_000  # SeaweedFS listens for gRPC that much above each port.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "sofs",
    "AWS_SECRET_ACCESS_KEY": "sofs-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def environment() -> Iterator[None]:
    """The variables by which the driver finds its credentials, for a while."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_ports(n_ports: int) -> list[int]:
    """Ports that are free now, together with the ones GRPC_OFFSET above them."""
    found: list[int] = []
    held: list[socket.socket] = []
    for port in range(20_000 + os.getpid() % 2_000, 50_000):
        try:
            for number in (port, port + GRPC_OFFSET):
                held.append(one := socket.socket())
                one.bind(("127.0.0.1", number))
        except OSError:
            continue
        found.append(port)
        if len(found) == n_ports:
            break
    for each in held:
        each.close()
    return found


def make_bucket(endpoint: str) -> None:
    """Create the bucket, as soon as the service answers, and wait until it takes an object."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("s3", endpoint_url=endpoint)
    end = time.monotonic() + READY_S_MAX
    made = False
    while True:
        try:
            if not made:
                client.create_bucket(Bucket=BUCKET)
                made = True
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
            client.get_object(Bucket=BUCKET, Key="ready")
            client.delete_object(Bucket=BUCKET, Key="ready")
            return
        except (ClientError, BotoCoreError) as error:
            made = made or "BucketAlready" in str(error)
            if time.monotonic() > end:
                raise TimeoutError(f"{endpoint} made no bucket in {READY_S_MAX} s") from error
        time.sleep(0.1)  # Nothing tells when a server of others is ready.


def weed() -> str | None:
    """The SeaweedFS program of this environment, or None."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


# It ends with us, however we end: a test run that is killed leaves no server behind.
BOUND = """
import os, sys
from sofs.actors.procfile import die_with_parent
parent = int(os.environ["SOFS_TEST_PARENT"])
die_with_parent()
if os.getppid() == parent:
    os.execv(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def seaweedfs(folder: Path) -> Iterator[str]:
    """Run SeaweedFS with its data in ``folder``; gives its endpoint."""
    program = weed()
    assert program is not None
    master, volume, filer, s3 = _free_ports(4)
    (logs := folder / "logs").mkdir(exist_ok=True)  # Else they are left in /tmp.
    with (folder / "weed.log").open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-c", BOUND, program, f"-logdir={logs}",
                "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                f"-master.port={master}", "-master.volumeSizeLimitMB=64",
                f"-volume.port={volume}", "-volume.max=20",
                "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0", "-master.telemetry=false",
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "SOFS_TEST_PARENT": str(os.getpid())},
        )  # fmt: skip
        try:
            endpoint = f"http://127.0.0.1:{s3}"
            try:
                make_bucket(endpoint)
            except TimeoutError as error:
                raise TimeoutError((folder / "weed.log").read_text()[-4000:]) from error
            yield endpoint
        finally:
            process.kill()
            process.wait()
            for port in (master, volume, filer, s3):
                for name in (f"*-{port}.sock", f"*-grpc-{port + GRPC_OFFSET}.sock"):
                    for left in Path("/tmp").glob(f"seaweedfs{name}"):
                        left.unlink(missing_ok=True)


@contextmanager
def moto() -> Iterator[str]:
    """Run moto's S3 in a thread; gives its endpoint."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        make_bucket(endpoint)
        yield endpoint
    finally:
        server.stop()


class Proxy:
    """Between a client and an S3 service. ``plan(method, path)`` says what becomes of a request:
    "" (passed on), "lose" (executed, the connection ends without a reply), "drop" (neither),
    "503", "409", or "stall" (executed, and answered when ``go`` is set)."""

    def __init__(self, endpoint: str) -> None:
        self.plan: Callable[[str, str], str] = lambda method, path: ""
        self.seen: list[tuple[str, str, str]] = []  # (method, path, what became of it)
        self.stalled = threading.Event()
        self.go = threading.Event()
        where = urlsplit(endpoint)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                what = proxy.plan(self.command, self.path)
                proxy.seen.append((self.command, self.path, what))
                if what in ("503", "409"):
                    code = {"503": "SlowDown", "409": "ConditionalRequestConflict"}[what]
                    self._answer(int(what), {}, f"<Error><Code>{code}</Code></Error>".encode())
                    return
                if what != "drop":
                    upstream = http.client.HTTPConnection(where.hostname or "", where.port)
                    headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
                    upstream.request(self.command, self.path, body, headers)
                    reply = upstream.getresponse()
                    data = reply.read()
                    upstream.close()
                if what == "stall":
                    proxy.stalled.set()
                    proxy.go.wait(60)
                if what in ("lose", "drop"):
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self._answer(reply.status, dict(reply.getheaders()), data)

            def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                known = headers.get("Content-Length", str(len(data)))
                self.send_header(
                    "Content-Length", known if self.command == "HEAD" else str(len(data))
                )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
