//! Single sign-on: users whom others know, who say so by OpenID Connect.
//!
//! A browser is sent to the provider (`provider.rs`) and comes back with a code, for which we get what the provider says of
//! whoever logged in (`identity.rs`). He is the user to whom that identity is tied, or becomes one (`link.rs`), and is then
//! logged in to our pages like anybody else; what he came for is their matter.
//!
//! <https://openid.net/specs/openid-connect-core-1_0.html>

mod claims;
pub mod client_address;
pub mod identity;
pub mod link;
pub mod provider;
pub mod tables;

use std::{sync::Arc, time::Duration};

use ruma::OwnedUserId;
use tracing::info;

use self::{
    identity::Identity,
    link::Refusal,
    provider::{Prompt, Provider},
};
use crate::{Server, config::Config, error::Error, oauth::browser::Proof, user::expiring::Expiring};

/// Where the pages are, below the public URL; what follows of the first two is the provider's id.
pub mod paths {
    pub const BEGIN: &str = "/_chappe/sso/begin";
    pub const CALLBACK: &str = "/_chappe/sso/callback";
    pub const NEWCOMER: &str = "/_chappe/sso/newcomer";
    pub const CLIENT: &str = "/_chappe/sso/client";
    pub const STAGE: &str = "/_chappe/sso/stage";
}

/// How long somebody may take to log in at a provider, and to read our terms afterwards.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// How many of each are kept at a time: the oldest make room.
const MAX_ATTEMPTS: usize = 10_000;
const MAX_NEWCOMERS: usize = 1_000;

const SECRET_LENGTH: usize = 43;

/// The providers, and what is under way; that is in memory only.
pub struct Sso {
    pub providers: Vec<Provider>,
    /// By their `state`.
    attempts: Expiring<Attempt>,
    /// Those who have to accept the terms before they get an account, by their browser.
    newcomers: Expiring<Identity>,
}

/// A browser that was sent to a provider.
struct Attempt {
    provider: String,
    /// Made of the browser's cookie.
    browser: String,
    /// The page to go on with.
    next: String,
    nonce: String,
    /// Of PKCE.
    verifier: String,
    /// The provider was told to have him prove anew who he is.
    must_prove: bool,
    begun_at_ms: u64,
}

/// Why somebody is not logged in by a provider.
#[derive(Debug)]
pub enum Failure {
    /// The log-in took too long, was used, or was begun in another browser.
    Ended,
    /// The provider let nobody in.
    Denied,
    /// The provider can't be reached, or what it says can't be relied on; the log says why.
    Provider,
    /// It is known who he is, but he has no account here.
    Refused(Refusal),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<crate::store::Error> for Failure {
    fn from(error: crate::store::Error) -> Self {
        Self::Other(error.into())
    }
}

/// What a browser brings back from a provider.
#[derive(Debug, Default, serde::Deserialize)]
pub struct Returned {
    state: Option<String>,
    code: Option<String>,
    error: Option<String>,
    /// Who says so (RFC 9207).
    iss: Option<String>,
}

/// A log-in that has ended well.
pub struct Landed {
    pub arrived: Arrived,
    /// The page to go on with.
    pub next: String,
    pub proof: Proof,
}

/// Who came back.
pub enum Arrived {
    User(OwnedUserId),
    /// He has no account yet, and is to accept the terms.
    Newcomer,
}

impl Sso {
    pub fn new(config: &Config) -> Self {
        Self {
            providers: config.identity_providers.iter().cloned().map(Provider::new).collect(),
            attempts: Expiring::new(LIFETIME, MAX_ATTEMPTS),
            newcomers: Expiring::new(LIFETIME, MAX_NEWCOMERS),
        }
    }

    pub fn provider(&self, id: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.config.id == id)
    }
}

/// What stands for a browser without being its cookie.
fn browser_of(server: &Server, cookie: &str) -> String {
    server.oauth.mac("sso", cookie.as_bytes())
}

/// Begins a log-in by `provider` in the browser with this cookie, which goes on to the page `next` afterwards: where to
/// send it.
pub async fn begin(
    server: &Server,
    provider: &Provider,
    cookie: &str,
    next: &str,
    prompt: Option<Prompt>,
) -> Result<String, Failure> {
    let secret = || server.random.text(SECRET_LENGTH);
    let now_ms = server.clock.now_ms();
    let attempt = Attempt {
        provider: provider.config.id.clone(),
        browser: browser_of(server, cookie),
        next: next.to_owned(),
        nonce: secret(),
        verifier: secret(),
        must_prove: prompt == Some(Prompt::Login),
        begun_at_ms: now_ms,
    };
    let state = secret();
    let url = provider.authorization_url(server, &state, &attempt, prompt).await?;
    server.sso.attempts.insert(now_ms, &state, attempt);
    Ok(url)
}

/// Ends a log-in. Whatever comes of it, the `state` is used up.
pub async fn finish(
    server: &Arc<Server>,
    provider: &Provider,
    cookie: &str,
    returned: Returned,
) -> Result<Landed, Failure> {
    let state = returned.state.unwrap_or_default();
    let attempt = server.sso.attempts.take(server.clock.now_ms(), &state).ok_or(Failure::Ended)?;
    if attempt.provider != provider.config.id || attempt.browser != browser_of(server, cookie) {
        return Err(Failure::Ended);
    }
    provider.check_issuer(server, returned.iss.as_deref()).await?;
    let Some(code) = returned.code.filter(|_| returned.error.is_none()) else {
        info!(provider = provider.config.id, error = ?returned.error, "a provider let nobody in");
        return Err(Failure::Denied);
    };
    let identity = provider.identity(server, code, &attempt).await?;
    let arrived = match link::find(server, provider, &identity).await? {
        Some(user) => Arrived::User(user),
        None if !provider.config.allow_registration => return Err(Failure::Refused(Refusal::NoAccount)),
        None if server.config.registration_terms.is_empty() => {
            Arrived::User(link::register(server, provider, identity).await?)
        }
        None => {
            server.sso.newcomers.insert(server.clock.now_ms(), &attempt.browser, identity);
            Arrived::Newcomer
        }
    };
    let proof = if attempt.must_prove { Proof::Now } else { Proof::Earlier };
    Ok(Landed { arrived, next: attempt.next, proof })
}

/// The provider that sent whoever is in this browser and only has to accept the terms.
pub fn provider_of_newcomer<'s>(server: &'s Server, cookie: &str) -> Option<&'s Provider> {
    let browser = browser_of(server, cookie);
    let id = server.sso.newcomers.with(server.clock.now_ms(), &browser, |identity| identity.provider.clone())?;
    server.sso.provider(&id)
}

/// Makes the account of whoever is in this browser and has accepted the terms.
pub async fn accept_terms(server: &Arc<Server>, provider: &Provider, cookie: &str) -> Result<OwnedUserId, Failure> {
    let browser = browser_of(server, cookie);
    let identity = server.sso.newcomers.take(server.clock.now_ms(), &browser).ok_or(Failure::Ended)?;
    link::register(server, provider, identity).await
}

/// Where a provider sends browsers back to.
fn callback_url(server: &Server, provider: &str) -> Option<String> {
    let base = server.config.oauth_base()?;
    Some(crate::oauth::metadata::address(&base, &format!("{}/{provider}", paths::CALLBACK)))
}
