"""Servers of one client whose settings differ, or change while one is away. Simulated."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import pytest
from tritonclient.grpc import model_config_pb2

from clip_client import AsyncClipClient, ClipClient, ItemError, ServerMismatch, ServerUnavailable
from clip_client.client import BaseClient
from clip_client.requests.drivers import run
from clip_client.requests.failures import Failure
from clip_client.requests.retry import RetryEngine
from clip_client.requests.servers import Servers
from tests.unit.client.servers import REFUSED, Failed, FakeTransport, stub


class Configured(FakeTransport):
    """A server whose model has these parameters; None if it is down."""

    def __init__(self, **parameters: str) -> None:
        super().__init__(lambda _: None if self.parameters is not None else REFUSED)
        self.parameters: dict[str, str] | None = parameters
        self.asked = 0

    def config(self, model: str, timeout_s: float) -> Any:
        self.asked += 1
        if self.parameters is None:
            raise Failed(REFUSED)
        response = super().config(model, timeout_s)
        for key, value in self.parameters.items():
            response.config.parameters[key].CopyFrom(model_config_pb2.ModelParameter(string_value=value))
        return response


def engine_of(*transports: FakeTransport) -> RetryEngine:
    servers = Servers(dict(zip("abc", transports, strict=False)), 4)
    return RetryEngine(servers, 5.0, threading.Event)


def test_servers_that_differ_are_refused_by_name_and_setting() -> None:
    engine = engine_of(Configured(weights_sha256="1", quality="high"), Configured(weights_sha256="2"))
    with pytest.raises(ServerMismatch, match=r"servers at a and b differ: .*quality high .*\(not set\)"):
        run(engine.model_info("clip_image", 5.0))
    for own in ("niceness", "threads", "encoder_version", "reference_embedding"):
        alike = engine_of(Configured(quality="high", **{own: "1"}), Configured(quality="high", **{own: "2"}))
        assert run(alike.model_info("clip_image", 5.0)).parameters[own] == "1"


def test_a_server_that_is_down_at_the_start_is_compared_before_it_is_used() -> None:
    up, down = Configured(quality="high"), Configured(quality="high")
    down.parameters = None
    engine = engine_of(up, down)
    info = run(engine.model_info("clip_image", 5.0))
    assert [status.is_compared for status in engine.servers.statuses()] == [True, False]
    assert run(engine.request(info, [b"photo"])).outcomes[0].shape == (2,)  # type: ignore[union-attr]
    down.parameters = {"quality": "exact"}
    engine.servers.all[1].rests_until = float("-inf")
    engine.servers.all[0].rests_until = float("inf")
    with pytest.raises(ServerMismatch, match="servers at a and b differ"):
        run(engine.request(info, [b"photo"]))


def test_a_server_that_was_away_is_compared_again() -> None:
    one, two = Configured(quality="high"), Configured(quality="high")
    engine = engine_of(one, two)
    info = run(engine.model_info("clip_image", 5.0))
    one.parameters, two.parameters = None, {"quality": "high"}
    run(engine.request(info, [b"photo"]))
    assert not engine.servers.statuses()[0].is_compared
    asked = one.asked
    one.parameters = {"quality": "high"}
    engine.servers.all[0].rests_until = float("-inf")
    engine.servers.all[1].rests_until = float("inf")
    run(engine.request(info, [b"photo"]))
    assert one.asked == asked + 1
    assert engine.servers.statuses()[0].answered == 1


def test_the_only_server_is_compared_with_itself_after_it_was_away() -> None:
    server = Configured(weights_sha256="1")
    engine = engine_of(server)
    info = run(engine.model_info("clip_image", 5.0))
    run(engine.request(info, [b"photo"]))
    asked, server.parameters = server.asked, None
    restart = threading.Timer(0.3, lambda: setattr(server, "parameters", {"weights_sha256": "2"}))
    restart.start()
    with pytest.raises(
        ServerMismatch, match="the server at a has changed since it was first used: clip_image"
    ):
        run(engine.request(info, [b"photo"]))
    assert server.asked > asked
    server.parameters = {"weights_sha256": "1"}
    assert run(engine.request(info, [b"photo"])).outcomes[0].shape == (2,)  # type: ignore[union-attr]


def test_a_photo_that_kills_a_process_is_blamed_although_only_a_comparison_sees_the_restart() -> None:
    class Supervised(Configured):
        is_restarting = False

        def config(self, model: str, timeout_s: float) -> Any:
            was_restarting, self.is_restarting = self.is_restarting, False
            if was_restarting:
                raise Failed(REFUSED)
            return super().config(model, timeout_s)

        def infer(self, request: bytes, timeout_s: float) -> Any:
            del request, timeout_s
            self.is_restarting = True
            raise Failed(stub(0))

    engine = engine_of(Supervised())
    info = run(engine.model_info("clip_image", 5.0))
    (error,) = run(engine.request(info, [b"photo"])).outcomes
    assert isinstance(error, ItemError)
    assert error.code == "request_failed"


def test_a_server_without_the_model_is_refused() -> None:
    class Without(Configured):
        def config(self, model: str, timeout_s: float) -> Any:
            del model, timeout_s
            raise Failed(Failure(grpc.StatusCode.NOT_FOUND, "unknown model"))

    with pytest.raises(ServerMismatch, match="the server at b does not serve clip_image"):
        run(engine_of(Configured(), Without()).model_info("clip_image", 5.0))


def test_no_server_at_all_is_an_error_at_once_that_names_one() -> None:
    down = Configured()
    down.parameters = None
    with pytest.raises(ServerUnavailable, match="cannot connect to a: nothing listens there"):
        run(engine_of(down, down).model_info("clip_image", 5.0))


def test_both_clients_take_one_or_more_addresses() -> None:
    def check(kind: type[BaseClient]) -> BaseClient:
        with pytest.raises(ValueError, match="at least one address"):
            kind([])
        with pytest.raises(ServerUnavailable, match="x has no port"):
            kind(["127.0.0.1:1", "x"])
        with pytest.raises(ValueError, match="single url"):
            kind(["a:1", "b:1"], transport=FakeTransport(lambda _: None))
        client = kind(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"], concurrency=3)
        assert client.url == "127.0.0.1:1, 127.0.0.1:2"
        found = [(each.url, each.in_flight_limit) for each in client.servers]
        assert found == [("127.0.0.1:1", 3), ("127.0.0.1:2", 3)]
        return client

    async def check_async() -> None:  # gRPC's channels belong to a loop
        client = check(AsyncClipClient)
        assert isinstance(client, AsyncClipClient)
        await client.close()

    client = check(ClipClient)
    assert isinstance(client, ClipClient)
    client.close()
    asyncio.run(check_async())
