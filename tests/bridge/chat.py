"""What a user of the bridge would do: chat.py URL IRC_PORT"""

import json
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

BASE, IRC_PORT = sys.argv[1], int(sys.argv[2])
DEADLINE = time.monotonic() + 90


def request(method, path, body=None, token=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(f"{BASE}/_matrix/client/v3{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(call, timeout=40) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {error.code} {error.read().decode()}")


class Matrix:
    def __init__(self, name):
        body = {"username": name, "password": "secret", "auth": {"type": "m.login.dummy"}}
        answer = request("POST", "/register", body)
        self.token, self.since, self.count = answer["access_token"], None, 0
        self.seen = []

    def call(self, method, path, body=None):
        return request(method, path, body, self.token)

    def say(self, room, text):
        self.count += 1
        body = {"msgtype": "m.text", "body": text}
        self.call("PUT", f"/rooms/{urllib.parse.quote(room)}/send/m.room.message/{self.count}", body)

    def wait(self, what, found):
        """The first thing in what comes, invites included, that `found` accepts."""
        while time.monotonic() < DEADLINE:
            for thing in self.seen:
                if found(*thing):
                    self.seen.remove(thing)
                    return thing
            since = f"&since={self.since}" if self.since else ""
            news = self.call("GET", f"/sync?timeout=5000{since}")
            self.since = news["next_batch"]
            for room, value in news.get("rooms", {}).get("invite", {}).items():
                self.seen += [(room, event) for event in value["invite_state"]["events"]]
            for room, value in news.get("rooms", {}).get("join", {}).items():
                self.seen += [(room, event) for event in value["timeline"]["events"]]
        came = "\n".join(f"{room} {json.dumps(event)}" for room, event in self.seen)
        sys.exit(f"waited in vain for {what}; what came and was not waited for:\n{came}")

    def wait_for_text(self, text, room=None):
        def found(where, event):
            body = str(event.get("content", {}).get("body", ""))
            return event.get("type") == "m.room.message" and text.lower() in body.lower() and room in (None, where)

        return self.wait(repr(text), found)

    def join_next_invitation(self, name):
        def found(_, event):
            return event.get("type") == "m.room.name" and name in event["content"].get("name", "")

        room, _ = self.wait(f"an invitation to {name}", found)
        self.call("POST", f"/join/{urllib.parse.quote(room)}", {})
        return room


class Irc:
    def __init__(self, nick):
        self.socket = socket.create_connection(("127.0.0.1", IRC_PORT), timeout=10)
        self.lines = self.socket.makefile(encoding="utf-8", newline="\r\n")
        self.send(f"NICK {nick}")
        self.send(f"USER {nick} 0 * :{nick}")
        self.wait(" 001 ")

    def send(self, line):
        self.socket.sendall(f"{line}\r\n".encode())

    def wait(self, text):
        while time.monotonic() < DEADLINE:
            self.socket.settimeout(max(0.1, DEADLINE - time.monotonic()))
            line = self.lines.readline().rstrip()
            if line.startswith("PING"):
                self.send("PONG" + line[4:])
            if text in line:
                return line
        sys.exit(f"waited in vain for {text!r} on IRC")


bob = Irc("bob")
bob.send("JOIN #office")
bob.wait("JOIN")

alice = Matrix("alice")
body = {"preset": "trusted_private_chat", "is_direct": True, "invite": ["@heisenbridge:localhost"]}
control = alice.call("POST", "/createRoom", body)["room_id"]
alice.wait_for_text("help", control)
print("the bridge came and said hello")
alice.say(control, "addnetwork test")
alice.wait_for_text("network added", control)
alice.say(control, f"addserver test 127.0.0.1 {IRC_PORT}")
alice.wait_for_text("server added", control)
alice.say(control, "open test")
network = alice.join_next_invitation("test")
alice.say(network, "nick alice")
alice.say(network, "connect")
alice.wait_for_text("welcome to the internet relay network", network)
alice.say(network, "join #office")
channel = alice.join_next_invitation("#office")
bob.wait(" JOIN ")
print("the channel is a room")
alice.say(channel, "hello from Matrix")
bob.wait("PRIVMSG #office :hello from Matrix")
bob.send("PRIVMSG #office :hello from IRC, à bientôt")
_, event = alice.wait_for_text("hello from IRC, à bientôt", channel)
assert event["sender"].startswith("@irc_") or "bob" in event["sender"], event["sender"]
print(f"both hear each other; on Matrix bob is {event['sender']}")
