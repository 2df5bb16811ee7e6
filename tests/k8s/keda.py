#!/usr/bin/python3
"""Calls an external scaler as KEDA does, for one `external-push` trigger, and prints what comes of it: a stream, opened
again after a pause that only a clean end resets; and every half second GetMetricSpec, GetMetrics for each metric, and
IsActive. The messages are encoded here, after KEDA's documented interface.

usage: keda.py ADDRESS [KEY=VALUE...]   with the trigger's metadata
"""

import struct
import sys
import threading
import time

import grpc

METHODS = "/externalscaler.ExternalScaler/"


def number(value):
    text = b""
    while value > 127:
        text, value = text + bytes([value & 127 | 128]), value >> 7
    return text + bytes([value])


def block(field, content):
    return number(field << 3 | 2) + number(len(content)) + content


def text(field, content):
    return block(field, content.encode())


def fields(message):
    """The fields of a message, each with its values."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            value = varint()
        elif key & 7 == 1:
            value, at = struct.unpack("<d", message[at : at + 8])[0], at + 8
        else:
            length = varint()
            value, at = message[at : at + length], at + length
        found.setdefault(key >> 3, []).append(value)
    return found


def first(found, field, otherwise):
    return found.get(field, [otherwise])[0]


def say(*words):
    print(*words, flush=True)


address, *pairs = sys.argv[1:]
pairs = [pair.split("=", 1) for pair in pairs]
trigger = text(1, "web") + text(2, "shop") + b"".join(block(3, text(1, key) + text(2, value)) for key, value in pairs)
channel = grpc.insecure_channel(address)


def call(method, message):
    return fields(channel.unary_unary(METHODS + method)(message, timeout=5))


def stream():
    pause = 2
    while True:
        try:
            for message in channel.unary_stream(METHODS + "StreamIsActive")(trigger):
                say("stream", bool(first(fields(message), 1, 0)))
            say("end", "OK")
            pause = 2
        except grpc.RpcError as error:
            say("end", error.code().name)
            pause = min(60, pause * 2)
        time.sleep(pause)


threading.Thread(target=stream, daemon=True).start()
while True:
    try:
        for spec in call("GetMetricSpec", trigger).get(1, []):
            spec = fields(spec)
            name = first(spec, 1, b"")
            say("spec", name.decode(), first(spec, 2, 0), first(spec, 3, 0.0))
            for value in call("GetMetrics", block(1, trigger) + block(2, name)).get(1, []):
                value = fields(value)
                assert first(value, 1, b"") == name, value
                assert first(value, 2, 0) == first(value, 3, 0.0), value
                say("metric", name.decode(), first(value, 2, 0))
        say("active", bool(first(call("IsActive", trigger), 1, 0)))
    except grpc.RpcError as error:
        say("error", error.code().name, error.details())
    time.sleep(0.5)
