#!/usr/bin/python3
import os, select, signal, socket, sys, threading

dir = os.path.dirname(sys.argv[0])

def dies(phase):
    for file in (phase, phase + ".again"):
        try:
            os.unlink(f"{dir}/{file}")
        except FileNotFoundError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)

def note(file, line):
    with open(f"{dir}/{file}", "a") as notes:
        notes.write(f"{line}\n")

def serve(client):
    data = b""
    def read():
        nonlocal data
        more = client.recv(65536)
        data += more
        return more
    while True:
        while b"\r\n\r\n" not in data:
            if not read():
                return
        head, data = data.split(b"\r\n\r\n", 1)
        note("seen", head.split(b" ")[1].decode())
        dies("head")
        fields = head.lower()
        whole = b"0\r\n\r\n" if b"chunked" in fields else b"body" if b"content-length" in fields else b""
        if whole and not data:
            read()
        if whole:
            dies("body")
        while whole not in data:
            if not read():
                return
        data = data[data.index(whole) + len(whole):]
        dies("before")
        if b"upgrade: x" in fields:
            client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            while part := client.recv(65536):
                client.sendall(part)
                dies("upgraded")
        if os.path.exists(f"{dir}/interim"):
            client.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            dies("interim")
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        dies("response-head")
        client.sendall(b"abc")
        dies("response-body")
        client.sendall(b"def")

dies("waking")
host, port = sys.argv[1].rsplit(":", 1)
listener = socket.create_server((host, int(port)))
note("pids", os.getpid())
while True:
    select.select([listener], [], [])
    dies("connect")
    client, _ = listener.accept()
    dies("unread")
    threading.Thread(target=serve, args=(client,), daemon=True).start()
