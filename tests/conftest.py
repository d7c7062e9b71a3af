import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and weights, where there is one."""
    folder = os.environ.get("TRAPLINE_SHARED")
    if not folder:
        pytest.skip("TRAPLINE_SHARED is not set: no real photos and weights here")
    return Path(folder)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Certificates of a CA made for these tests, of another one, and expired ones: paths by name, as PEM files."""
    import trustme

    folder = tmp_path_factory.mktemp("certificates")
    ours, foreign = trustme.CA(), trustme.CA()
    past = {"not_before": datetime(2020, 1, 1, tzinfo=UTC), "not_after": datetime(2021, 1, 1, tzinfo=UTC)}
    issued = {
        "server": ours.issue_cert("localhost", "127.0.0.1"),
        "renewed": foreign.issue_cert("localhost", "127.0.0.1"),
        "misnamed": ours.issue_cert("elsewhere.example"),
        "late_server": ours.issue_cert("localhost", "127.0.0.1", **past),
        "client": ours.issue_cert("camera@hills.example"),
        "late": ours.issue_cert("camera@hills.example", **past),
        "foreign": foreign.issue_cert("camera@hills.example"),
    }
    paths = SimpleNamespace(ca=folder / "ca.pem", foreign_ca=folder / "foreign_ca.pem")
    ours.cert_pem.write_to_path(paths.ca)
    foreign.cert_pem.write_to_path(paths.foreign_ca)
    for name, leaf in issued.items():
        pair = SimpleNamespace(cert=folder / f"{name}.pem", key=folder / f"{name}.key")
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        pair.key.write_bytes(leaf.private_key_pem.bytes())
        pair.key.chmod(0o600)
        setattr(paths, name, pair)
    return paths
