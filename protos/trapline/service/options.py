"""Options that every service of ours has: addresses, TLS, tokens, limits of a connection, the drain, log, traces."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from trapline.command_line import Options


class ServiceOptions(Options):
    """What a program that serves gRPC takes; a subclass gives `listen` and `metrics` ports of its own."""

    listen: str = Field(default="127.0.0.1:50051", description="HOST:PORT to serve on; port 0 takes a free one")
    metrics: str = Field(default="127.0.0.1:9100", description="HOST:PORT of Prometheus metrics; empty is off")
    admin: str = Field(
        default="",
        description="HOST:PORT for admins' methods, which --listen then refuses; empty serves them on --listen",
    )
    health: str = Field(
        default="", description="HOST:PORT that answers health and nothing else, always in plain text; empty is off"
    )
    tls_cert: Path | None = Field(
        default=None, description="certificate chain in PEM; with --tls-key, --listen and --admin speak TLS only"
    )
    tls_key: Path | None = Field(default=None, description="key of --tls-cert in PEM, not encrypted")
    tls_client_ca: Path | None = Field(
        default=None, description="CA certificates in PEM; with it every client must have a certificate of theirs"
    )
    token_file: Path | None = Field(
        default=None, description="callers' tokens, NAME:TOKEN or TOKEN a line; without it none is asked for"
    )
    admin_token_file: Path | None = Field(
        default=None, description="admins' tokens, good for all methods; admins' methods then take no other"
    )
    max_connection_calls: int = Field(default=1000, ge=1, description="most calls under way on one connection")
    connection_age_seconds: int = Field(
        default=1800,
        ge=0,
        le=31_536_000,
        description="age at which clients are told to connect anew, give or take a tenth, in seconds; 0 is never",
    )
    connection_grace_seconds: int = Field(
        default=600, ge=1, le=86_400, description="time that calls under way then get to end, in seconds"
    )
    drain_seconds: float = Field(
        default=10, ge=0, le=3600, description="longest time that SIGTERM leaves to calls under way, in seconds"
    )
    reflection: bool = Field(default=True, description="tell grpcurl and the like what services there are")
    log_format: Literal["text", "json"] = Field(
        default="text", description="lines of the log: words `key=value`, or a JSON object each"
    )
    trace_endpoint: str = Field(
        default="",
        description="send OpenTelemetry traces by OTLP/gRPC to http://HOST:PORT or https://HOST:PORT; empty is off",
    )

    @field_validator("listen", "metrics", "admin", "health")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, separator, port = value.rpartition(":")
        bad = not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65535
        if bad and value:
            raise ValueError(f"must be HOST:PORT with a port of 0 to 65535, e.g. {_example(cls)}")
        return value

    @field_validator("trace_endpoint")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/\s:]+(:\d{1,5})?/?", value):
            raise ValueError("must be http://HOST:PORT or https://HOST:PORT, e.g. http://127.0.0.1:4317")
        return value

    @model_validator(mode="after")
    def _can_be_served(self) -> Self:
        if not self.listen:
            raise ValueError(f"--listen must be HOST:PORT, e.g. {_example(type(self))} (got '')")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key belong together: give both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError(
                "--tls-client-ca needs --tls-cert and --tls-key: there are no client certificates without TLS"
            )
        return self

    def settings(self) -> dict[str, object]:
        """The effective settings by name, for the log."""
        return dict(sorted(self.model_dump(exclude={"config"}).items()))


def _example(kind: type[ServiceOptions]) -> object:
    return kind.model_fields["listen"].default
