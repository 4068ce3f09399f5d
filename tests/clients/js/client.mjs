// One user of the server under test, on matrix-js-sdk: started, with end-to-end encryption, its events easy to wait for.
import assert from "node:assert/strict";
import * as sdk from "matrix-js-sdk";

// The library tells the console of every request; a failing assertion says enough.
for (const level of ["trace", "debug", "info", "warn", "error"]) console[level] = () => {};

const PATIENCE_MS = 20_000;

/** Registers `localpart`, logs in again as a client would on its next start, and syncs. */
export async function newClient(baseUrl, localpart) {
  const password = `password of ${localpart}`;
  const anonymous = sdk.createClient({ baseUrl });
  await register(anonymous, localpart, password);
  const session = await anonymous.loginRequest({
    type: "m.login.password",
    identifier: { type: "m.id.user", user: localpart },
    password,
    initial_device_display_name: "matrix-js-sdk",
  });
  const client = sdk.createClient({
    baseUrl,
    userId: session.user_id,
    deviceId: session.device_id,
    accessToken: session.access_token,
  });
  await client.initRustCrypto({ useIndexedDB: false });
  await client.startClient({ initialSyncLimit: 20 });
  await until(client, sdk.ClientEvent.Sync, (state) => state === "PREPARED" || state === "SYNCING");
  return client;
}

/** Registration as browsers do it: the first request asks for the session, the second one answers its only stage. */
async function register(client, username, password) {
  const request = { username, password, inhibit_login: true };
  const refused = await client.registerRequest(request).then(
    () => assert.fail("registration without authentication must ask for it"),
    (error) => error,
  );
  assert.equal(refused.httpStatus, 401);
  assert.ok(refused.data.flows.some(({ stages }) => stages.join() === "m.login.dummy"), "a flow of m.login.dummy alone");
  await client.registerRequest({ ...request, auth: { type: "m.login.dummy", session: refused.data.session } });
}

/** Resolves with the arguments of the first `event` of `emitter` for which `wanted(...arguments)` holds. */
export function until(emitter, event, wanted) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      emitter.off(event, listener);
      reject(new Error(`no ${event} for which ${wanted}`));
    }, PATIENCE_MS);
    function listener(...args) {
      if (!wanted(...args)) return;
      clearTimeout(timer);
      emitter.off(event, listener);
      resolve(args);
    }
    emitter.on(event, listener);
  });
}

/** Resolves with the message `body` in room `roomId` once `client` has received it and, where need be, decrypted it. */
export async function message(client, roomId, body) {
  const isIt = (event) => event.getRoomId() === roomId && event.getContent().body === body;
  const known = client.getRoom(roomId)?.getLiveTimeline().getEvents().find(isIt);
  if (known) return known;
  const inTheClear = until(client, sdk.RoomEvent.Timeline, isIt).then(([event]) => event);
  const decrypted = until(client, sdk.MatrixEventEvent.Decrypted, isIt).then(([event]) => event);
  return Promise.any([inTheClear, decrypted]);
}
