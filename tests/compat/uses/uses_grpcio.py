"""Real uses of grpcio: a server and a client in one process, and the files that its extension reads."""

import concurrent.futures

import grpc
import grpc.aio
import pytest


class Echo(grpc.GenericRpcHandler):
    """Methods on plain bytes."""

    def service(self, details):
        if details.method == "/echo/Once":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: request[::-1])
        if details.method == "/echo/Many":
            return grpc.unary_stream_rpc_method_handler(lambda request, context: iter([request] * 3))
        if details.method == "/echo/Refuse":

            def refuse(request, context):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "not for you")

            return grpc.unary_unary_rpc_method_handler(refuse)
        return None


@pytest.fixture
def channel():
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=(Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    server.stop(None).wait()


def test_a_call_is_answered(channel):
    assert channel.unary_unary("/echo/Once")(b"abc", timeout=30) == b"cba"


def test_an_answer_streams(channel):
    assert list(channel.unary_stream("/echo/Many")(b"abc", timeout=30)) == [b"abc"] * 3


def test_a_call_is_awaited_in_the_background(channel):
    assert channel.unary_unary("/echo/Once").future(b"xy", timeout=30).result(30) == b"yx"


def test_a_refusal_has_its_status(channel):
    with pytest.raises(grpc.RpcError, match="not for you") as caught:
        channel.unary_unary("/echo/Refuse")(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_an_unknown_method_is_refused(channel):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/echo/Nothing")(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_interceptor_sees_the_call(channel):
    seen = []

    class Watch(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, details, request):
            seen.append(details.method)
            return continuation(details, request)

    grpc.intercept_channel(channel, Watch()).unary_unary("/echo/Once")(b"abc", timeout=30)
    assert seen == ["/echo/Once"]


def test_credentials_come_with_their_roots():
    assert grpc.ssl_channel_credentials() is not None


def test_asyncio_has_its_own_channel():
    import asyncio

    async def state():
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            return channel.get_state()

    assert asyncio.run(state()) is grpc.ChannelConnectivity.IDLE
