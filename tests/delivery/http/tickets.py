"""A receiver's TLS 1.3 by hand, for what no library sends: session tickets without end."""

import ssl
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.delivery.http.raw_receiver import Peer

_HANDSHAKE, _DATA = 22, 23
_LIFETIME_AGE_NONCE = b"\0\0\x1c\x20\0\0\0\1\1\0"
_BODY = _LIFETIME_AGE_NONCE + b"\0\1x\0\0"
_TICKET = b"\4" + len(_BODY).to_bytes(3, "big") + _BODY
TICKETS = _TICKET * (16000 // len(_TICKET))


class Records:
    """What a server says after the handshake, encrypted under its traffic secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher = AESGCM(self._expand(b"key", 32 if len(secret) == 48 else 16))
        self._iv = self._expand(b"iv", 12)
        self._sent = 0

    def tickets(self) -> bytes:
        return self._record(TICKETS, _HANDSHAKE)

    def data(self, payload: bytes) -> bytes:
        return self._record(payload, _DATA)

    def _record(self, payload: bytes, kind: int) -> bytes:
        head = b"\x17\3\3" + (len(payload) + 17).to_bytes(2, "big")
        nonce = bytes(a ^ b for a, b in zip(self._iv, self._sent.to_bytes(12, "big"), strict=True))
        self._sent += 1
        return head + self._cipher.encrypt(nonce, payload + bytes([kind]), head)

    def _expand(self, label: bytes, length: int) -> bytes:
        label = b"tls13 " + label
        info = length.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        kind = SHA384() if len(self._secret) == 48 else SHA256()
        return HKDFExpand(kind, length, info).derive(self._secret)


async def handshake(peer: Peer, context: ssl.SSLContext, keys: Path) -> Records:
    """Over a plain connection. `keys` is a file of its own."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.keylog_filename = str(keys)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            await peer.answer(outgoing.read())
            incoming.write(await peer.reader.read(65536))
    lines = [line.split() for line in keys.read_text().splitlines()]  # noqa: ASYNC240  of a few bytes
    return Records(bytes.fromhex(next(line[2] for line in lines if line[0] == "SERVER_TRAFFIC_SECRET_0")))
