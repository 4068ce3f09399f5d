"""Servers as processes, and the lines between them, which can be cut."""

import asyncio
import pathlib
import shutil
import subprocess
import threading
import time
import urllib.error

from client import quote, request

# The token of the application service that makes crowds.
CROWD_TOKEN = "token-of-the-crowd"
CROWD = f"""\
id: crowd
url: null
as_token: {CROWD_TOKEN}
hs_token: unused
sender_localpart: crowd
rate_limited: false
namespaces:
  users: [{{regex: '@crowd.*', exclusive: true}}]
  aliases: []
  rooms: []
"""


class Line:
    """What leads from the other servers to one server: it listens where the server's name points to."""

    def __init__(self, ip, server_ip):
        self.ip, self.server_ip = ip, server_ip
        self.listener, self.open = None, set()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.restore()

    def restore(self):
        self._run(self._listen())

    def cut(self):
        """From now on nobody reaches the server: what is open is closed, what comes is refused."""
        self._run(self._close())

    def _run(self, what):
        asyncio.run_coroutine_threadsafe(what, self.loop).result(10)

    async def _listen(self):
        self.listener = await asyncio.start_server(self._forward, self.ip, 8448)

    async def _close(self):
        self.listener.close()
        for writer in list(self.open):
            writer.transport.abort()

    async def _forward(self, reader, writer):
        self.open.add(writer)
        try:
            other_reader, other_writer = await asyncio.open_connection(self.server_ip, 8448)
            self.open.add(other_writer)
            try:
                await asyncio.gather(self._copy(reader, other_writer), self._copy(other_reader, writer))
            finally:
                self.open.discard(other_writer)
                other_writer.close()
        except OSError:
            pass  # the server is down, or the line was cut
        finally:
            self.open.discard(writer)
            writer.close()

    @staticmethod
    async def _copy(reader, writer):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


class Server:
    """One server of the federation: hsN, at 127.0.2.N."""

    def __init__(self, number, kind, launcher, work):
        self.name, self.kind, self.ip = f"hs{number}", kind, f"127.0.2.{number}"
        self.url = f"http://{self.ip}:8008"
        self.launcher, self.directory = launcher, pathlib.Path(work) / self.name
        for folder in ("db", "appservice"):
            (self.directory / folder).mkdir(parents=True)
        shutil.copytree(pathlib.Path(work) / "ca", self.directory / "ca")
        (self.directory / "appservice" / "crowd.yaml").write_text(CROWD)
        self.line = Line(f"127.0.1.{number}", self.ip)
        self.launch()

    def launch(self):
        with open(self.directory / "log", "ab") as log:
            command = [self.launcher, self.name, self.ip, self.directory]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self):
        """Until the server answers."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                request("GET", f"{self.url}/_matrix/client/versions")
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError(f"{self.name} did not start:\n{self.last_words()}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def last_words(self):
        return "\n".join((self.directory / "log").read_text(errors="replace").splitlines()[-15:])

    def crowd(self, prefix, size):
        """Registers users by the application service; the result is their ids."""
        for number in range(size):
            body = {"type": "m.login.application_service", "username": f"{prefix}-{number}", "inhibit_login": True}
            request("POST", f"{self.url}/_matrix/client/v3/register", body, CROWD_TOKEN)
        return [f"@{prefix}-{number}:{self.name}" for number in range(size)]

    def join_as(self, user, room):
        """Lets a member of the crowd join."""
        request("POST", f"{self.url}/_matrix/client/v3/join{quote(room)}?user_id={user}", {}, CROWD_TOKEN)
