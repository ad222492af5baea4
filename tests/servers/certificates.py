"""Certificates for servers of tests, each good for itself alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.servers.missing import missing


class Certificate(NamedTuple):
    """A certificate that nobody but itself has signed, so that who trusts its file trusts it, and its key."""

    file: Path
    key: Path


def make_certificate(folder: Path, *names: str) -> Certificate:
    """Make one for servers of those names, each as it stands in a certificate: `DNS:localhost`, `IP:127.0.0.1`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("openssl, which makes a certificate")
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    files = ["-addext", f"subjectAltName={','.join(names)}", "-keyout", made.key, "-out", made.file]
    subprocess.run([*command, *files], check=True, capture_output=True)  # noqa: S603
    return made
