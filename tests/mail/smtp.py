"""A mail server that wants TLS and a password, and puts each letter into a file: smtp.py PORT CERTIFICATE KEY FOLDER"""

import itertools
import os
import signal
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

port, certificate, key, folder = int(sys.argv[1]), *sys.argv[2:]
numbers = itertools.count(1)


class Handler:
    async def handle_DATA(self, server, session, envelope):
        path = os.path.join(folder, str(next(numbers)))
        with open(path + ".part", "wb") as file:
            file.write(f"X-To: {','.join(envelope.rcpt_tos)}\r\n".encode() + envelope.content)
        os.rename(path + ".part", path)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"chappe", b"the right password"))


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate, key)
controller = Controller(
    Handler(),
    hostname="localhost",
    port=port,
    tls_context=context,
    require_starttls=True,
    auth_required=True,
    authenticator=authenticate,
)
controller.start()
signal.sigwait({signal.SIGTERM, signal.SIGINT})
controller.stop()
