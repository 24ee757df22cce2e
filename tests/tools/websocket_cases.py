"""WebSocket cases, asked directly and through the gateway (RFC 6455); what comes back must be the same bytes.

    websocket_cases.py echo PORT
    websocket_cases.py compare ECHO_PORT GATEWAY_PORT     credentials in KEY and TOKEN
"""

import asyncio
import os
import ssl
import struct
import sys

import websockets.asyncio.server

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0


def frame(opcode, payload=b"", fin=True, rsv=0, masked=True, length=None):
    """One frame of a client; `length` is a length told that is not the payload's, or (code, value) for a long form."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    size = len(payload)
    mask_bit = 0x80 if masked else 0
    if length is not None:
        code, packed = length
        head += bytes([mask_bit | code]) + packed
    elif size < 126:
        head += bytes([mask_bit | size])
    elif size < 65536:
        head += bytes([mask_bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    key = b"\x01\x02\x03\x04"
    repeated = key * (size // 4 + 1)
    return head + key + (int.from_bytes(payload, "big") ^ int.from_bytes(repeated[:size], "big")).to_bytes(size, "big")


def close(code=1000, reason=b""):
    return frame(CLOSE, struct.pack("!H", code) + reason)


END = close()
# A message whose echo is waited for: the echo server answers a close that comes with a message before it has echoed that.
SYNC = frame(TEXT, b"sync")
ECHO = b"\x81\x04sync"
# Breaks the connection off.
GONE = None
BAD_UTF8 = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80", b"abc\xe2\x82"]


def cases():
    """Name, and the pieces that are written; a small pause lies between two of them."""
    for opcode, kind in ((TEXT, "text"), (BINARY, "binary")):
        for size in (0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20, 4 << 20):
            yield f"1 {kind} of {size}", [frame(opcode, b"*" * size), END]
        yield f"1 {kind} byte by byte", [bytes([b]) for b in frame(opcode, b"*" * 12)] + [END]
        yield f"1 {kind} in three writes", [frame(opcode, b"*" * 90000)[i : i + 45000] for i in (0, 45000, 90000)] + [END]
    for size in (0, 1, 125):
        yield f"2 ping of {size}", [frame(PING, b"\xfe" * size), END]
    yield "2 ping of 126", [frame(PING, b"*" * 126), END]
    yield "2 ping with a long form of its length", [frame(PING, b"ab", length=(126, struct.pack("!H", 2))), END]
    yield "2 ten pings at once", [b"".join(frame(PING, b"%d" % i) for i in range(10)), END]
    yield "2 pong unasked", [frame(PONG, b"nobody asked"), frame(PING, b"x"), END]
    for rsv in range(1, 8):
        yield f"3 reserved bits {rsv}", [frame(TEXT, b"before"), SYNC, frame(TEXT, b"x", rsv=rsv), END]
        yield f"3 reserved bits {rsv} of a ping", [frame(PING, b"x", rsv=rsv), END]
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield f"4 reserved opcode {opcode}", [frame(TEXT, b"before"), SYNC, frame(opcode, b"x"), END]
        yield f"4 reserved opcode {opcode} between", [frame(TEXT, b"a", fin=False), frame(opcode), frame(CONTINUATION, b"b"), END]
    yield "5 ping in fragments", [frame(PING, b"a", fin=False), frame(CONTINUATION, b"b"), END]
    yield "5 two fragments", [frame(TEXT, b"one", fin=False), frame(CONTINUATION, b"two"), END]
    yield "5 two fragments at once", [frame(TEXT, b"one", fin=False) + frame(CONTINUATION, b"two"), END]
    yield "5 ping between fragments", [frame(TEXT, b"one", fin=False), frame(PING, b"p"), frame(CONTINUATION, b"two"), END]
    yield "5 continuation of nothing", [frame(CONTINUATION, b"x"), END]
    yield "5 unfinished continuation of nothing", [frame(CONTINUATION, b"x", fin=False), END]
    yield "5 text within text", [frame(TEXT, b"one", fin=False), frame(TEXT, b"two"), END]
    yield "5 empty fragments", [frame(TEXT, b"", fin=False), frame(CONTINUATION, b"", fin=False), frame(CONTINUATION, b""), END]
    yield "5 a thousand fragments", [frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"ab", fin=False) * 1000 + frame(CONTINUATION), END]
    for text in ("κόσμε", "\U0001f511", "\ufffd\u0000\U0010ffff"):
        whole = text.encode()
        yield f"6 UTF-8 {whole.hex()}", [frame(TEXT, whole), END]
        cut = [frame(TEXT, whole[:1], fin=False)] + [frame(CONTINUATION, bytes([b]), fin=False) for b in whole[1:]]
        yield f"6 UTF-8 {whole.hex()} in fragments", cut + [frame(CONTINUATION), END]
    for text in BAD_UTF8:
        yield f"6 invalid UTF-8 {text.hex()}", [frame(TEXT, text), END]
        yield f"6 invalid UTF-8 {text.hex()} in fragments", [frame(TEXT, text, fin=False), frame(CONTINUATION), END]
    yield "7 close without a code", [frame(CLOSE)]
    yield "7 close of one byte", [frame(CLOSE, b"\x03")]
    yield "7 close with a reason", [close(1000, b"r" * 123)]
    yield "7 close with too long a reason", [close(1000, b"r" * 124)]
    yield "7 close with a reason that is no UTF-8", [close(1000, b"\xff\xfe")]
    yield "7 two closes", [END + END]
    yield "7 ping after close", [END + frame(PING, b"x")]
    yield "7 text after close", [END + frame(TEXT, b"x")]
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        yield f"7 close {code}", [close(code)]
    for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535):
        yield f"7 close {code}, which may not be", [close(code)]
    yield "8 not masked", [frame(TEXT, b"x", masked=False), END]
    yield "8 length with the highest bit", [frame(BINARY, b"x", length=(127, b"\x80" + b"\0" * 7)), END]
    yield "8 a long form of a short length", [frame(TEXT, b"ab", length=(127, struct.pack("!Q", 2))), END]
    yield "8 half a frame and gone", [frame(TEXT, b"x" * 50)[:20], GONE]
    yield "8 nothing and gone", [GONE]
    for count in (100, 1000):
        yield f"9 {count} messages at once", [b"".join(frame(TEXT, b"%d" % i) for i in range(count)), END]


HEAD = (
    "GET /sockets/x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{credentials}\r\n"
)


async def synchronised(reader, writer, back):
    """Reads until the echo of a message, or until the end."""
    writer.write(SYNC)
    while not back.endswith(ECHO):
        data = await asyncio.wait_for(reader.read(1 << 20), 20)
        if not data:
            break
        back += data


async def write_all(pieces, reader, writer, back):
    for piece in pieces:
        if piece is END or piece is SYNC:
            await synchronised(reader, writer, back)
        if piece is SYNC:
            continue
        writer.write(piece)
        await asyncio.wait_for(writer.drain(), 10)
        if len(pieces) > 2:
            await asyncio.sleep(0.002)


async def asked(port, tls, pieces, credentials=""):
    """The status line, the handshake's headers that count, and every byte after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    writer.write(HEAD.format(credentials=credentials).encode())
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().lower().split("\r\n")
    kept = sorted(line for line in head[1:] if line.startswith(("sec-websocket", "upgrade", "connection")))
    back = bytearray()
    try:
        await write_all([piece for piece in pieces if piece is not GONE], reader, writer, back)
        if GONE in pieces:
            writer.transport.abort()
            return [head[0], kept]
    except OSError:
        # With TLS asyncio writes no more once the other side has ended; what that said before is there to be read.
        pass
    try:
        while data := await asyncio.wait_for(reader.read(1 << 20), 20):
            back += data
    except TimeoutError:
        back += b"(open)"
    except OSError:
        # A reset, which takes back what was not read yet.
        back += b"(reset)"
    writer.close()
    return [head[0], kept, bytes(back)]


async def compare(echo_port, gateway_port):
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    credentials = f"X-Key: {os.environ['KEY']}\r\nX-Access-Token: {os.environ['TOKEN']}\r\n"
    same, different = 0, 0
    for name, pieces in cases():
        direct = await asked(echo_port, None, pieces)
        through = await asked(gateway_port, tls, pieces, credentials)
        if direct == through:
            same += 1
        else:
            different += 1
            short = lambda one: [part[:80] if isinstance(part, bytes) else part for part in one]
            print(f"DIFFERENT {name}: directly {short(direct)}, through the gateway {short(through)}")
    print(f"{same + different} cases: {same} the same, {different} different")
    return different == 0 and same > 100


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def serve(port):
    async with websockets.asyncio.server.serve(
        echo, "127.0.0.1", port, compression=None, max_size=64 << 20, ping_interval=None, close_timeout=2
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        sys.exit(0 if asyncio.run(compare(int(sys.argv[2]), int(sys.argv[3]))) else 1)
