"""Export: a receiver of OTLP gets the spans of rings, each once, the killed ones among them."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2,
    trace_service_pb2_grpc,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from ring_rig import killed_writer

import sofs
from sofs.cli.main import main
from sofs.client import runtime
from sofs.core.spans import RingView, assemble
from sofs.core.trace import SpanKind
from sofs.ports.trace import NO_RECORDER
from sofs.telemetry import export
from sofs.telemetry.export import MARK_FILE, Exporter, grpc_sender
from sofs.telemetry.otlp import to_json
from sofs.telemetry.ring import RingRecorder, open_ring, read_rings
from sofs.testing import LocalCluster

WAIT_S_MAX = 60.0


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self.lock = threading.Lock()

    def Export(
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: grpc.ServicerContext,
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self.lock:
            for resource in request.resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self.spans += [(names["service.instance.id"], span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        with self.lock:
            return [span for _, span in self.spans if span.name == name]


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    found = Receiver()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(found, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield found, f"http://127.0.0.1:{port}"
    server.stop(0).wait()


def ring_here(folder: Path) -> RingRecorder:
    recorder = open_ring(folder, "here", "node", 1)
    assert isinstance(recorder, RingRecorder)
    return recorder


def test_a_receiver_gets_each_span_once_with_parent_and_link(
    tmp_path: Path, receiver: tuple[Receiver, str]
) -> None:
    got, url = receiver
    recorder = ring_here(tmp_path)
    operation = recorder.begin(SpanKind.CLIENT, operation="Write", handle=7, offset=4096)
    served = recorder.begin(SpanKind.NODE, operation, "Write")
    batch = recorder.begin(SpanKind.BATCH)
    recorder.end(batch)
    recorder.end(served, link=batch)
    recorder.end(operation, number=3, length=512)
    still_open = recorder.begin(SpanKind.CLIENT, operation="Read")
    exporter = Exporter([tmp_path], grpc_sender(url), tmp_path / MARK_FILE)
    assert exporter.poll(time.time_ns(), hold_ns=0) == 3
    assert exporter.poll(time.time_ns(), hold_ns=0) == 0
    recorder.whole(SpanKind.NODE, still_open, "Read", 7, 4096, recorder.now(), 512)
    recorder.end(still_open)
    assert exporter.poll(time.time_ns(), hold_ns=0) == 2
    again = Exporter([tmp_path], grpc_sender(url), tmp_path / MARK_FILE)
    assert again.poll(time.time_ns(), hold_ns=0) == 0
    asked, answered = got.named("Read")
    assert answered.parent_span_id == asked.span_id == still_open[16:]
    assert asked.start_time_unix_nano <= answered.start_time_unix_nano
    assert answered.end_time_unix_nano <= asked.end_time_unix_nano
    client, server = got.named("Write")
    assert client.trace_id == server.trace_id == operation[:16]
    assert server.parent_span_id == client.span_id == operation[16:]
    assert [link.span_id for link in server.links] == [batch[16:]]
    assert client.kind == Span.SPAN_KIND_CLIENT
    values = {a.key: a.value.int_value for a in client.attributes}
    assert (values["sofs.handle"], values["sofs.offset"], values["sofs.length"]) == (7, 4096, 512)
    assert got.named("batch")[0].trace_id == operation[:16]  # Adopted by who waited for it.


def test_a_receiver_is_told_what_was_killed(tmp_path: Path, receiver: tuple[Receiver, str]) -> None:
    got, url = receiver
    killed_writer(tmp_path)
    exporter = Exporter([tmp_path], grpc_sender(url))
    assert exporter.poll(time.time_ns(), hold_ns=0) > 0
    killed = got.named("Write")[-1]
    assert killed.status.code == Status.STATUS_CODE_ERROR
    assert killed.status.message == "killed with its process"
    assert any(a.key == "sofs.killed" and a.value.bool_value for a in killed.attributes)
    assert exporter.poll(time.time_ns(), hold_ns=0) == 0


def test_what_a_receiver_did_not_take_is_sent_again(tmp_path: Path) -> None:
    recorder = ring_here(tmp_path)
    recorder.end(recorder.begin(SpanKind.CLIENT))
    answers = [False, True]
    sizes: list[int] = []

    def send(spans: object) -> bool:
        sizes.append(len(spans))  # type: ignore[arg-type]
        return answers.pop(0)

    exporter = Exporter([tmp_path], send)
    assert exporter.poll(time.time_ns(), hold_ns=0) == 0
    assert exporter.poll(time.time_ns(), hold_ns=0) == 1
    assert sizes == [1, 1]


def test_a_receiver_that_stays_away_costs_no_more_memory_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "HELD_MAX", 5)
    recorder = ring_here(tmp_path)
    answers = [False, True]
    exporter = Exporter([tmp_path], lambda spans: answers.pop(0))
    for _ in range(20):
        recorder.end(recorder.begin(SpanKind.CLIENT))
    assert exporter.poll(time.time_ns(), hold_ns=0) == 0
    assert exporter.poll(time.time_ns(), hold_ns=0) == 5


def test_what_ended_just_now_is_held_until_its_trace_is_known(tmp_path: Path) -> None:
    recorder = ring_here(tmp_path)
    recorder.end(recorder.begin(SpanKind.CLIENT))
    exporter = Exporter([tmp_path], lambda spans: True)
    assert exporter.poll(time.time_ns()) == 0
    assert exporter.poll(time.time_ns() + 3_000_000_000) == 1


def test_the_json_form_is_what_protobuf_reads_as_a_request(tmp_path: Path) -> None:
    killed_writer(tmp_path)
    spans = assemble(RingView(r.contents, r.alive) for r in read_rings(tmp_path))
    text = to_json(spans)
    for resource in text["resourceSpans"]:  # Protobuf's own JSON has ids in base64, OTLP in hex.
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                assert len(bytes.fromhex(span["traceId"])) == 16
                assert len(bytes.fromhex(span["spanId"])) == 8
                del span["traceId"], span["spanId"]
                span.pop("parentSpanId", None)
                span.pop("links", None)
    request = trace_service_pb2.ExportTraceServiceRequest()
    json_format.ParseDict(text, request)
    assert len(request.resource_spans[0].scope_spans[0].spans) == len(spans)


def test_parts_export_by_themselves_when_the_environment_names_a_receiver(
    tmp_path: Path,
    receiver: tuple[Receiver, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    got, url = receiver
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(runtime, "_recorder", (0, NO_RECORDER))
    with LocalCluster(tmp_path / "root", nodes=1, run_dir=tmp_path / "run") as cluster:
        with sofs.connect(cluster.url, credential=cluster.credential) as share:
            share.mkdir("/folder")
            deadline = time.monotonic() + WAIT_S_MAX
            while len(got.named("Mkdir")) < 3:
                assert time.monotonic() < deadline, cluster.last_words()
                time.sleep(0.1)
        assert main(["trace", "export", "--run-dir", str(cluster.run_dir)]) == 0
        assert json.loads(capsys.readouterr().out)["resourceSpans"]
    spans = got.named("Mkdir")
    assert len({span.trace_id for span in spans}) == 1
    assert len({span.span_id for span in spans}) == 3  # Client, node, authority.
    runtime._recorder[1].close()
    assert os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] == url
