"""Two requests by hand, for what clients do not tell: how batches are stored (Fetch 4), who coordinates a group (FindCoordinator 1)."""

import socket
import struct

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def text(value):
    data = value.encode()
    return struct.pack(">h", len(data)) + data


def exactly(stream, count):
    data = bytearray()
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise ConnectionError("closed in the middle of an answer")
        data += more
    return bytes(data)


def ask(host, port, key, version, body):
    """The body of the answer; header version 1 of requests, 0 of answers."""
    with socket.create_connection((host, port), 10) as stream:
        request = struct.pack(">hhi", key, version, 1) + text("matrix") + body
        stream.sendall(struct.pack(">i", len(request)) + request)
        return exactly(stream, struct.unpack(">i", exactly(stream, 4))[0])[4:]


def coordinator(host, port, group):
    """Node id of the coordinator; None while there is none."""
    answer = ask(host, port, 10, 1, text(group) + b"\0")
    error, length = struct.unpack_from(">hh", answer, 4)
    return None if error else struct.unpack_from(">i", answer, 8 + max(length, 0))[0]


def batches(host, port, topic, partition, offset, end):
    """(codec, producer id, first sequence, records) of the batches from `offset` to `end`, asked of the partition's leader."""
    found = []
    while offset < end:
        body = struct.pack(">iiiib", -1, 1000, 1, 1 << 24, 0) + struct.pack(">i", 1) + text(topic)
        body += struct.pack(">iiqi", 1, partition, offset, 1 << 24)
        answer = ask(host, port, 1, 4, body)
        at = 8 + 2 + len(topic.encode()) + 4
        _, error, _, _, aborted = struct.unpack_from(">ihqqi", answer, at)
        if error:
            raise AssertionError(f"Fetch of {topic}/{partition}: error {error}")
        at += 26 + 16 * max(aborted, 0)
        size = struct.unpack_from(">i", answer, at)[0]
        data, before = answer[at + 4:at + 4 + size], offset
        while len(data) >= 61:
            base, length = struct.unpack_from(">qi", data)
            if len(data) < 12 + length:
                break
            attributes, last, _, _, producer, _, sequence, count = struct.unpack_from(">hiqqqhii", data, 21)
            found.append((CODECS[attributes & 7], producer, sequence, count))
            offset, data = base + last + 1, data[12 + length:]
        if offset == before:
            raise AssertionError(f"Fetch of {topic}/{partition} at {offset} brought nothing")
    return found
