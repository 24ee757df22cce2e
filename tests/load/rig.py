"""What the measuring scripts share: programs that end with them, sessions, wrk and h2load, CPU time, instructions.

Two cores or more: what is measured runs on the first, everything else on the second. A proxy is measured by the CPU time
of its processes, which a busy machine changes less than the clock's.
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

PATH = "/api/v2/cdr/text"
SECRET = "a-secret-of-the-load-scripts-of-32-bytes-and-more"
# Below valgrind a million sessions take minutes to load, and the port is there before they are. Seconds.
LOADED_AFTER = 1800
PASSWORD = "a password for a load run"
SESSIONS = 200
TICK = os.sysconf("SC_CLK_TCK")
MEASURED, OTHERS = 0, 1


def program(name):
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    return found or sys.exit(f"{name} is needed and not installed")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, ready, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ready():
                return
        time.sleep(0.02)
    sys.exit(f"waited {seconds} s for {what}")


def listens(port):
    socket.create_connection(("127.0.0.1", port), 1).close()
    return True


def pinned(core, command):
    """The command on one core, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[core]), *map(str, command)] if len(cores) > 1 else [*map(str, command)]


def run(command, core=OTHERS):
    done = subprocess.run(pinned(core, command), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


class Rig:
    """A folder and programs; both go when it ends."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.folder.chmod(0o755)
        self.programs = []
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for started in self.programs:
            started.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, name, text, mode=0o644):
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def start(self, name, command, port, core=MEASURED):
        log = open(self.folder / f"{name}.log", "w")
        process = subprocess.Popen(
            pinned(core, command), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder
        )
        started = Program(name, process, port)
        self.programs.append(started)

        def ready():
            if process.poll() is not None:
                sys.exit(f"{name} ended: {(self.folder / f'{name}.log').read_text()[-800:]}")
            return listens(port)

        wait_for(name, ready, LOADED_AFTER)
        return started

    def certificate(self):
        """cert.pem, key.pem and both.pem."""
        run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            + ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
            + ["-keyout", self.folder / "key.pem", "-out", self.folder / "cert.pem"]
        )
        (self.folder / "key.pem").chmod(0o600)
        both = (self.folder / "cert.pem").read_text() + (self.folder / "key.pem").read_text()
        self.write("both.pem", both, 0o600)

    def upstream(self):
        """An nginx that answers 1 KB of JSON, 1 MiB at /api/v2/cdr/large, and takes bodies. Its port."""
        port = free_port()
        large = self.folder / "api/v2/cdr"
        large.mkdir(parents=True)
        (large / "large").write_bytes(bytes(1 << 20))
        body = json.dumps({"data": "x" * 1000, "ok": "yes"}, separators=(",", ":"))
        self.write(
            "upstream.conf",
            f"""daemon off; worker_processes 1; pid upstream.pid; error_log upstream-error.log crit;
            events {{ worker_connections 20000; }}
            http {{
              access_log off; keepalive_timeout 300s; keepalive_requests 100000000; default_type application/json;
              client_max_body_size 0; client_body_buffer_size 2m;
              client_body_temp_path u1; proxy_temp_path u2; fastcgi_temp_path u3; uwsgi_temp_path u4; scgi_temp_path u5;
              server {{ listen 127.0.0.1:{port} backlog=4096;
                location / {{ return 200 '{body}'; }}
                location = /api/v2/cdr/large {{ root .; }}
                location = /api/v2/cdr/upload {{ proxy_pass http://127.0.0.1:{port}/taken; }} }}
            }}""",
        )
        self.start("upstream", [program("nginx"), "-p", self.folder, "-c", "upstream.conf"], port, OTHERS)
        return port

    def sessions(self):
        """For those who do not make them: (key, token), signed as postern signs."""
        return [(key, token_of(key)) for key in (str(uuid.uuid4()) for _ in range(SESSIONS))]

    def postern(self, name, binary, config, users=1):
        """A gateway of this configuration, with `users` at its door: u0@bench and so on."""
        self.accounts(users)
        path = self.write(f"{name}.toml", config)
        port = int(re.search(r'^https? = "127.0.0.1:(\d+)"', config, re.M)[1])
        return self.start(name, [*binary, "run", "--config", path], port)

    def accounts(self, users):
        names = [f"u{n}" for n in range(users)]
        a1 = {n: hashlib.md5(f"{n}:bench:{PASSWORD}".encode()).hexdigest() for n in names}
        text = "".join(f'[users."{n}@bench"]\na1 = "{a1[n]}"\nrole = "user"\n' for n in names)
        if not (self.folder / "users.toml").exists():
            self.write("users.toml", text, 0o600)
            self.write("token.key", SECRET, 0o600)


class Program:
    def __init__(self, name, process, port):
        self.name, self.process, self.port = name, process, port

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def pids(self):
        return tree(self.process.pid)

    def cpu(self):
        """User and system time of all its processes so far, in seconds."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICK

    def rss_kib(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                found = re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())
                total += int(found[1]) if found else 0
        return total


def tree(pid):
    pids = [pid]
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children = pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text().split()
            pids += [p for child in children for p in tree(int(child))]
    return pids


def token_of(key):
    part = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    claims = json.dumps({"v": 2, "exp": (int(time.time()) + 8640000) * 1000, "t": "session", "i": key[:18]})
    text = part(b'{"alg":"HS256","typ":"JWT"}') + "." + part(claims.encode())
    return text + "." + part(hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest())


def connect(port, tls=True):
    if not tls:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=LOADED_AFTER)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=LOADED_AFTER)


def log_in(port, user="u0@bench", times=SESSIONS, tls=True):
    """(key, token) of so many new sessions."""
    connection, made = connect(port, tls), []
    for _ in range(times):
        body = json.dumps({"username": user, "password": PASSWORD})
        connection.request("POST", "/login", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            sys.exit(f"a login was answered {answer.status} {text}")
        answer = json.loads(text)
        made.append((answer["key"], answer["token"]))
    return made


def status(port, path, session, tls=True):
    connection = connect(port, tls)
    connection.request("GET", path, headers={"X-Key": session[0], "X-Access-Token": session[1]})
    return connection.getresponse().status


# GET, or a POST of BODY bytes, with one session after another.
LUA = """
local requests, n, i = {}, 0, 0
function init(args)
  local body = tonumber(args[3]) > 0 and string.rep("x", tonumber(args[3])) or nil
  for line in io.lines(args[1]) do
    local key, token = line:match("^(%S+) (%S+)")
    n = n + 1
    requests[n] = wrk.format(body and "POST" or "GET", args[2], { ["X-Access-Token"] = token, ["X-Key"] = key,
      ["Accept"] = "application/json", ["User-Agent"] = "bench/1.0" }, body)
  end
end
function request() i = i % n + 1 return requests[i] end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('RESULT %d %d %d\\n', summary.requests, latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Load:
    """Clients of one program with its sessions."""

    def __init__(self, rig, target, sessions, tls=True):
        self.target, self.tls, self.scheme = target, tls, "https" if tls else "http"
        lines = "".join(f"{key} {token}\n" for key, token in sessions)
        self.file = rig.write(f"{target.name}.sessions", lines, 0o600)
        self.first, self.script = sessions[0], rig.write("load.lua", LUA)

    def wrk(self, path=PATH, seconds=5, connections=64, body=0):
        """Requests that were answered, and the 99th percentile of their time in us. No error is allowed."""
        url = f"{self.scheme}://127.0.0.1:{self.target.port}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", self.script, url, "--"]
        printed = run([*command, self.file, path, body])
        answered, p99, errors = map(int, re.search(r"RESULT (\d+) (\d+) (\d+)", printed).groups())
        if errors or not answered:
            sys.exit(f"{self.target.name}: {answered} answers and {errors} errors for {path}")
        return answered, p99

    def h2load(self, *options, path=PATH):
        """Answers with 2xx; no other is allowed."""
        key, token = self.first
        command = ["h2load", "-t1", "-H", f"x-key: {key}", "-H", f"x-access-token: {token}", *options]
        printed = run([*command, f"{self.scheme}://127.0.0.1:{self.target.port}{path}"])
        total, good = map(int, re.search(r"requests: (\d+) total.* (\d+) succeeded", printed).groups())
        if good < total or not good:
            sys.exit(f"{self.target.name}: {good} of {total} answers are good")
        return good

    def cpu_per_request(self, load):
        """CPU in us a request, and what else `load` gives."""
        before = self.target.cpu()
        result = load()
        answered, rest = result if isinstance(result, tuple) else (result, None)
        return (self.target.cpu() - before) * 1e6 / answered, rest


def ratios(of, to):
    """The median of the ratios round by round: the drift of a machine cancels."""
    return statistics.median(a / b for a, b in zip(of, to))
