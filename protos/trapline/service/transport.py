"""The addresses that a program has, and what each is told: services, TLS, limits of a connection, who is let in."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from trapline.credentials import read_authorities, read_pair
from trapline.errors import UsageError

from .addresses import cannot_listen, check_free, joined, split
from .authentication import HEALTH_SERVICE, REFLECTION_SERVICE, Access, Authentication, Tokens
from .calls import Call
from .gate import Gate
from .health import HealthServicer
from .interceptors import CallInterceptor
from .metrics import ServiceMetrics
from .options import ServiceOptions
from .tracing import Tracing
from .watched import Watched
from .wire import Find

# Longest time for a TLS handshake and HTTP/2's first frames: who only connects does not stay.
_HANDSHAKE_MS = 20_000


@dataclass(kw_only=True, eq=False)
class Door:
    """One address.

    Attributes:
        flag: The option that names it.
        wanted: HOST:PORT as it was asked for.
        services: Full names of those that it has.
        server: gRPC's server of this address alone: an interceptor cannot tell by which port a call came.
        credentials: TLS; None for plain text.
        address: HOST:PORT with the real port, once bound.
    """

    flag: str
    wanted: str
    services: tuple[str, ...]
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
    """Every address of one program.

    Args:
        options: Which there are, and how they are guarded.
        access: Every method of the program by its full name, with who may call it; `authentication.TELLING` among them.
        admin_services: Those of its services that `--admin` has, too, and whose admins' methods are then only there.
        max_message_bytes: Largest request.
        gate: Counts the calls under way, whatever address they come by.
        metrics: Where to count.
        tracing: Makes spans; None where that is off.
        call_kind: What a call takes note of.
        before_reading: What may refuse a call before its request is read; see `CallInterceptor`.

    Raises:
        UsageError: A file of certificates or tokens cannot be used.

    Attributes:
        main: `--listen`, which has every service.
        admin: `--admin`; None where it is not asked for.
        health: `--health`, which has health alone; None where it is not asked for.
        all: Those that there are.
    """

    def __init__(
        self,
        options: ServiceOptions,
        *,
        access: Mapping[str, Access],
        max_message_bytes: int,
        gate: Gate,
        metrics: ServiceMetrics,
        admin_services: Sequence[str] = (),
        tracing: Tracing | None = None,
        call_kind: type[Call] = Call,
        before_reading: Mapping[str, Find] | None = None,
    ) -> None:
        credentials, tokens = _credentials(options, metrics), Tokens(options, metrics)
        limits = [("grpc.max_receive_message_length", max_message_bytes), *_limits(options)]

        def door(flag: str, wanted: str, services: Sequence[str], elsewhere: frozenset[str] = frozenset()) -> Door:
            part = {method: who for method, who in access.items() if _service(method) in services}
            authentication = Authentication(tokens, access=part, elsewhere=elsewhere)
            calls = CallInterceptor(
                authentication,
                gate=gate,
                metrics=metrics,
                tracing=tracing,
                call_kind=call_kind,
                before_reading=before_reading,
                identified=options.tls_client_ca is not None,
            )
            return Door(
                flag=flag,
                wanted=wanted,
                services=tuple(services),
                server=grpc.aio.server(interceptors=[calls], options=limits),
                # The kubelet's probes speak no TLS.
                credentials=None if flag == "--health" else credentials,
            )

        every = list(dict.fromkeys(_service(method) for method in access))
        telling = [HEALTH_SERVICE, REFLECTION_SERVICE]
        admins = {
            method for method, who in access.items() if who is Access.ADMIN and _service(method) in admin_services
        }
        self._reflected = options.reflection
        self.main = door("--listen", options.listen, every, frozenset(admins) if options.admin else frozenset())
        self.admin = door("--admin", options.admin, [*telling, *admin_services]) if options.admin else None
        self.health = door("--health", options.health, [HEALTH_SERVICE]) if options.health else None
        self.all = [each for each in (self.main, self.admin, self.health) if each is not None]

    def add(self, health_servicer: HealthServicer, services: Mapping[str, Callable[[grpc.aio.Server], None]]) -> None:
        """Gives each address its services, before it opens; where `--reflection` is on it tells which they are.

        Args:
            health_servicer: What answers `grpc.health.v1`.
            services: What adds each of the program's own services to a server of gRPC, by its full name.
        """
        for door in self.all:
            health_pb2_grpc.add_HealthServicer_to_server(health_servicer, door.server)
            for name in door.services:
                if name in services:
                    services[name](door.server)
            if self._reflected and REFLECTION_SERVICE in door.services:
                reflection.enable_server_reflection(door.services, door.server)

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


def _limits(options: ServiceOptions) -> list[tuple[str, int]]:
    limits = [
        ("grpc.so_reuseport", 0),  # a port in use is an error, not half of the calls for each program
        ("grpc.max_concurrent_streams", options.max_connection_calls),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        # Finds clients that vanished without a word, and lets clients look after theirs as often.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Who asks more often, or with no call under way, is told to calm down and loses the connection.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
    ]
    if options.connection_age_seconds:
        limits += [
            ("grpc.max_connection_age_ms", options.connection_age_seconds * 1000),
            ("grpc.max_connection_age_grace_ms", options.connection_grace_seconds * 1000),
        ]
    return limits


def _credentials(options: ServiceOptions, metrics: ServiceMetrics) -> grpc.ServerCredentials | None:
    """What TLS is spoken with; the files are looked at again at a handshake. None for plain text."""
    certificate, key, client_ca = options.tls_cert, options.tls_key, options.tls_client_ca
    if certificate is None or key is None:
        return None

    def read() -> grpc.ServerCertificateConfiguration:
        chain, private_key = read_pair(certificate, key)
        authorities = read_authorities(client_ca, flag="--tls-client-ca") if client_ca else None
        return grpc.ssl_server_certificate_configuration([(private_key, chain)], authorities)

    paths = [certificate, *([client_ca] if client_ca else []), key]
    files = Watched("certificates", paths, read=read, metrics=metrics)
    return grpc.dynamic_ssl_server_credentials(files.current(), files.current, client_ca is not None)


def _service(method: str) -> str:
    return method.split("/")[1]
