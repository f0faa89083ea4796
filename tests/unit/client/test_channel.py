"""Connections to a real gRPC server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from clip_client import ConnectionOptions
from testing.waiting import PATIENCE_S


class Peers(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A server that keeps the addresses it was called from."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> object:  # noqa: N802
        del request
        self.seen.append(context.peer())
        return pb.ServerReadyResponse(ready=True)


def test_each_client_of_a_process_has_its_own_connection() -> None:
    """One that waits to reconnect to a restarted server does not delay another."""
    peers, server = Peers(), grpc.server(ThreadPoolExecutor(2))
    add_GRPCInferenceServiceServicer_to_server(peers, server)
    url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    clients = [ConnectionOptions().open(url) for _ in range(2)]
    for client in (*clients, *clients):
        assert client.ready(PATIENCE_S).ready
    for client in clients:
        client.close()
    server.stop(None).wait()
    assert len(peers.seen) == 4
    assert peers.seen[:2] == peers.seen[2:]
    assert peers.seen[0] != peers.seen[1]
