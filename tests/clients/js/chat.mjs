// Two users of matrix-js-sdk, the library of Element Web, talk through the server at the base URL that is the argument.
import assert from "node:assert/strict";
import * as sdk from "matrix-js-sdk";
import { message, newClient, until } from "./client.mjs";

const [, , baseUrl] = process.argv;
const alice = await newClient(baseUrl, "alice");
const bob = await newClient(baseUrl, "bob");

async function step(name, run) {
  await run();
  console.log(`ok  ${name}`);
}

/** Alice creates a room with `options`, in which Bob then is. */
async function roomOfBoth(options) {
  const invited = until(bob, sdk.RoomEvent.MyMembership, (room, membership) => membership === "invite");
  const { room_id: roomId } = await alice.createRoom({ ...options, invite: [bob.getUserId()] });
  const [room] = await invited;
  assert.equal(room.roomId, roomId);
  const seen = until(alice, sdk.RoomMemberEvent.Membership, (_, m) => m.userId === bob.getUserId() && m.membership === "join");
  const joined = until(bob, sdk.RoomEvent.MyMembership, (_, membership) => membership === "join");
  await bob.joinRoom(roomId);
  await Promise.all([seen, joined]);
  return roomId;
}

/** Waits until `wanted` holds for the number of unread messages in `room`. */
async function unread(room, wanted) {
  const isIt = () => wanted(room.getUnreadNotificationCount("total"));
  if (!isIt()) await until(room, sdk.RoomEvent.UnreadNotifications, isIt);
}

let plain, encrypted;

await step("a profile is seen by others", async () => {
  await alice.setDisplayName("Alice Chappe");
  assert.equal((await bob.getProfileInfo(alice.getUserId())).displayname, "Alice Chappe");
});

await step("an invited user joins a room, with its name and the inviter's profile", async () => {
  plain = await roomOfBoth({ name: "Telegraph", preset: "private_chat" });
  const room = bob.getRoom(plain);
  assert.equal(room.name, "Telegraph");
  assert.equal(room.getMember(alice.getUserId()).name, "Alice Chappe");
  assert.equal(room.getJoinedMemberCount(), 2);
});

await step("messages go both ways", async () => {
  const there = message(bob, plain, "Is anybody there?");
  await alice.sendTextMessage(plain, "Is anybody there?");
  assert.equal((await there).getSender(), alice.getUserId());
  const back = message(alice, plain, "Yes, at the next tower.");
  await bob.sendTextMessage(plain, "Yes, at the next tower.");
  assert.equal((await back).getSender(), bob.getUserId());
});

await step("typing is seen, and its end", async () => {
  for (const typing of [true, false]) {
    const seen = until(alice, sdk.RoomMemberEvent.Typing, (_, m) => m.userId === bob.getUserId() && m.typing === typing);
    await bob.sendTyping(plain, typing, 10_000);
    await seen;
  }
});

await step("a read receipt is seen, and resets the unread count", async () => {
  const arrived = message(bob, plain, "Read this.");
  const { event_id: eventId } = await alice.sendTextMessage(plain, "Read this.");
  const event = await arrived;
  assert.equal(event.getId(), eventId);
  await unread(bob.getRoom(plain), (count) => count > 0);
  const seen = until(alice, sdk.RoomEvent.Receipt, () => alice.getRoom(plain).hasUserReadEvent(bob.getUserId(), eventId));
  await bob.sendReadReceipt(event);
  await seen;
  await unread(bob.getRoom(plain), (count) => count === 0);
});

await step("a redaction empties the message at the other side", async () => {
  const arrived = message(bob, plain, "A slip of the arm.");
  const { event_id: eventId } = await alice.sendTextMessage(plain, "A slip of the arm.");
  const event = await arrived;
  const redacted = until(bob, sdk.RoomEvent.Redaction, (redaction) => redaction.event.redacts === eventId
    || redaction.getContent().redacts === eventId);
  await alice.redactEvent(plain, eventId);
  await redacted;
  assert.deepEqual(event.getContent(), {});
});

await step("a media upload comes back to the other user, for whom it asks a token", async () => {
  const bytes = new Uint8Array(70_000).map((_, i) => i % 251);
  const { content_uri: uri } = await alice.uploadContent(new Blob([bytes]), { type: "application/octet-stream", name: "bytes" });
  const url = bob.mxcUrlToHttp(uri, undefined, undefined, undefined, false, true, true);
  assert.equal((await fetch(url)).status, 401);
  const answer = await fetch(url, { headers: { Authorization: `Bearer ${bob.getAccessToken()}` } });
  assert.equal(answer.status, 200);
  assert.deepEqual(new Uint8Array(await answer.arrayBuffer()), bytes);
});

await step("encrypted messages go both ways", async () => {
  const content = { algorithm: "m.megolm.v1.aes-sha2" };
  encrypted = await roomOfBoth({
    preset: "trusted_private_chat",
    is_direct: true,
    initial_state: [{ type: "m.room.encryption", state_key: "", content }],
  });
  const there = message(bob, encrypted, "For your eyes only.");
  await alice.sendTextMessage(encrypted, "For your eyes only.");
  assert.ok((await there).isEncrypted());
  const back = message(alice, encrypted, "So is this.");
  await bob.sendTextMessage(encrypted, "So is this.");
  assert.ok((await back).isEncrypted());
});

await step("a public room is found by its alias and in the directory, and its history is paged", async () => {
  const { room_id: roomId } = await alice.createRoom({ preset: "public_chat", visibility: "public", room_alias_name: "semaphore" });
  for (let i = 0; i < 40; i++) await alice.sendTextMessage(roomId, `signal ${i}`);
  const { chunk } = await bob.publicRooms({ limit: 100 });
  assert.ok(chunk.some((entry) => entry.room_id === roomId));
  const last = message(bob, roomId, "signal 39");
  const room = await bob.joinRoom(`#semaphore:${bob.getDomain()}`);
  assert.equal(room.roomId, roomId);
  await last;
  const timeline = bob.getRoom(roomId).getLiveTimeline();
  while (await bob.paginateEventTimeline(timeline, { backwards: true, limit: 15 }));
  const bodies = timeline.getEvents().map((event) => event.getContent().body).filter(Boolean);
  assert.deepEqual(bodies, Array.from({ length: 40 }, (_, i) => `signal ${i}`));
});

await step("a kicked user is out, and is told why", async () => {
  const out = until(bob, sdk.RoomEvent.MyMembership, (room, membership) => room.roomId === plain && membership === "leave");
  await alice.kick(plain, bob.getUserId(), "wrong tower");
  const [room] = await out;
  assert.equal(room.getMember(bob.getUserId()).events.member.getContent().reason, "wrong tower");
  await assert.rejects(bob.sendTextMessage(plain, "Let me in!"), { errcode: "M_FORBIDDEN" });
});

await step("a token ends with its session", async () => {
  const token = bob.getAccessToken();
  await bob.logout(true);
  const answer = await fetch(`${baseUrl}/_matrix/client/v3/account/whoami`, { headers: { Authorization: `Bearer ${token}` } });
  assert.equal(answer.status, 401);
  assert.equal((await answer.json()).errcode, "M_UNKNOWN_TOKEN");
});

alice.stopClient();
process.exit(0); // the library leaves timers behind
