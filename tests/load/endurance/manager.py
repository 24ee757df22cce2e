"""What a service manager does for an upgrade: holds the listening sockets and exchanges the program behind them.

    manager.py restart|beside HTTPS_PORT ADMIN_PORT LOG BINARY ARGS...

A line on standard input exchanges the program; a line with the milliseconds it took answers it. `restart` ends the old one
and then starts the new one, as `systemctl restart` does; `beside` starts the new one first. It ends with its input.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

how, https_port, admin_port, log, *command = sys.argv[1:]


def listening(port):
    one = socket.create_server(("127.0.0.1", int(port)), backlog=4096)
    os.set_inheritable(one.fileno(), True)
    return one


https, admin = listening(https_port), listening(admin_port)
# The protocol wants them at 3 and 4; the shell becomes the program, so that the pid is right.
SCRIPT = 'exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=https:admin exec "$@"'


def start():
    with open(log, "a") as err:
        return subprocess.Popen(["sh", "-c", SCRIPT, "sh", *command], stdin=https, stdout=admin, stderr=err)


def ready(process):
    """Asked often enough: behind the same socket the old one may answer too."""
    for _ in range(3000):
        if process.poll() is not None:
            sys.exit(f"it ended with {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=60) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.01)
    sys.exit("it never became ready")


def end(process):
    process.send_signal(signal.SIGTERM)
    if process.wait(60) != 0:
        sys.exit(f"it ended with {process.returncode}")


running = start()
ready(running)
print("running", running.pid, flush=True)
for _ in sys.stdin:
    began = time.monotonic()
    if how == "beside":
        new = start()
        # As long as an operator might look at it: it must wait for its turn.
        time.sleep(0.3)
        end(running)
    else:
        end(running)
        new = start()
    running = new
    ready(running)
    print("exchanged", int((time.monotonic() - began) * 1000), running.pid, flush=True)
end(running)
