// Logs people in by a real provider, as browsers and clients do: log_in.mjs SERVER_HOST PROVIDER_PORT

import assert from "node:assert/strict";

import { Browser } from "./browser.mjs";
import { start } from "./provider.mjs";

const [host, port] = process.argv.slice(2);
const server = `http://${host}:8008`;
const api = `${server}/_matrix/client/v3`;
const APP = "app.example:/back";

const call = async (method, path, token, body) => {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(`${api}${path}`, { method, headers, body: body && JSON.stringify(body) });
  return { status: answer.status, ...(await answer.json()) };
};

/** What the provider's own pages ask: the name, and whether we may know it. */
const throughProvider = async (browser, page, name) => {
  if (page.text.includes('name="login"')) page = await browser.submit(page, { login: name, password: "x" });
  if (page.text.includes('value="consent"')) page = await browser.submit(page, {});
  return page;
};

const logIn = async (browser, provider, name) => {
  let page = await browser.open(`${api}/login/sso/redirect/${provider}?redirectUrl=${encodeURIComponent(APP)}`);
  page = await throughProvider(browser, page, name);
  assert(page.url.startsWith(`${server}/_chappe/sso/client?`), `${page.url} ${page.status} ${page.text}`);
  assert(page.text.includes("app.example wants"), page.text);
  page = await browser.submit(page, { decision: "allow" });
  const token = new URL(page.url).searchParams.get("loginToken");
  const session = await call("POST", "/login", undefined, { type: "m.login.token", token });
  assert.equal(session.status, 200, JSON.stringify(session));
  return session;
};

const listening = await start(host, port, server);
try {
  const sso = (await call("GET", "/login")).flows.find((flow) => flow.type === "m.login.sso");
  assert.deepEqual(sso.identity_providers.map(({ id }) => id), ["plain", "signed"]);

  const browser = new Browser();
  const alice = await logIn(browser, "plain", "alice");
  assert.equal(alice.user_id, "@alice:localhost");
  const profile = await call("GET", `/profile/${alice.user_id}`);
  assert.equal(profile.displayname, "alice of the provider");
  console.log("an account was made, by an id_token with RS256 and plain userinfo");

  // Another provider with the same, verified address, and everything signed otherwise.
  const again = await logIn(new Browser(), "signed", "alice");
  assert.equal(again.user_id, alice.user_id);
  console.log("the account was found by its address, by an id_token with ES256 and userinfo signed with PS256");
  const other = new Browser();
  let page = await other.open(`${api}/login/sso/redirect/signed?redirectUrl=${encodeURIComponent(APP)}`);
  page = await throughProvider(other, page, "mallory");
  assert.equal(page.status, 403, page.text);
  console.log("who has no account, and an address that is not verified, was not let in");

  // A log-in that the provider only remembers does not prove anything: it asks again.
  const path = `/devices/${again.device_id}`;
  const { session, flows } = await call("DELETE", path, alice.access_token, {});
  assert.deepEqual(flows, [{ stages: ["m.login.sso"] }]);
  page = await browser.open(`${api}/auth/m.login.sso/fallback/web?session=${session}`);
  page = await browser.click(page, "/_chappe/sso/begin/plain");
  assert(page.text.includes('name="login"'), `the provider asks who it is: ${page.url} ${page.text}`);
  page = await throughProvider(browser, page, "alice");
  assert(page.text.includes("wants to log a device out"), page.text);
  page = await browser.submit(page, {});
  assert(page.text.includes("onAuthDone"), page.text);
  const done = await call("DELETE", path, alice.access_token, { auth: { session } });
  assert.equal(done.status, 200, JSON.stringify(done));
  console.log("a user without a password has logged a device out, after the provider asked again who he is");
} finally {
  listening.closeAllConnections();
  listening.close();
}
