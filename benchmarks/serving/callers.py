"""How one photo is asked about, by protocol. Requests are put together once, so that the generator costs little.

A caller's `ask(photo)` gives the index of the best label. gRPC protocols use one channel; HTTP ones aiohttp with
connections kept open.
"""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any, Protocol

MODEL = "bench"
_UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


class Failed(Exception):
    """A call without an answer.

    Attributes:
        code: gRPC's code with Trapline's reason, an HTTP status, or the error's class.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Caller(Protocol):
    """One protocol's way to ask."""

    async def ask(self, photo: int) -> int:
        """The index of the best label.

        Raises:
            Failed: There is no answer.
        """

    async def close(self) -> None:
        """Ends the connections."""


def caller(protocol: str, target: str, photos: list[bytes], *, timeout_seconds: float) -> Caller:
    """The caller for `protocol`: trapline, trapline-stream, oip, http-raw, or http-multipart:FIELD."""
    if protocol == "trapline":
        return _Trapline(target, photos, timeout_seconds)
    if protocol == "trapline-stream":
        return _TraplineStream(target, photos, timeout_seconds)
    if protocol == "oip":
        return _OpenInference(target, photos, timeout_seconds)
    field = protocol.partition(":")[2]
    return _Http(target, [_multipart(field, photo) if field else photo for photo in photos], field, timeout_seconds)


class _Trapline:
    def __init__(self, target: str, photos: list[bytes], timeout_seconds: float) -> None:
        import grpc.aio

        from trapline.v1 import classify_pb2

        self._channel = grpc.aio.insecure_channel(target, options=_UNLIMITED)
        self._requests = [_trapline_request(photo).SerializeToString() for photo in photos]
        self._timeout_seconds = timeout_seconds
        self._call: Any = self._channel.unary_unary(
            "/trapline.v1.ClassifyService/Classify", response_deserializer=classify_pb2.ClassifyResponse.FromString
        )

    async def ask(self, photo: int) -> int:
        import grpc

        try:
            response = await self._call(self._requests[photo], timeout=self._timeout_seconds)
        except grpc.RpcError as error:
            raise Failed(_code(error)) from error
        return int(response.predictions[0].label_index)

    async def close(self) -> None:
        await self._channel.close()


class _TraplineStream:
    """One stream for all; a new one where it ended."""

    def __init__(self, target: str, photos: list[bytes], timeout_seconds: float) -> None:
        import grpc.aio

        from trapline.v1 import classify_pb2

        self._channel = grpc.aio.insecure_channel(target, options=_UNLIMITED)
        self._bodies = [
            classify_pb2.StreamClassifyRequest(request=_trapline_request(photo)).SerializeToString() for photo in photos
        ]
        self._numbers = itertools.count()
        self._head = lambda number: classify_pb2.StreamClassifyRequest(request_id=number).SerializeToString()
        self._timeout_seconds = timeout_seconds
        self._open: Any = self._channel.stream_stream(
            "/trapline.v1.ClassifyService/StreamClassify",
            response_deserializer=classify_pb2.StreamClassifyResponse.FromString,
        )
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[int]] = {}
        self._writing = asyncio.Lock()

    async def ask(self, photo: int) -> int:
        import grpc

        if self._reader is None or self._reader.done():
            self._call = self._open()
            self._reader = asyncio.create_task(self._read())
        number = str(next(self._numbers))
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                async with self._writing:  # gRPC takes one message of a stream at a time
                    # Two serialised parts of a message, one after the other, are that message.
                    await self._call.write(self._head(number) + self._bodies[photo])
                return await answer
        except (TimeoutError, asyncio.InvalidStateError, grpc.RpcError) as error:
            raise Failed(type(error).__name__) from error

    async def _read(self) -> None:
        import grpc

        code = "STREAM_ENDED"
        try:
            async for response in self._call:
                answer = self._waiting.pop(response.request_id)
                if answer.done():
                    continue
                if response.result.HasField("response"):
                    answer.set_result(response.result.response.predictions[0].label_index)
                else:
                    answer.set_exception(Failed(_reason(response.result.error)))
        except grpc.RpcError as error:
            code = _code(error)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Failed(code))
        self._waiting.clear()

    async def close(self) -> None:
        if self._reader is not None:
            self._call.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._channel.close()


class _OpenInference:
    def __init__(self, target: str, photos: list[bytes], timeout_seconds: float) -> None:
        import grpc.aio

        messages: Any = grpc.protos("serving/oip.proto")
        self._channel = grpc.aio.insecure_channel(target, options=_UNLIMITED)
        self._requests = [
            messages.ModelInferRequest(
                model_name=MODEL,
                inputs=[
                    {"name": "image", "datatype": "BYTES", "shape": [1, 1], "contents": {"bytes_contents": [data]}}
                ],
            ).SerializeToString()
            for data in photos
        ]
        self._timeout_seconds = timeout_seconds
        self._call: Any = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            response_deserializer=messages.ModelInferResponse.FromString,
        )

    async def ask(self, photo: int) -> int:
        import grpc

        try:
            response = await self._call(self._requests[photo], timeout=self._timeout_seconds)
        except grpc.RpcError as error:
            raise Failed(error.code().name) from error
        if response.raw_output_contents:
            return int.from_bytes(response.raw_output_contents[0][:8], "little")
        return int(response.outputs[0].contents.int64_contents[0])

    async def close(self) -> None:
        await self._channel.close()


class _Http:
    def __init__(self, target: str, bodies: list[bytes], field: str, timeout_seconds: float) -> None:
        import aiohttp

        kind = f"multipart/form-data; boundary={_BOUNDARY}" if field else "image/jpeg"
        self._bodies, self._target = bodies, target
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"Content-Type": kind},
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        )

    async def ask(self, photo: int) -> int:
        import aiohttp

        try:
            async with self._session.post(self._target, data=self._bodies[photo]) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Failed(type(error).__name__) from error
        if response.status != 200:
            raise Failed(f"HTTP {response.status}")
        said = json.loads(body)
        return int(said["index"] if isinstance(said, dict) else said[0])

    async def close(self) -> None:
        await self._session.close()


_BOUNDARY = "trapline-benchmark-0f2c61"


def _multipart(field: str, photo: bytes) -> bytes:
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + photo + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _trapline_request(photo: bytes) -> Any:  # noqa: ANN401  # the stubs are imported where they are needed
    from trapline.v1 import classify_pb2

    return classify_pb2.ClassifyRequest(model=f"models/{MODEL}", image=photo, top_k=1)


def _code(error: Any) -> str:  # noqa: ANN401  # grpc's errors have no one class with all of it
    from trapline.errors import from_rpc_error

    return _named(from_rpc_error(error))


def _reason(status: Any) -> str:  # noqa: ANN401  # google.rpc.Status has no type hints
    from trapline.errors import from_status

    return _named(from_status(status))


def _named(refusal: Any) -> str:  # noqa: ANN401  # a Refusal, imported where it is needed
    from trapline.v1.error_reason_pb2 import ErrorReason

    reason = f" {ErrorReason.Name(refusal.reason).removeprefix('ERROR_REASON_')}" if refusal.reason else ""
    return f"{refusal.code.name}{reason}"


def read(paths: list[str]) -> list[bytes]:
    """The photos' bytes."""
    return [Path(path).read_bytes() for path in paths]
