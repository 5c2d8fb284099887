"""Where a process of a cluster listens: on a Unix socket for its own node, by TCP for others, by default under TLS.

The processes of one job (or a host of queues and its clients) share one certificate and its private key. Each of them
shows this certificate and accepts no other, so a stranger on the network cannot even begin the handshake of
`handshake`, whose key is another secret. All of these travel through Ray only.
"""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass, field
from typing import Final

from sage_flow.errors import ChannelNotReachable
from sage_flow.links.address import Address, TcpAddress, UnixAddress
from sage_flow.links.private_directory import temporary_private

__all__ = ["Credentials", "Endpoint"]

_DAYS: Final = 3650  # a certificate lives as long as its job, which may be long


@dataclass(frozen=True)
class Credentials:
    """A certificate and its private key, as PEM. They are in no repr, and are sent through Ray only."""

    certificate: bytes = field(repr=False)
    private_key: bytes = field(repr=False)

    @classmethod
    def make(cls, name: str) -> Credentials:
        """Make a self-signed pair in the name of a job or a host."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))  # clocks of nodes differ
            .not_valid_after(now + datetime.timedelta(days=_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def server(self) -> ssl.SSLContext:
        """Return the context for a listener."""
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def client(self) -> ssl.SSLContext:
        """Return the context for a dialer."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # there is one certificate, and only our processes have it
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.certificate.decode())
        with temporary_private() as directory:  # ssl reads keys from files only
            path = os.path.join(directory, "pair.pem")
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(self.private_key + self.certificate)
            context.load_cert_chain(path)
        return context


@dataclass(frozen=True)
class Endpoint:
    """How a process can be dialed. `node`: the id of its node; `port` None: from its own node only."""

    node: str
    unix_path: str
    host: str = ""
    port: int | None = None

    def address_from(self, node: str, tls: ssl.SSLContext | None) -> Address:
        """Return the address for a process on `node`. Raises: ChannelNotReachable."""
        if node == self.node:
            return UnixAddress(self.unix_path)
        if self.port is None:
            raise ChannelNotReachable(f"a process of node {self.node[:8]} can be reached from its own node only")
        return TcpAddress(self.host, self.port, tls)
