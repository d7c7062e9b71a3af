import pytest
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from trapline.service.options import ServiceOptions


class Other(ServiceOptions):
    """Another program, with ports of its own."""

    model_config = SettingsConfigDict(env_prefix="OTHER_")

    listen: str = Field(default="127.0.0.1:50052", description="HOST:PORT to serve on")
    metrics: str = Field(default="127.0.0.1:9101", description="HOST:PORT of metrics")


def test_a_program_has_ports_and_variables_of_its_own(monkeypatch):
    """Its defaults are in force, its variables are read, and the rest is as every service has it."""
    monkeypatch.setenv("OTHER_DRAIN_SECONDS", "3")
    options = Other()
    assert (options.listen, options.metrics, options.drain_seconds) == ("127.0.0.1:50052", "127.0.0.1:9101", 3)
    assert list(Other.model_fields) == list(ServiceOptions.model_fields)
    assert options.settings()["listen"] == "127.0.0.1:50052"


@pytest.mark.parametrize("kind", [ServiceOptions, Other])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"listen": "here"}, r"must be HOST:PORT with a port of 0 to 65535, e\.g\. {listen}"),
        ({"listen": ""}, r"--listen must be HOST:PORT, e\.g\. {listen}"),
        ({"metrics": "127.0.0.1:99999"}, "must be HOST:PORT"),
        ({"trace_endpoint": "collector:4317"}, "must be http://HOST:PORT"),
        ({"tls_cert": "cert.pem"}, "--tls-cert and --tls-key belong together"),
        ({"tls_client_ca": "ca.pem"}, "--tls-client-ca needs --tls-cert"),
    ],
)
def test_wrong_options_are_sentences(kind, given, said):
    """Whatever program it is, with its own port as the example."""
    with pytest.raises(ValidationError, match=said.format(listen=kind.model_fields["listen"].default)):
        kind(**given)
