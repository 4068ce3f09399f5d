"""What people on two servers do together: scenarios.py WORK SERVER... (SERVER: KIND=LAUNCHER)

Each scenario takes the server on which a room is made and another one whose users come in. `ONLY=invite,join` selects some.
"""

import concurrent.futures
import os
import struct
import subprocess
import sys
import time
import traceback
import zlib

from client import User, eventually, refused
from servers import Server

CROWD_SIZE = 2000
PUBLIC = {"preset": "public_chat"}


def same_state(room, *people):
    """Waits until the servers of `people` have the same events as the room's state."""

    def attempt():
        first, *others = [person.state(room) for person in people]
        return first if all(other == first for other in others) else None

    try:
        return eventually(f"one state of {room}", attempt)
    except AssertionError as error:
        states = [set(person.state(room).items()) for person in people]
        differing = "\n".join(
            f"only {person.server.name}: {key} {event}"
            for person, state in zip(people, states)
            for key, event in state - set.intersection(*states)
        )
        raise AssertionError(f"{error}\n{differing}") from None


def talk(room, *people):
    """Everybody says something that everybody receives, and all have one state."""
    same_state(room, *people)  # who does not know of a server yet does not send it anything
    for person in people:
        event = person.say(room, f"{person.id} says hello")
        for other in people:
            assert other.receive(room, event)["content"]["body"] == f"{person.id} says hello"
    same_state(room, *people)


def invite(host, guest):
    alice, bob = User(host, "alice"), User(guest, "bob")
    room = alice.create(preset="private_chat", invite=[bob.id], name="By invitation")
    bob.wait_for_invite(room)
    bob.join(room)
    talk(room, alice, bob)

    bob.leave(room)
    eventually("the leave", lambda: bob.id in alice.members(room).get("leave", ()))
    refused("M_FORBIDDEN", lambda: bob.join(room, host.name))
    alice.invite(room, bob)
    bob.wait_for_invite(room)
    bob.leave(room)
    eventually("the refusal", lambda: alice.get(room, "m.room.member", bob.id)["membership"] == "leave")


def join(host, guest):
    alice, bob, carol = User(host, "alice"), User(guest, "bob"), User(guest, "carol")
    alias = f"door-{bob.id[1:].split(':')[0]}"
    room = alice.create(**PUBLIC, room_alias_name=alias, topic="Come in", visibility="public")
    listed = bob.call("POST", "/publicRooms", {"filter": {"generic_search_term": "Come in"}}, server=host.name)
    assert room in [entry["room_id"] for entry in listed["chunk"]], listed
    assert bob.join(f"#{alias}:{host.name}") == room
    talk(room, alice, bob)
    carol.join(room)
    talk(room, alice, bob, carol)

    said = bob.say(room, "a mistake")
    alice.receive(room, said)
    redaction = bob.redact(room, said)
    alice.receive(room, redaction)
    assert alice.event(room, said)["content"] == {}
    alice.kick(room, carol)
    eventually("the kick", lambda: carol.membership_in_sync(room) == "leave")
    alice.ban(room, bob)
    eventually("the ban", lambda: bob.membership_in_sync(room) == "leave")
    refused("M_FORBIDDEN", lambda: bob.say(room, "still here"))
    refused("M_FORBIDDEN", lambda: bob.join(room, host.name))


def knock(host, guest):
    alice, bob = User(host, "alice"), User(guest, "bob")
    room = alice.create(state=[("m.room.join_rules", {"join_rule": "knock"})], name="Knock, please")
    assert bob.knock(room, host.name) == room
    eventually("the knock", lambda: alice.get(room, "m.room.member", bob.id)["membership"] == "knock")
    assert bob.membership_in_sync(room) == "knock"
    alice.invite(room, bob)
    bob.wait_for_invite(room)
    bob.join(room)
    talk(room, alice, bob)

    carol = User(guest, "carol")
    carol.knock(room, host.name)
    eventually("the knock", lambda: alice.get(room, "m.room.member", carol.id)["membership"] == "knock")
    alice.kick(room, carol)
    eventually("the refusal", lambda: carol.membership_in_sync(room) == "leave")


def files(host, guest):
    alice, bob = User(host, "alice"), User(guest, "bob")
    picture, long, empty = png(200, 100), bytes(range(256)) * 4000, b""
    for owner, other in [(alice, bob), (bob, alice)]:
        for data, content_type in [(picture, "image/png"), (long, "application/octet-stream"), (empty, "text/plain")]:
            if data == empty and owner.server.kind == "synapse":
                continue  # it announces the length of an answer of which it never sends the rest
            uri = owner.upload(data, content_type, "file")
            assert other.download(uri) == data, f"{uri} came to {other.server.name} changed"
    for owner, other in [(alice, bob), (bob, alice)]:
        uri = owner.upload(picture, "image/png", "picture.png")
        thumbnail = other.download(uri, "thumbnail", width=32, height=32, method="crop")
        assert thumbnail[:8] == picture[:8] or thumbnail[:2] == b"\xff\xd8" or thumbnail[:4] == b"RIFF", thumbnail[:16]
        assert 0 < len(thumbnail) < 20_000
    refused("M_NOT_FOUND", lambda: bob.download(f"mxc://{host.name}/nothing"))


def restricted(host, guest):
    alice, bob, stranger = User(host, "alice"), User(guest, "bob"), User(guest, "stranger")
    space = alice.create(**PUBLIC, creation_content={"type": "m.space"})
    allow = [{"type": "m.room_membership", "room_id": space}]
    room = alice.create(state=[("m.room.join_rules", {"join_rule": "restricted", "allow": allow})], name="Members only")
    alice.set(space, "m.space.child", {"via": [host.name]}, room)
    refused("M_FORBIDDEN", lambda: bob.join(room, host.name))
    bob.join(space, host.name)
    eventually("the way in", lambda: bob.join(room, host.name))
    assert bob.get(room, "m.room.member", bob.id)["membership"] == "join"
    children = bob.call("GET", f"/rooms/{space}/hierarchy", version="v1")["rooms"]
    assert {child["room_id"] for child in children} == {space, room}, children
    talk(room, alice, bob)
    refused("M_FORBIDDEN", lambda: stranger.join(room, host.name))


def upgrade(host, guest):
    alice, bob = User(host, "alice"), User(guest, "bob")
    room = alice.create("10", **PUBLIC, topic="Carried over")
    bob.join(room, host.name)
    talk(room, alice, bob)
    new = alice.call("POST", f"/rooms/{room}/upgrade", {"new_version": "12"})["replacement_room"]
    tombstone = eventually("the tombstone", lambda: bob.get(room, "m.room.tombstone"))
    assert tombstone["replacement_room"] == new
    same_state(room, alice, bob)  # the power levels that close it come after the tombstone
    refused("M_FORBIDDEN", lambda: bob.say(room, "too late"))
    bob.join(new, host.name)
    assert bob.get(new, "m.room.create")["predecessor"]["room_id"] == room
    assert bob.get(new, "m.room.topic")["topic"] == "Carried over"
    talk(new, alice, bob)


def version_12(host, guest):
    alice, bob, carol = User(host, "alice"), User(guest, "bob"), User(guest, "carol")
    room = alice.create("12", preset="trusted_private_chat", invite=[bob.id])
    assert ":" not in room
    bob.wait_for_invite(room)
    bob.join(room)
    # Whom a trusted private chat begins with are creators beside its maker, above every power level.
    assert bob.get(room, "m.room.create")["additional_creators"] == [bob.id]
    levels = bob.get(room, "m.room.power_levels")
    assert not {alice.id, bob.id} & set(levels.get("users", {}))
    talk(room, alice, bob)
    bob.set(room, "m.room.power_levels", {**levels, "users": {carol.id: 150}})
    bob.invite(room, carol)
    carol.wait_for_invite(room)
    carol.join(room)
    talk(room, alice, bob, carol)
    refused("M_FORBIDDEN", lambda: carol.kick(room, alice))
    alice.kick(room, carol)
    eventually("the kick", lambda: carol.membership_in_sync(room) == "leave")
    same_state(room, alice, bob)


def history(host, guest):
    """Who comes later reads what was said before, which the own server does not have yet."""
    alice, bob = User(host, "alice"), User(guest, "bob")
    room = alice.create(**PUBLIC)
    said = [alice.say(room, f"number {number}") for number in range(120)]
    bob.join(room, host.name)
    read = [event["event_id"] for event in bob.history(room) if event["type"] == "m.room.message"]
    assert read == said[::-1], f"{len(read)} of {len(said)} messages"


def crowd(host, guest, third):
    """A room of thousands, into which somebody of another server comes, and through that server somebody of a third."""
    alice, bob, carol = User(host, "alice"), User(guest, "bob"), User(third, "carol")
    room = alice.create(**PUBLIC)
    for member in host.crowd("crowd", CROWD_SIZE):
        host.join_as(member, room)
    for person, via in [(bob, host), (carol, guest)]:
        start = time.monotonic()
        person.join(room, via.name)
        took = time.monotonic() - start
        print(f"  {person.server.kind} joined {CROWD_SIZE} members through {via.kind} in {took:.1f} s", flush=True)
    talk(room, alice, bob, carol)
    assert all(len(person.members(room)["join"]) == CROWD_SIZE + 3 for person in [alice, bob, carol])


def encrypted(host, guest):
    """Two clients of the matrix-rust-sdk."""
    environment = {**os.environ, "HOMESERVERS": f"{host.url} {guest.url}"}
    command = [os.environ["SDK_TESTS"], "encrypted_peers", "--ignored", "--nocapture"]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout
    assert "1 passed" in ended.stdout, ended.stdout


def outage(host, guest):
    """The guest's server dies, misses a conversation, and catches up, in each of some rooms."""
    alice, bob = User(host, "alice"), User(guest, "bob")
    rooms = [alice.create(**PUBLIC) for _ in range(3)]
    for room in rooms:
        bob.join(room, host.name)
        talk(room, alice, bob)
    guest.kill()
    missed = [[alice.say(room, f"number {number}") for number in range(30)] for room in rooms]
    for room in rooms:
        alice.set(room, "m.room.topic", {"topic": "set meanwhile"})
    guest.launch()
    guest.wait()
    # A server that is heard of is tried again.
    bob.say(rooms[0], "back again")
    for room, those in zip(rooms, missed):
        eventually("the topic", lambda: bob.get(room, "m.room.topic")["topic"] == "set meanwhile")
        for event in those:
            bob.receive(room, event)
        talk(room, alice, bob)
        read = [event["event_id"] for event in bob.history(room)]
        assert set(those) <= set(read), f"{len(set(those) - set(read))} missing from the history"


def fork(host, guest):
    """Both sides go on while nothing passes between them; afterwards they agree again, whichever way of resolution."""
    alice, amy, *others = User(host, "alice"), User(host, "amy"), User(guest, "bob"), User(guest, "ben"), User(guest, "eve")
    bob, ben, eve = others
    rooms = []
    for version in ["1", "10", "11", "12"]:
        levels = {bob.id: 50} if version == "12" else {alice.id: 100, bob.id: 50}
        room = alice.create(version, **PUBLIC, power_level_content_override={"users": levels})
        for person in [bob, eve]:
            person.join(room, host.name)
        talk(room, alice, bob, eve)
        rooms.append(room)
    host.line.cut()
    guest.line.cut()
    for room in rooms:
        # Here: a topic, a new member, a ban. There: another topic and a name, a new member, and the banned one, who goes on.
        alice.set(room, "m.room.topic", {"topic": "here"})
        amy.join(room)
        alice.ban(room, eve)
        amy.say(room, "said here")
        bob.set(room, "m.room.topic", {"topic": "there"})
        bob.set(room, "m.room.name", {"name": "there"})
        ben.join(room)
        eve.say(room, "not banned where she is")
        ben.say(room, "said there")
    host.line.restore()
    guest.line.restore()
    for room in rooms:
        eventually("each other's messages", lambda: heard_again(room, [alice, amy], [bob, ben]))
        state = same_state(room, alice, amy, bob, ben)
        for person in [alice, amy, bob, ben]:
            assert ("m.room.member", person.id) in state
            assert person.id in bob.members(room)["join"]
        assert alice.get(room, "m.room.member", eve.id)["membership"] == "ban"
        assert alice.get(room, "m.room.name")["name"] == "there"
        refused("M_FORBIDDEN", lambda: eve.say(room, "banned everywhere"))
        talk(room, alice, amy, bob, ben)


def heard_again(room, *sides):
    """Lets somebody of each side speak until all of the others have received it."""
    said = [(side, side[0].say(room, "is anybody there?")) for side in sides]
    time.sleep(0.5)
    return all(person.event(room, event) for side, event in said for other in sides if other is not side for person in other)


def png(width, height):
    """A picture whose pixels differ."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(value for x in range(width) for value in (x, y, 128)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# The first can go on beside each other; of the second, each has the servers to itself.
TOGETHER = [invite, join, knock, files, restricted, upgrade, version_12, history, encrypted]
ALONE = [outage, fork]


class Report:
    def __init__(self):
        self.passed, self.failed = 0, 0

    def run(self, scenario, servers):
        between = " with ".join(f"{server.name} ({server.kind})" for server in servers)
        name, start = f"{scenario.__name__}: {between}", time.monotonic()
        try:
            scenario(*servers)
        except Exception:
            self.failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
        else:
            self.passed += 1
            print(f"ok {name}, {time.monotonic() - start:.1f} s", flush=True)


def main():
    work, *wanted = sys.argv[1:]
    only = [name for name in os.environ.get("ONLY", "").split(",") if name]
    servers = [Server(number, *one.split("=", 1), work) for number, one in enumerate(wanted, 1)]
    for server in servers:
        server.wait()
    synapse, chappe, second = servers
    pairs = [(synapse, chappe), (chappe, synapse), (chappe, second)]
    # What takes longest begins first.
    together = [(crowd, (chappe, synapse, second)), *((scenario, pair) for scenario in TOGETHER for pair in pairs)]
    alone = [(scenario, pair) for scenario in ALONE for pair in pairs]
    report = Report()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for scenario, who in together:
            if not only or scenario.__name__ in only:
                pool.submit(report.run, scenario, who)
    for scenario, who in alone:
        if not only or scenario.__name__ in only:
            report.run(scenario, who)
    if report.failed:
        for server in servers:
            print(f"-- {server.name} ({server.kind}):\n{server.last_words()}")
    print(f"{report.passed} passed, {report.failed} failed")
    for server in servers:
        server.kill()
    sys.exit(1 if report.failed or not report.passed else 0)


main()
