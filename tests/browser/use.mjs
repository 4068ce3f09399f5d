// Two people with a browser each: use.mjs HOMESERVER_URL
import assert from "node:assert/strict";
import { createReadStream, existsSync, mkdirSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { deflateSync } from "node:zlib";
import { chromium } from "playwright-core";

/** The check sum of PNG files; Node.js 20 has none. */
function crc32(data) {
  let sum = ~0;
  for (const byte of data) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}

const homeserver = process.argv[2];
const shots = process.env.SHOTS;
const dist = join(dirname(fileURLToPath(import.meta.url)), "dist");
const PATIENCE_MS = 30_000;
const PASSWORD = "a long password: Chappe 1794!";

/** The built user interface, from another origin than the homeserver's, as it is in earnest. */
async function serve() {
  const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".wasm": "application/wasm", ".svg": "image/svg+xml" };
  const server = createServer((request, response) => {
    const path = normalize(new URL(request.url, "http://localhost").pathname);
    const file = join(dist, path === "/" ? "index.html" : path);
    if (!existsSync(file) || !statSync(file).isFile()) return response.writeHead(404).end();
    response.writeHead(200, { "Content-Type": types[extname(file)] ?? "application/octet-stream" });
    createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { origin: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** One person's browser. Whatever the server refuses it by CORS, or fails at, is a failure of the test. */
class Person {
  constructor(name, context, page, origin) {
    Object.assign(this, { name, context, page, origin, problems: [] });
    page.on("console", (message) => {
      if (/CORS|Content Security Policy|Unhandled|Mixed Content/i.test(message.text())) this.problems.push(message.text());
    });
    page.on("pageerror", (error) => {
      // Element asks for the members of a room that it shows an invite to, which nobody may know who is only invited.
      if (!/403.*\/members\?/.test(error.message)) this.problems.push(error.stack ?? String(error));
    });
    page.on("response", (response) => {
      if (response.status() >= 500) this.problems.push(`${response.status()} ${response.url()}`);
    });
  }

  static async open(browser, name, origin) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
    context.setDefaultTimeout(PATIENCE_MS);
    return new Person(name, context, await context.newPage(), origin);
  }

  goTo(screen) {
    return this.page.goto(`${this.origin}/?homeserver=${encodeURIComponent(homeserver)}#/${screen}`);
  }

  async shot(step) {
    await this.page.screenshot({ path: join(shots, `${String(++Person.taken).padStart(2, "0")}-${this.name}-${step}.png`) });
  }

  async register() {
    await this.goTo("register");
    await this.page.getByRole("textbox", { name: "Username" }).fill(this.name);
    await this.page.getByPlaceholder("Password", { exact: true }).fill(PASSWORD);
    await this.page.getByPlaceholder("Confirm password").fill(PASSWORD);
    await this.shot("register");
    await this.page.getByRole("button", { name: "Register" }).click();
    await this.page.getByText("Who will you chat to the most?").waitFor();
    await this.shot("welcomed");
    await this.page.getByRole("button", { name: "Skip" }).click();
    await this.page.locator(".mx_RoomListHeader").waitFor();
    await this.shot("registered");
  }

  async logIn() {
    await this.goTo("login");
    await this.page.getByRole("textbox", { name: "Username" }).fill(this.name);
    await this.page.getByPlaceholder("Password").fill(PASSWORD);
    await this.shot("log-in");
    await this.page.getByRole("button", { name: "Sign in" }).click();
  }

  async createRoom(name) {
    await this.page.getByRole("button", { name: "Add", exact: true }).click();
    await this.page.getByRole("menuitem", { name: "New room" }).click();
    await this.page.getByRole("textbox", { name: "Name", exact: true }).fill(name);
    await this.shot("new-room");
    await this.page.getByRole("button", { name: "Create room" }).click();
    await this.page.locator(".mx_RoomHeader").getByText(name).waitFor();
  }

  async openRoom(name) {
    await this.page.getByRole("treeitem", { name: new RegExp(name) }).click();
  }

  async say(text) {
    const composer = this.page.locator(".mx_SendMessageComposer [contenteditable=true]");
    await composer.click();
    await composer.pressSequentially(text);
    await composer.press("Enter");
  }

  /** Waits until the message is shown, in the clear. */
  async sees(text) {
    await this.page.locator(".mx_EventTile_body", { hasText: text }).first().waitFor();
  }

  /** Sends a picture from the disk. */
  async sendPicture(name, data) {
    const input = this.page.locator(".mx_MessageComposer input[type=file]").first();
    await input.setInputFiles({ name, mimeType: "image/png", buffer: data });
    await this.page.getByRole("button", { name: "Upload", exact: true }).click();
  }

  /** Waits for a picture and tells its true size. */
  async seesPicture(name) {
    const picture = this.page.locator(`.mx_MImageBody img[alt="${name}"]`).first();
    await picture.waitFor();
    await this.page.waitForFunction((image) => image.complete && image.naturalWidth > 0, await picture.elementHandle());
    return picture.evaluate((image) => [image.naturalWidth, image.naturalHeight]);
  }

  /** Whether what is on screen is a room with encryption, of which nothing could not be decrypted. */
  async assertEncrypted(name) {
    const facts = await this.page.evaluate((name) => {
      const client = window.mxMatrixClientPeg.get();
      const room = client.getRooms().find((room) => room.name === name);
      const events = room.getLiveTimeline().getEvents();
      return {
        encrypted: room.hasEncryptionStateEvent(),
        failures: events.filter((event) => event.isDecryptionFailure()).length,
        clear: events.filter((event) => event.getType() === "m.room.message" && !event.isEncrypted()).length,
      };
    }, name);
    assert.deepEqual(facts, { encrypted: true, failures: 0, clear: 0 });
  }
}
Person.taken = 0;

/** An account that exists before its owner first opens the client. */
async function makeAccount(name) {
  const answer = await fetch(`${homeserver}/_matrix/client/v3/register`, {
    method: "POST",
    body: JSON.stringify({ username: name, password: PASSWORD, inhibit_login: true, auth: { type: "m.login.dummy" } }),
  });
  assert.equal(answer.status, 200, await answer.text());
}

async function conversation(browser, origin) {
  const [alice, bob] = [await Person.open(browser, "alice", origin), await Person.open(browser, "bob", origin)];
  try {
    await makeAccount("bob");
    await Promise.all([
      alice.register(),
      bob.logIn().then(() => bob.page.locator(".mx_RoomListHeader").waitFor()),
    ]);
    await bob.shot("logged-in");

    await alice.createRoom("Telegraph");
    await alice.say("/invite @bob:localhost");
    await bob.openRoom("Telegraph");
    await bob.shot("invited");
    await bob.page.getByRole("button", { name: "Accept" }).click();
    await bob.page.locator(".mx_SendMessageComposer").waitFor();

    await alice.say("The line is open.");
    await bob.sees("The line is open.");
    await bob.say("Signal received.");
    await alice.sees("Signal received.");
    await alice.sendPicture("tower.png", picture(120, 80));
    assert.deepEqual(await bob.seesPicture("tower.png"), [120, 80]);
    await Promise.all([alice.assertEncrypted("Telegraph"), bob.assertEncrypted("Telegraph")]);
    await alice.shot("conversation");
    await bob.shot("conversation");

    // Opened anew where no room is shown: this release peeks into a room that is, and then overlooks its encryption.
    await bob.page.goto("about:blank");
    await bob.goTo("home");
    await bob.openRoom("Telegraph");
    await bob.sees("The line is open.");
    assert.deepEqual(await bob.seesPicture("tower.png"), [120, 80]);
    await bob.assertEncrypted("Telegraph");
    await bob.say("Back after a reload.");
    await alice.sees("Back after a reload.");
    await bob.shot("reloaded");
  } catch (error) {
    await Promise.all([alice.shot("at-the-end"), bob.shot("at-the-end")]);
    throw error;
  } finally {
    for (const person of [alice, bob]) person.problems.forEach((problem) => console.error(`${person.name}: ${problem}`));
  }
  assert.deepEqual([...alice.problems, ...bob.problems], []);
}

/** A PNG file of one color. */
function picture(width, height) {
  const chunk = (kind, data) => {
    const body = Buffer.concat([Buffer.from(kind), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, sum]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const rows = Buffer.alloc(height * (1 + width * 3), 0x66);
  for (let row = 0; row < height; row++) rows[row * (1 + width * 3)] = 0;
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([signature, chunk("IHDR", header), chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0))]);
}

mkdirSync(shots, { recursive: true });
const site = await serve();
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
try {
  await conversation(browser, site.origin);
  console.log("two people talked in Element Web");
} finally {
  await browser.close();
  site.close();
}
