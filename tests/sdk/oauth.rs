//! The library of Element X registers, logs in, renews its tokens, resets its keys and logs out by OAuth 2.0; this test does
//! what a person does in a browser meanwhile.

#![recursion_limit = "256"] // matrix-sdk's futures are nested that deeply

use anyhow::{Context, Result, ensure};
use launched::Server;
use matrix_sdk::{
    Client,
    authentication::oauth::registration::{ApplicationType, ClientMetadata, Localized, OAuthGrantType},
    config::SyncSettings,
    encryption::CrossSigningResetAuthType,
    reqwest::{self, Url, header, redirect},
    ruma::{
        api::client::{
            discovery::get_authorization_server_metadata::v1::Prompt, room::create_room::v3::Request as NewRoom,
        },
        events::room::message::RoomMessageEventContent,
        serde::Raw,
    },
    utils::UrlOrQuery,
};

const REDIRECT: &str = "io.element.test:/callback";
const PASSWORD: &str = "a password that nobody guesses";

#[tokio::test(flavor = "multi_thread")]
async fn element_x_registers_logs_in_and_out() -> Result<()> {
    let server = Server::start(None)?;
    let mut browser = Browser::new()?;
    let phone = new_client(&server).await?;
    let asked = phone.oauth().login(REDIRECT.parse()?, None, Some(app()?.into()), None).prompt(vec![Prompt::Create]);
    let sign_up = browser.open(asked.build().await?.url).await?;
    let fields = [("user", "alice"), ("password", PASSWORD), ("password_again", PASSWORD)];
    let consent = browser.submit(&sign_up, &fields).await?;
    let back = browser.submit(&consent, &[("decision", "allow")]).await?;
    phone.oauth().finish_login(UrlOrQuery::Url(back.url)).await?;
    ensure!(phone.user_id().context("logged in")?.as_str() == "@alice:localhost");
    use_it(&phone).await?;

    phone.oauth().refresh_access_token().await?;
    use_it(&phone).await?;
    reset_keys(&phone, &mut browser).await?;

    let tablet = new_client(&server).await?;
    let asked = tablet.oauth().login(REDIRECT.parse()?, None, Some(app()?.into()), None).build().await?;
    let consent = browser.open(asked.url).await?;
    let back = browser.submit(&consent, &[("decision", "allow")]).await?;
    tablet.oauth().finish_login(UrlOrQuery::Url(back.url)).await?;
    ensure!(tablet.oauth().client_id() == phone.oauth().client_id(), "the same app is one client");
    use_it(&tablet).await?;

    browser.revoke(&phone).await?;
    ensure!(phone.whoami().await.is_err());
    use_it(&tablet).await
}

async fn new_client(server: &Server) -> Result<Client> {
    Ok(Client::builder().homeserver_url(server.base_url()).handle_refresh_tokens().build().await?)
}

/// What Element X says of itself.
fn app() -> Result<Raw<ClientMetadata>> {
    let grant = OAuthGrantType::AuthorizationCode { redirect_uris: vec![REDIRECT.parse()?] };
    let page = Localized::new("https://element.io".parse()?, []);
    let mut app = ClientMetadata::new(ApplicationType::Native, vec![grant, OAuthGrantType::DeviceCode], page);
    app.client_name = Some(Localized::new("Element X".to_owned(), []));
    Ok(Raw::new(&app)?)
}

async fn use_it(client: &Client) -> Result<()> {
    client.sync_once(SyncSettings::default()).await?;
    let room = client.create_room(NewRoom::new()).await?;
    room.send(RoomMessageEventContent::text_plain("The line is open.")).await?;
    Ok(())
}

/// Replaces the keys for cross-signing, which the user approves on a page.
async fn reset_keys(client: &Client, browser: &mut Browser) -> Result<()> {
    client.encryption().bootstrap_cross_signing(None).await?; // the first ones need nothing
    let reset = client.encryption().reset_cross_signing().await?.context("there are keys to be replaced")?;
    let CrossSigningResetAuthType::OAuth(info) = reset.auth_type() else { anyhow::bail!("not by OAuth") };
    let approval = browser.open(info.approval_url.clone()).await?;
    browser.submit(&approval, &[]).await?;
    reset.auth(None).await?;
    Ok(())
}

/// A browser without scripts. It stops at addresses of other schemes, as phones do.
struct Browser {
    http: reqwest::Client,
    cookie: Option<String>,
}

struct Page {
    url: Url,
    text: String,
}

impl Browser {
    fn new() -> Result<Self> {
        let http = reqwest::Client::builder().redirect(redirect::Policy::none()).build()?;
        Ok(Self { http, cookie: None })
    }

    /// What logs an app out. Its library would do this itself, but only by HTTPS.
    async fn revoke(&self, client: &Client) -> Result<()> {
        let endpoint = client.oauth().server_metadata().await?.revocation_endpoint;
        let token = client.access_token().context("logged in")?;
        let id = client.oauth().client_id().context("registered")?.to_string();
        let mut form: Url = "x:y".parse()?;
        form.query_pairs_mut().append_pair("token", &token).append_pair("client_id", &id);
        let request = self.http.post(endpoint).body(form.query().unwrap_or_default().to_owned());
        let answer = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").send().await?;
        ensure!(answer.status().is_success(), "{}", answer.text().await?);
        Ok(())
    }

    async fn open(&mut self, url: Url) -> Result<Page> {
        let request = self.http.get(url.clone());
        self.send(request, url).await
    }

    /// Sends the form of a page with these fields, and what the page itself put into it.
    async fn submit(&mut self, page: &Page, fields: &[(&str, &str)]) -> Result<Page> {
        let action = attribute(page.text.split_once("<form ").context("a form")?.1, "action")?;
        let url = page.url.join(&action)?;
        let mut form: Url = "x:y".parse()?;
        for input in page.text.split("<input type=\"hidden\" ").skip(1) {
            form.query_pairs_mut().append_pair(&attribute(input, "name")?, &attribute(input, "value")?);
        }
        form.query_pairs_mut().extend_pairs(fields);
        let body = form.query().unwrap_or_default().to_owned();
        let request = self.http.post(url.clone()).body(body);
        self.send(request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded"), url).await
    }

    async fn send(&mut self, mut request: reqwest::RequestBuilder, mut url: Url) -> Result<Page> {
        loop {
            if let Some(cookie) = &self.cookie {
                request = request.header(header::COOKIE, cookie);
            }
            let answer = request.send().await?;
            if let Some(set) = answer.headers().get(header::SET_COOKIE) {
                self.cookie = set.to_str()?.split(';').next().map(str::to_owned);
            }
            let Some(to) = answer.headers().get(header::LOCATION) else {
                ensure!(answer.status().is_success(), "{url}: {}", answer.text().await?);
                return Ok(Page { url, text: answer.text().await? });
            };
            url = url.join(to.to_str()?)?;
            if url.scheme() != "http" {
                return Ok(Page { url, text: String::new() });
            }
            request = self.http.get(url.clone());
        }
    }
}

fn attribute(text: &str, name: &str) -> Result<String> {
    let (_, value) = text.split_once(&format!("{name}=\"")).with_context(|| format!("no {name}: {text}"))?;
    let (value, _) = value.split_once('"').context("an attribute ends")?;
    Ok(value.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}
