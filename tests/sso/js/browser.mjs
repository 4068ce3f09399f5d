// A browser without scripts: it keeps cookies, follows redirects, and sends forms.

const unescape = (text) =>
  text.replaceAll("&quot;", '"').replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

export class Browser {
  cookies = new Map();

  /** Opens an address, and goes where it leads, but not to an app: `{ url, status, text }`. */
  async open(url, form) {
    for (let hops = 0; hops < 20; hops++) {
      const origin = new URL(url).origin;
      const jar = this.cookies.get(origin) ?? this.cookies.set(origin, new Map()).get(origin);
      const headers = { cookie: [...jar].map(([name, value]) => `${name}=${value}`).join("; ") };
      const options = form ? { method: "POST", body: new URLSearchParams(form) } : {};
      const answer = await fetch(url, { headers, redirect: "manual", ...options });
      for (const line of answer.headers.getSetCookie()) {
        const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
        if (value) jar.set(name, value);
        else jar.delete(name);
      }
      const location = answer.headers.get("location");
      if (answer.status < 300 || answer.status > 399) return { url, status: answer.status, text: await answer.text() };
      url = new URL(location, url).href;
      form = undefined;
      if (!url.startsWith("http")) return { url, status: answer.status, text: "" };
    }
    throw new Error(`no end of redirects at ${url}`);
  }

  /** Sends the form of a page with these fields beside its hidden ones. */
  async submit(page, fields) {
    const form = /<form [\s\S]*?<\/form>/.exec(page.text)?.[0];
    if (!form) throw new Error(`no form at ${page.url}: ${page.status} ${page.text}`);
    const hidden = [...form.matchAll(/<input type="hidden" name="([^"]*)" value="([^"]*)"/g)];
    const all = Object.fromEntries(hidden.map(([, name, value]) => [name, unescape(value)]));
    const action = unescape(/action="([^"]*)"/.exec(form)[1]);
    return this.open(new URL(action, page.url).href, { ...all, ...fields });
  }

  /** Follows the link of a page whose address begins so. */
  async click(page, start) {
    const links = [...page.text.matchAll(/href="([^"]*)"/g)].map(([, link]) => unescape(link));
    const link = links.find((link) => link.startsWith(start));
    if (!link) throw new Error(`no link to ${start} at ${page.url}: ${page.status} ${page.text}`);
    return this.open(new URL(link, page.url).href);
  }
}
