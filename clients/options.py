"""Options that several verbs of `trapline` share: where the server is, and how the way to it is guarded."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from trapline.command_line import Options
from trapline.model_file import check_model_id

if TYPE_CHECKING:
    from .security import Security


def _is_address(text: str) -> str:
    if not re.fullmatch(r"[^/\s]+:\d{1,5}|(dns|ipv4|ipv6|unix|unix-abstract|xds):\S+", text):
        raise ValueError("must be HOST:PORT, e.g. 127.0.0.1:50051")
    return text


def split(value: object) -> object:
    """The values of a text `A,B`; anything else as it is."""
    return tuple(value.split(",")) if isinstance(value, str) else value


#: A server: HOST:PORT, or a gRPC target.
Address = Annotated[str, AfterValidator(_is_address)]
#: A model's id, checked.
ModelId = Annotated[str, AfterValidator(check_model_id)]


class SecurityOptions(Options):
    """How the way to a server is guarded."""

    model_config = SettingsConfigDict(env_prefix="TRAPLINE_")

    tls: bool = Field(False, description="speak TLS, to a certificate of a public CA; the options below imply it")
    tls_ca: Path | None = Field(None, description="certificate in PEM of the CA that signed the server's")
    tls_cert: Path | None = Field(
        None, description="the client's own certificate in PEM, where the server asks for one"
    )
    tls_key: Path | None = Field(None, description="key of --tls-cert in PEM, not encrypted")
    token_file: Path | None = Field(
        None, description="file with the token to send; without it TRAPLINE_TOKEN is sent, where that is set"
    )
    plaintext_token: bool = Field(False, description="send the token to another machine without TLS, too")

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key belong together: give both or neither")
        return self

    @property
    def security(self) -> "Security":
        """The same as the connection takes it."""
        from .security import Security

        return Security(**{item.name: getattr(self, item.name) for item in dataclasses.fields(Security)})


class ServerOptions(SecurityOptions):
    """Where the one server is."""

    server: Address = Field(
        "127.0.0.1:50051", description="the server's address, HOST:PORT or a gRPC target such as dns:///HOST:PORT"
    )
