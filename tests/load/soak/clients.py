"""The clients of the soak run that wrk is not: logins, logouts, uploads, WebSockets; and their echo server.

    clients.py echo PORT
    clients.py run HTTPS_PORT SECONDS AWAY_FILE
    clients.py sessions HTTPS_PORT SECONDS          logins and logouts alone

Errors are allowed while AWAY_FILE is there or has gone within the last two seconds (the engine is restarted). Ends with a
line of counts, and with 1 when anything happened that may not.
"""

import asyncio
import collections
import http.client
import json
import os
import ssl
import sys
import threading
import time

import websockets.asyncio.client
import websockets.asyncio.server
import websockets.http11

counts = collections.Counter()
faults = []
lock = threading.Lock()


def note(what):
    with lock:
        counts[what] += 1


def fault(what):
    with lock:
        counts["faults"] += 1
        if len(faults) < 20:
            faults.append(f"{time.strftime('%H:%M:%S')} {what}")


class Run:
    def __init__(self, port, seconds, away):
        self.port, self.end, self.away, self.last_away = port, time.monotonic() + seconds, away, 0.0
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    def goes_on(self):
        return time.monotonic() < self.end

    def is_away(self):
        if os.path.exists(self.away):
            self.last_away = time.monotonic()
        return time.monotonic() - self.last_away < 2

    def connection(self):
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=20)

    def ask(self, connection, method, path, headers=None, body=None):
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def login(self, connection):
        body = json.dumps({"username": "load@example.org", "password": "endurance"})
        status, answer = self.ask(connection, "POST", "/login", {"Content-Type": "application/json"}, body)
        if status != 200:
            raise ValueError(f"login {status} {answer[:100]}")
        answer = json.loads(answer)
        note("logins")
        return {"X-Key": answer["key"], "X-Access-Token": answer["token"]}


def sessions(run):
    """Log in, work, log out, and be unknown from then on."""
    while run.goes_on():
        away = run.is_away()
        connection = run.connection()
        try:
            session = run.login(connection)
            for _ in range(20):
                away |= run.is_away()
                status, answer = run.ask(connection, "GET", "/api/x", session)
                if status in (502, 503, 504) and (away or run.is_away()):
                    note("while the engine was away")
                    time.sleep(0.05)
                elif status != 200:
                    fault(f"GET {status} {answer[:100]}")
                else:
                    note("gets")
            for path, wanted in (("/logout", 200), ("/logout", 401)):
                status, answer = run.ask(connection, "POST", path, session)
                if status != wanted:
                    fault(f"{path} {status} instead of {wanted} {answer[:100]}")
            status, _ = run.ask(connection, "GET", "/api/x", session)
            if status != 401:
                fault(f"a session that was logged out is {status}")
            note("logouts")
        except (OSError, ValueError, http.client.HTTPException) as error:
            fault(f"sessions: {error!r}")
        finally:
            connection.close()
        time.sleep(0.02)


def uploads(run):
    body = os.urandom(3 << 20)
    connection = run.connection()
    session = run.login(connection)
    while run.goes_on():
        try:
            status, answer = run.ask(connection, "POST", "/upload/x", session, body)
            if status != 200 or answer != str(len(body)).encode():
                fault(f"upload {status} {answer[:100]}")
            note("uploads")
        except (OSError, http.client.HTTPException) as error:
            fault(f"upload: {error!r}")
            connection.close()
            connection = run.connection()
        time.sleep(0.2)


async def sockets(run, session):
    while run.goes_on():
        try:
            url = f"wss://127.0.0.1:{run.port}/sockets/x"
            async with websockets.asyncio.client.connect(url, ssl=run.tls, additional_headers=session, proxy=None) as socket:
                for size in (1, 100, 5000, 100_000):
                    text = "x" * size
                    await socket.send(text)
                    if await asyncio.wait_for(socket.recv(), 20) != text:
                        fault("another message came back")
                    note("messages")
                # Some are left without a word.
                if counts["messages"] % 3 == 0:
                    socket.transport.abort()
            note("sockets")
        except (OSError, TimeoutError, websockets.exceptions.WebSocketException) as error:
            fault(f"socket: {error!r}")
        await asyncio.sleep(0.1)


async def all_sockets(run, session):
    await asyncio.gather(*(sockets(run, session) for _ in range(4)))


def clients(port, seconds, away):
    run = Run(port, seconds, away or os.devnull + ".never")
    threads = [threading.Thread(target=sessions, args=(run,)) for _ in range(3)]
    if away:
        threads.append(threading.Thread(target=uploads, args=(run,)))
    for thread in threads:
        thread.start()
    if away:
        asyncio.run(all_sockets(run, run.login(run.connection())))
    for thread in threads:
        thread.join()
    print("CLIENTS", json.dumps(counts), flush=True)
    for line in faults:
        print("FAULT", line, flush=True)
    sys.exit(1 if counts["faults"] else 0)


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def serve(port):
    """Echoes WebSocket messages; counts the body of a POST, which the library does not do."""

    async def front(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            # The gateway keeps the connection and may upgrade it later.
            while head.startswith(b"POST "):
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                text = str(length).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
                await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
            back, forth = await asyncio.open_connection("127.0.0.1", inner)
            forth.write(head)
            await asyncio.gather(copy(reader, forth), copy(back, writer))
        except (OSError, asyncio.IncompleteReadError, IndexError, ValueError):
            pass
        finally:
            writer.close()

    async def copy(source, sink):
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0, compression=None) as server:
        inner = server.sockets[0].getsockname()[1]
        front_server = await asyncio.start_server(front, "127.0.0.1", port, limit=1 << 20)
        await front_server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        clients(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] if sys.argv[1] == "run" else None)
