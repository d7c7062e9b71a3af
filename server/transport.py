"""The addresses that a server has, and what gRPC is told of each: TLS, limits of a connection, who is let in."""

import asyncio
from dataclasses import dataclass

import grpc
import grpc.aio

from trapline.credentials import read_authorities, read_pair
from trapline.errors import UsageError

from .addresses import cannot_listen, check_free, joined, split
from .authentication import (
    CLASSIFY_SERVICE,
    HEALTH_SERVICE,
    MODEL_SERVICE,
    REFLECTION_SERVICE,
    RELOAD_MODEL,
    Authentication,
    Tokens,
    access_of,
)
from .config import MIB, ServerConfig
from .gate import Gate
from .interceptors import CallInterceptor
from .metrics import Metrics
from .tracing import Tracing
from .watched import Watched

# Longest time for a TLS handshake and HTTP/2's first frames: who only connects does not stay.
_HANDSHAKE_MS = 20_000


@dataclass(kw_only=True, eq=False)
class Door:
    """One address.

    Attributes:
        flag: The option that names it.
        wanted: HOST:PORT as it was asked for.
        server: gRPC's server of this address alone: an interceptor cannot tell by which port a call came.
        credentials: TLS; None for plain text.
        address: HOST:PORT with the real port, once bound.
    """

    flag: str
    wanted: str
    server: grpc.aio.Server
    credentials: grpc.ServerCredentials | None
    address: str = ""

    def bind(self) -> None:
        """Takes the port.

        Raises:
            UsageError: It cannot be had.
        """
        try:
            if self.credentials is None:
                port = self.server.add_insecure_port(self.wanted)
            else:
                port = self.server.add_secure_port(self.wanted, self.credentials)
        except RuntimeError as error:
            raise UsageError(cannot_listen(self.flag, self.wanted, OSError(0, "refused"))) from error
        self.address = joined(split(self.wanted)[0], port)


class Doors:
    """Every address of one server.

    Args:
        config: Which there are, and how they are guarded.
        gate: Counts the calls under way, whatever address they come by.
        metrics: Where to count.
        tracing: Makes spans; None where that is off.

    Raises:
        UsageError: A file of certificates or tokens cannot be used.

    Attributes:
        main: `--listen`.
        admin: `--admin`; None where it is not asked for.
        health: `--health`; None where it is not asked for.
    """

    def __init__(self, config: ServerConfig, *, gate: Gate, metrics: Metrics, tracing: Tracing | None = None) -> None:
        credentials, tokens = _credentials(config, metrics), Tokens(config, metrics)

        def door(
            flag: str, wanted: str, *services: str, tls: bool = True, elsewhere: frozenset[str] = frozenset()
        ) -> Door:
            calls = CallInterceptor(gate, metrics, tracing, identified=config.tls_client_ca is not None)
            authentication = Authentication(calls, tokens, access=access_of(*services), elsewhere=elsewhere)
            interceptors = [authentication, calls]
            server = grpc.aio.server(interceptors=interceptors, options=_options(config))
            return Door(flag=flag, wanted=wanted, server=server, credentials=credentials if tls else None)

        elsewhere = frozenset({RELOAD_MODEL}) if config.admin else frozenset[str]()
        telling = (HEALTH_SERVICE, MODEL_SERVICE, REFLECTION_SERVICE)
        self.main = door("--listen", config.listen, CLASSIFY_SERVICE, *telling, elsewhere=elsewhere)
        self.admin = door("--admin", config.admin, *telling) if config.admin else None
        # The kubelet's probes speak no TLS.
        self.health = door("--health", config.health, HEALTH_SERVICE, tls=False) if config.health else None
        self.all = [each for each in (self.main, self.admin, self.health) if each is not None]

    async def open(self) -> None:
        """Takes every port, then serves on all.

        Raises:
            UsageError: One cannot be had; none is served on then.
        """
        for door in self.all:
            check_free(door.flag, door.wanted)
        for door in self.all:
            door.bind()
        for door in self.all:
            await door.server.start()

    async def stop(self, grace_seconds: float | None) -> None:
        """Takes no new call, and cuts off what is under way after `grace_seconds`; None is at once."""
        await asyncio.gather(*[door.server.stop(grace_seconds) for door in self.all])


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    options = [
        ("grpc.so_reuseport", 0),  # a port in use is an error, not half of the calls for each program
        ("grpc.max_receive_message_length", config.max_message_mib * MIB),
        ("grpc.max_concurrent_streams", config.max_connection_calls),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        # Finds clients that vanished without a word, and lets clients look after theirs as often.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Who asks more often, or with no call under way, is told to calm down and loses the connection.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
    ]
    if config.connection_age_seconds:
        options += [
            ("grpc.max_connection_age_ms", config.connection_age_seconds * 1000),
            ("grpc.max_connection_age_grace_ms", config.connection_grace_seconds * 1000),
        ]
    return options


def _credentials(config: ServerConfig, metrics: Metrics) -> grpc.ServerCredentials | None:
    """What TLS is spoken with; the files are looked at again at a handshake. None for plain text."""
    certificate, key, client_ca = config.tls_cert, config.tls_key, config.tls_client_ca
    if certificate is None or key is None:
        return None

    def read() -> grpc.ServerCertificateConfiguration:
        chain, private_key = read_pair(certificate, key)
        authorities = read_authorities(client_ca, flag="--tls-client-ca") if client_ca else None
        return grpc.ssl_server_certificate_configuration([(private_key, chain)], authorities)

    paths = [certificate, *([client_ca] if client_ca else []), key]
    files = Watched("certificates", paths, read=read, metrics=metrics)
    return grpc.dynamic_ssl_server_credentials(files.current(), files.current, client_ca is not None)
