"""A person on one of the servers, as a client library would act for them."""

import itertools
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

# How long anything may take to arrive: far more than it needs, so that only what never comes fails.
PATIENCE = 60


class Refused(Exception):
    """The server's answer was an error."""

    def __init__(self, call, status, body):
        super().__init__(f"{call}: {status} {body}")
        self.status = status
        try:
            self.errcode = json.loads(body).get("errcode")
        except ValueError:
            self.errcode = None


def request(method, url, body=None, token=None, content_type="application/json"):
    """The bytes that the server answers."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": content_type} if data is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=40) as answer:
            return answer.read()
    except TimeoutError:
        raise AssertionError(f"{method} {url} was not answered") from None
    except urllib.error.HTTPError as error:
        raise Refused(f"{method} {url}", error.code, error.read().decode(errors="replace")) from None


def quote(*segments):
    return "".join("/" + urllib.parse.quote(segment, safe="") for segment in segments)


def eventually(what, attempt, patience=PATIENCE):
    """What `attempt` returns, as soon as it is something. An answer that is an error counts as nothing yet."""
    deadline, last = time.monotonic() + patience, None
    while time.monotonic() < deadline:
        try:
            if found := attempt():
                return found
        except Refused as refused:
            last = refused
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}" + (f"; the last answer was {last}" if last else ""))


def refused(errcode, attempt):
    """Asserts that the server refuses with `errcode`."""
    try:
        answer = attempt()
    except Refused as error:
        assert error.errcode == errcode, f"{error} instead of {errcode}"
    else:
        raise AssertionError(f"{answer} instead of {errcode}")


class User:
    _numbers = itertools.count(1)
    _lock = threading.Lock()

    def __init__(self, server, name):
        """Registers a new account; its name begins with `name`."""
        with self._lock:
            name = f"{name}-{next(self._numbers)}"
        self.server = server
        body = {"username": name, "password": "a long password of " + name, "auth": {"type": "m.login.dummy"}}
        answer = json.loads(request("POST", f"{server.url}/_matrix/client/v3/register", body))
        self.id, self.token = answer["user_id"], answer["access_token"]

    def call(self, method, path, body=None, version="v3", **query):
        # What is given as a list is repeated.
        query = f"?{urllib.parse.urlencode(query, doseq=True)}" if query else ""
        return json.loads(request(method, f"{self.server.url}/_matrix/client/{version}{path}{query}", body, self.token))

    # Rooms: entering and leaving

    def create(self, version="11", state=(), **options):
        body = {"room_version": version, "initial_state": [_state_event(*event) for event in state], **options}
        return self.call("POST", "/createRoom", body)["room_id"]

    def join(self, room, *via):
        # Synapse reads the older name of `via`.
        return self.call("POST", f"/join{quote(room)}", {}, via=via, server_name=via)["room_id"]

    def knock(self, room, *via):
        return self.call("POST", f"/knock{quote(room)}", {"reason": "please"}, via=via, server_name=via)["room_id"]

    def leave(self, room):
        self.call("POST", f"/rooms{quote(room)}/leave", {})

    def invite(self, room, other):
        self.call("POST", f"/rooms{quote(room)}/invite", {"user_id": other.id})

    def kick(self, room, other):
        self.call("POST", f"/rooms{quote(room)}/kick", {"user_id": other.id})

    def ban(self, room, other):
        self.call("POST", f"/rooms{quote(room)}/ban", {"user_id": other.id})

    def membership_in_sync(self, room):
        """Where `/sync` has the room: join, invite, knock or leave; None if nowhere."""
        filter_ = json.dumps({"room": {"include_leave": True, "rooms": [room], "timeline": {"limit": 1}}})
        rooms = self.call("GET", "/sync", filter=filter_).get("rooms", {})
        return next((kind for kind, those in rooms.items() if room in those), None)

    def wait_for_invite(self, room):
        eventually(f"the invite of {self.id} to {room}", lambda: self.membership_in_sync(room) == "invite")

    # Rooms: saying and reading

    def say(self, room, text):
        path = f"/rooms{quote(room)}/send/m.room.message{quote(f'{self.id}{next(self._numbers)}')}"
        return self.call("PUT", path, {"msgtype": "m.text", "body": text})["event_id"]

    def set(self, room, event_type, content, state_key=""):
        return self.call("PUT", f"/rooms{quote(room)}/state{quote(event_type, state_key)}", content)["event_id"]

    def get(self, room, event_type, state_key=""):
        return self.call("GET", f"/rooms{quote(room)}/state{quote(event_type, state_key)}")

    def redact(self, room, event):
        path = f"/rooms{quote(room)}/redact{quote(event, f'{self.id}{next(self._numbers)}')}"
        return self.call("PUT", path, {})["event_id"]

    def event(self, room, event):
        return self.call("GET", f"/rooms{quote(room)}/event{quote(event)}")

    def receive(self, room, event):
        return eventually(f"{event} at {self.server.name}", lambda: self.event(room, event))

    def state(self, room):
        """Event ids by type and state key."""
        events = self.call("GET", f"/rooms{quote(room)}/state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    def members(self, room):
        """User ids by membership."""
        found = {}
        for event in self.call("GET", f"/rooms{quote(room)}/members")["chunk"]:
            found.setdefault(event["content"]["membership"], set()).add(event["state_key"])
        return found

    def history(self, room):
        """The events of the room's timeline, newest first, as far as this server has or gets them."""
        events, position = [], {}
        while True:
            page = self.call("GET", f"/rooms{quote(room)}/messages", dir="b", limit=100, **position)
            events += page["chunk"]
            if not page.get("end") or not page["chunk"]:
                return events
            position = {"from": page["end"]}

    # Files

    def upload(self, data, content_type, name):
        url = f"{self.server.url}/_matrix/media/v3/upload?filename={name}"
        return json.loads(request("POST", url, data, self.token, content_type))["content_uri"]

    def download(self, uri, kind="download", **query):
        query = f"?{urllib.parse.urlencode(query)}" if query else ""
        server, media = uri.removeprefix("mxc://").split("/")
        return request("GET", f"{self.server.url}/_matrix/client/v1/media/{kind}/{server}/{media}{query}", token=self.token)


def _state_event(event_type, content, state_key=""):
    return {"type": event_type, "state_key": state_key, "content": content}
