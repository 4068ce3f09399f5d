"""Answers for the names of test servers, on port 53 of 127.0.0.1: hsN is 127.0.1.N, and there is no other name."""

import re
import socketserver
import struct

LOCAL = {b"localhost", b"host.docker.internal"}
A, NO_SUCH_NAME = 1, 3


def address(name):
    number = re.fullmatch(rb"hs(\d{1,2})", name)
    if number and int(number[1]):
        return bytes([127, 0, 1, int(number[1])])
    return bytes([127, 0, 0, 1]) if name in LOCAL else None


class Query(socketserver.DatagramRequestHandler):
    def handle(self):
        query = self.rfile.read()
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]])
            at += 1 + query[at]
        (kind,) = struct.unpack_from(">H", query, at + 1)
        found = address(b".".join(labels).lower())
        answers = [found] if found and kind == A else []
        # An authoritative answer, with recursion, as a resolver of the machine would give.
        flags = 0x8580 | (0 if found else NO_SUCH_NAME)
        self.wfile.write(query[:2] + struct.pack(">5H", flags, 1, len(answers), 0, 0) + query[12 : at + 5])
        for ip in answers:
            self.wfile.write(struct.pack(">3HIH", 0xC00C, A, 1, 60, 4) + ip)


socketserver.UDPServer(("127.0.0.1", 53), Query).serve_forever()
