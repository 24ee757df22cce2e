"""Asks without a pause from several threads, and says how many requests were lost.

    requests.py URL KEY TOKEN FILE

FILE holds how many were answered so far; it ends when somebody removes it. Ends with 1 when a request had another answer
than 200, or none. A connection is used for twenty requests; nothing is ever tried again.
"""

import http.client
import os
import ssl
import sys
import threading
import time
import urllib.parse

url, key, token, path = sys.argv[1:]
place = urllib.parse.urlsplit(url)
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
over = threading.Event()
lock = threading.Lock()
answered, slowest, lost = 0, 0.0, []


def one_connection():
    global answered, slowest
    if place.scheme == "https":
        client = http.client.HTTPSConnection(place.hostname, place.port, timeout=60, context=context)
    else:
        client = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    for number in range(20):
        began = time.monotonic()
        try:
            client.request("GET", place.path, headers={"X-Key": key, "X-Access-Token": token, "Host": place.netloc})
            answer = client.getresponse()
            answer.read()
            problem = None if answer.status == 200 else f"status {answer.status}"
            closes = answer.will_close
        except (OSError, http.client.HTTPException) as error:
            problem, closes = f"request {number} of a connection: {error!r}", True
        with lock:
            slowest = max(slowest, time.monotonic() - began)
            if problem:
                lost.append(problem)
            else:
                answered += 1
        if closes:
            break
    client.close()


def work():
    while not over.is_set() and len(lost) < 100:
        one_connection()


open(path, "w").write("0")
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
while os.path.exists(path):
    try:
        with open(path, "r+") as file:
            file.write(str(answered))
    except FileNotFoundError:
        pass
    time.sleep(0.02)
over.set()
for thread in threads:
    thread.join()
for problem in lost[:20]:
    print(problem)
print(f"{answered} answered, {len(lost)} lost, the slowest {slowest:.2f} s")
sys.exit(1 if lost or not answered else 0)
