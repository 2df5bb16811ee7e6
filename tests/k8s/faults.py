#!/usr/bin/python3
"""Stands between wakeport and the API server, and answers some calls itself, as an API server under load does.

usage: faults.py URL CA FAULT...

  429   one call in three, by chance, is refused for a second
  409   every second write is a conflict: the object has changed meanwhile
  410   every second watch ends with the event that its version is too old, and every third list is too old
  v1    knows EndpointSlices as v1 only, as Kubernetes from 1.25 on

Prints its port, and at the end of its input what it has counted of each.
"""

import collections
import http.client
import http.server
import itertools
import json
import random
import ssl
import sys
import threading
import urllib.parse

URL, CA, *FAULTS = sys.argv[1:]
TLS = ssl.create_default_context(cafile=CA)
PLACE = urllib.parse.urlsplit(URL)
SLICES = "/apis/discovery.k8s.io/"
counts = collections.Counter()
calls = collections.defaultdict(itertools.count)
lock = threading.Lock()


def due(what, every):
    """Whether it is the turn of this fault."""
    with lock:
        is_due = what in FAULTS and next(calls[what]) % every == every - 1
        counts[what] += is_due
    return is_due


class Between(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def status(self, code, reason, *headers):
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": reason}
        text = json.dumps(body).encode()
        self.send_response(code)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(text))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def pieces(self, pieces):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def handle_call(self):
        length = int(self.headers.get("Content-Length") or 0)
        body, path = self.rfile.read(length), self.path
        reads, watches = self.command == "GET", "watch=true" in path
        # By turns, a wake that always needs three calls in a row would never come to its end.
        if random.random() < 1 / 3 and due("429", 1):
            return self.status(429, "a test says so", ("Retry-After", "1"))
        if not reads and due("409", 2):
            return self.status(409, "the object has been modified")
        if watches and due("410", 2):
            gone = {"code": 410, "message": "too old resource version"}
            return self.pieces([json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"])
        if reads and not watches and "elector=" in path and due("410", 3):
            return self.status(410, "too old resource version")
        if "v1" in FAULTS and path.startswith(SLICES):
            version, rest = path[len(SLICES) :].split("/", 1)
            if version != "v1":
                return self.status(404, "the server could not find the requested resource")
            counts["v1"] += 1
            path = SLICES + "v1beta1/" + rest
        upstream = http.client.HTTPSConnection(PLACE.hostname, PLACE.port, context=TLS, timeout=400)
        names = ("Authorization", "Accept", "Content-Type")
        headers = {name: self.headers[name] for name in names if self.headers[name]}
        upstream.request(self.command, path, body or None, headers)
        response = upstream.getresponse()
        if watches and response.status == 200:
            return self.pieces(line for line in response)
        text = response.read()
        self.send_response(response.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def answer(self):
        try:
            self.handle_call()
        except (OSError, http.client.HTTPException):
            # One of both has gone: so does the other.
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_PATCH = answer


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Between)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
print(json.dumps(counts), flush=True)
