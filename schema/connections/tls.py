"""Builds OpenSSL contexts. Certificates are read for each connection, so renewals take effect."""

import ssl
from typing import Final

from schema.connections.database_target import SYSTEM_AUTHORITIES, TlsMode, TlsSettings

_VERSIONS: Final = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}


class UnusableFile(ConnectionError):
    """A file of certificates or a key is not usable. It is a ConnectionError: the file may be fixed
    meanwhile.
    """


def client_context(tls: TlsSettings) -> ssl.SSLContext | None:
    """Returns None when TLS is disabled. Raises UnusableFile with a sentence for the operator."""
    if tls.mode == TlsMode.DISABLE:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["postgresql"])
    context.check_hostname = tls.mode == TlsMode.VERIFY_FULL
    context.verify_mode = ssl.CERT_REQUIRED if tls.mode >= TlsMode.VERIFY_CA else ssl.CERT_NONE
    context.minimum_version = _VERSIONS[tls.minimum or "TLSv1.2"]
    if tls.maximum:
        context.maximum_version = _VERSIONS[tls.maximum]
    if tls.root == SYSTEM_AUTHORITIES:
        context.set_default_verify_paths()
    elif tls.root:
        _load(context, "sslrootcert", tls.root)
    if tls.revocations:
        _load(context, "sslcrl", tls.revocations)
    if tls.revocations_dir:
        context.load_verify_locations(capath=tls.revocations_dir)
    if tls.revocations or tls.revocations_dir:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if tls.certificate:
        _load_certificate(context, tls.certificate, tls)
    return context


def _load(context: ssl.SSLContext, parameter: str, file: str) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(parameter, file, error) from None


def _load_certificate(context: ssl.SSLContext, certificate: str, tls: TlsSettings) -> None:
    try:
        context.load_cert_chain(certificate, tls.key, password=lambda: tls.key_password or "")
    except (OSError, ssl.SSLError, ValueError) as error:
        raise _unusable("sslcert or sslkey", f"{certificate} and {tls.key or 'none'}", error) from None


def _unusable(parameter: str, file: str, error: Exception) -> UnusableFile:
    reason = "no usable certificate or key in it"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        reason = error.strerror or reason
    return UnusableFile(
        f"The {parameter} in DURO_DATABASE_URL cannot be used ({file}: {reason}): correct it."
    )
