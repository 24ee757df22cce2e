"""Replicas over one Redis, for the scripts that measure or trouble them; see rig.py."""

import contextlib
import http.client
import json
import re
import socket
import subprocess

from rig import MEASURED, OTHERS, PASSWORD, free_port, program

API = "/api/x"
USER = "u0@bench"


class Replica:
    """A gateway by plain HTTP; `sessions` is its table of the store."""

    def __init__(self, rig, name, binary, upstream, sessions, core=MEASURED, users=1, before=()):
        self.name, self.http, self.admin = name, free_port(), free_port()
        config = f"""
[listen]
http = "127.0.0.1:{self.http}"
admin = "127.0.0.1:{self.admin}"
[token]
secret_file = "token.key"
[directory]
file = "users.toml"
{sessions}
[log]
access = false
[upstreams.engine]
servers = ["http://127.0.0.1:{upstream}"]
[[routes]]
path = "/api"
resource = "cdr"
upstream = "engine"
[roles.user]
allow = {{ cdr = ["r"] }}
"""
        rig.accounts(users)
        path = rig.write(f"{name}.toml", config)
        self.program = rig.start(name, [*before, binary, "run", "--config", path], self.http, core)
        self.log = rig.folder / f"{name}.log"
        self.kept = http.client.HTTPConnection("127.0.0.1", self.http, timeout=10)

    def ask(self, method, path, session=None, port=None):
        """The status, by a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.http, timeout=10)
        connection.request(method, path, headers=headers(session))
        status = connection.getresponse().status
        connection.close()
        return status

    def is_ready(self):
        return self.ask("GET", "/readyz", port=self.admin) == 200

    def log_in(self):
        """The status, and the session."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=10)
        body = json.dumps({"username": USER, "password": PASSWORD})
        connection.request("POST", "/login", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = json.loads(answer.read())
        return answer.status, (told.get("key"), told.get("token"))

    def status(self, session):
        """Of a request by a connection that is kept; no answer is None."""
        try:
            if self.kept.sock is None:
                self.kept.connect()
                self.kept.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.kept.request("GET", API, headers=headers(session))
            answer = self.kept.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            self.kept.close()
            return None

    def metric(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.M))


def headers(session):
    return {"X-Key": session[0], "X-Access-Token": session[1]} if session else {}


class Redis:
    """A redis-server of the script's own."""

    def __init__(self, rig, *options, core=OTHERS):
        self.rig, self.port, self.core = rig, free_port(), core
        self.command = [program("redis-server"), "--port", self.port, "--bind", "127.0.0.1", "--save", "", *options]
        self.run()

    def run(self):
        self.program = self.rig.start("redis", self.command, self.port, self.core)

    def kill(self):
        self.program.process.kill()
        self.program.process.wait()

    def signal(self, which):
        self.program.process.send_signal(which)

    def ask(self, *words):
        command = [program("redis-cli"), "-p", str(self.port), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def info(self, name):
        return float(re.search(rf"^{name}:([\d.]+)", self.ask("INFO", "everything"), re.M)[1])

    def table(self, port=None, **settings):
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        return f'[sessions.redis]\nurl = "redis://127.0.0.1:{port or self.port}/0"\n{lines}'


class Wire:
    """Copies bytes to Redis and back, each way until it is cut: what is sent stays where it is, and no end is told. A program
    of its own, which reads from a file what is cut."""

    def __init__(self, rig, to):
        self.port, self.cut_file = free_port(), rig.write("cut", "")
        rig.start("wire", ["python3", __file__, self.port, to, self.cut_file], self.port, OTHERS)

    def cut(self, which):
        """`to`, `from`, both or neither."""
        self.cut_file.write_text(which)


def copy_until_cut(port, to, cut_file):
    import asyncio

    async def copy(reader, writer, direction):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                while direction in cut_file.read_text():
                    await asyncio.sleep(0.02)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to)
        except OSError:
            return writer.close()
        await asyncio.gather(copy(reader, far_writer, "to"), copy(far_reader, writer, "from"))

    async def serve():
        server = await asyncio.start_server(accept, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    import pathlib
    import sys

    copy_until_cut(int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3]))
