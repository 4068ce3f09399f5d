//! Authorization: a client asks, in its user's browser, to be let in; if he agrees, it gets a code.
//! <https://spec.matrix.org/v1.19/client-server-api/#authorisation-code-flow>

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::OwnedUserId;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use url::{Url, form_urlencoded};

use super::{
    client::{self, Client, GrantType},
    failure::{Code as ErrorCode, Failure},
    redirect,
    scope::Scope,
    tables::Owner,
};
use crate::Server;

/// How long a code is good, and how long it is remembered, so that who uses it again is found out.
const LIFETIME_MS: u64 = 60 * 1_000;
pub const REMEMBERED: Duration = Duration::from_secs(10 * 60);

const CODE_LENGTH: usize = 43;

/// The parameters of the authorization endpoint. Others are passed over, as the standard has it.
#[derive(Default, Deserialize)]
pub struct Parameters {
    pub client_id: Option<String>,
    redirect_uri: Option<String>,
    response_type: Option<String>,
    response_mode: Option<String>,
    scope: Option<String>,
    state: Option<String>,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
    prompt: Option<String>,
    pub login_hint: Option<String>,
}

/// A request that can be granted.
pub struct Request {
    pub client_id: String,
    pub client: Client,
    pub redirect_uri: String,
    pub scope: Scope,
    pub prompt: Option<Prompt>,
    state: Option<String>,
    mode: ResponseMode,
    challenge: [u8; 32],
}

/// What the user is to do although he may be logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    Login,
    Create,
}

impl Prompt {
    /// Of a list of words.
    fn parse(text: &str) -> Result<Option<Self>, Failure> {
        let mut prompt = None;
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            match word {
                "consent" => {} // users are always asked
                "create" => prompt = Some(Self::Create),
                "login" | "select_account" => prompt = prompt.or(Some(Self::Login)),
                "none" => return Err(ErrorCode::InteractionRequired.because("Users are always asked")),
                _ => return Err(ErrorCode::InvalidRequest.because("This `prompt` is not supported")),
            }
        }
        Ok(prompt)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseMode {
    Query,
    Fragment,
}

/// Why a request can't be granted.
pub enum Unfit {
    /// For the person: it is not certain whom else to tell.
    Shown(Failure),
    /// For the client: where to send the browser.
    Told(String),
}

impl Request {
    pub fn parse(server: &Server, given: Parameters) -> Result<Self, Unfit> {
        let shown = |code: ErrorCode, what: &'static str| Unfit::Shown(code.because(what));
        let client_id = given.client_id.ok_or_else(|| shown(ErrorCode::InvalidRequest, "`client_id` is missing"))?;
        let client = client::find(server, &client_id).map_err(Unfit::Shown)?;
        let redirect_uri = given
            .redirect_uri
            .filter(|given| client.redirect_uris.iter().any(|registered| redirect::is_same(registered, given)));
        let redirect_uri = redirect_uri
            .ok_or_else(|| shown(ErrorCode::InvalidRequest, "`redirect_uri` is not one that the client registered"))?;
        // From here on the client can be told.
        let (mode, is_mode_known) = match given.response_mode.as_deref() {
            None | Some("query") => (ResponseMode::Query, true),
            Some("fragment") => (ResponseMode::Fragment, true),
            Some(_) => (ResponseMode::Query, false),
        };
        let state = given.state;
        let told = |failure: Failure| match failure {
            Failure::Refused { code, description } => {
                Unfit::Told(refusal(&redirect_uri, mode, state.as_deref(), code, &description))
            }
            server => Unfit::Shown(server),
        };
        if !is_mode_known {
            return Err(told(ErrorCode::InvalidRequest.because("`response_mode` is `query` or `fragment`")));
        }
        if given.response_type.as_deref() != Some("code") {
            return Err(told(ErrorCode::UnsupportedResponseType.because("`response_type` must be `code`")));
        }
        client.check_grant(GrantType::AuthorizationCode).map_err(told)?;
        let scope = Scope::parse(&given.scope.unwrap_or_default()).map_err(told)?;
        let challenge = challenge(given.code_challenge, given.code_challenge_method).map_err(told)?;
        let prompt = Prompt::parse(&given.prompt.unwrap_or_default()).map_err(told)?;
        Ok(Self { client_id, client, redirect_uri, scope, prompt, state, mode, challenge })
    }

    /// The user agrees: where to send his browser.
    pub fn allow(self, server: &Server, user_id: OwnedUserId) -> String {
        let text = server.random.text(CODE_LENGTH);
        let now_ms = server.clock.now_ms();
        let address = address(&self.redirect_uri, self.mode, self.state.as_deref(), &[("code", &text)]);
        let code = Code {
            client_id: self.client_id,
            client: self.client,
            redirect_uri: self.redirect_uri,
            scope: self.scope,
            challenge: self.challenge,
            user_id,
            ends_at_ms: now_ms.saturating_add(LIFETIME_MS),
            use_: Use::Not,
        };
        server.oauth.codes.insert(now_ms, &text, code);
        address
    }

    /// The user does not want that: where to send his browser.
    pub fn deny(&self) -> String {
        let code = ErrorCode::AccessDenied;
        refusal(&self.redirect_uri, self.mode, self.state.as_deref(), code, "The user did not agree")
    }
}

/// The challenge of PKCE: what the SHA-256 of the verifier must be. "plain" would give the verifier itself away.
fn challenge(challenge: Option<String>, method: Option<String>) -> Result<[u8; 32], Failure> {
    if method.as_deref() != Some("S256") {
        return Err(ErrorCode::InvalidRequest.because("`code_challenge_method` must be `S256`"));
    }
    let bytes = URL_SAFE_NO_PAD.decode(challenge.unwrap_or_default());
    bytes
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| ErrorCode::InvalidRequest.because("`code_challenge` must be a SHA-256 in base64url"))
}

fn refusal(redirect_uri: &str, mode: ResponseMode, state: Option<&str>, code: ErrorCode, description: &str) -> String {
    address(redirect_uri, mode, state, &[("error", code.as_str()), ("error_description", description)])
}

/// A client's address with an answer in it.
fn address(redirect_uri: &str, mode: ResponseMode, state: Option<&str>, answer: &[(&str, &str)]) -> String {
    let Ok(mut url) = Url::parse(redirect_uri) else { return redirect_uri.to_owned() }; // it was registered, so it parses
    let pairs = state.map(|state| ("state", state)).into_iter().chain(answer.iter().copied());
    match mode {
        ResponseMode::Query => drop(url.query_pairs_mut().extend_pairs(pairs)),
        ResponseMode::Fragment => {
            let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
            url.set_fragment(Some(&text));
        }
    }
    url.into()
}

/// A code that was given out.
pub struct Code {
    pub user_id: OwnedUserId,
    client_id: String,
    client: Client,
    redirect_uri: String,
    scope: Scope,
    challenge: [u8; 32],
    ends_at_ms: u64,
    use_: Use,
}

enum Use {
    Not,
    /// Somebody has it, and his session is being made.
    Now {
        is_repeated: bool,
    },
    /// It began this session.
    Done(Owner),
}

/// What a code stands for.
pub struct Granted {
    pub user_id: OwnedUserId,
    pub client_id: String,
    pub client: Client,
    pub scope: Scope,
}

/// The use of a code.
pub enum Redeemed {
    /// The first one, by who asked for it.
    First(Granted),
    /// A further one: two have the code, and it is not known who is the right one. The session that the first one got is
    /// to end.
    Again(Option<Owner>),
    Wrong,
}

/// Uses a code up, be it rightly or not.
pub fn redeem(server: &Server, code: &str, client_id: &str, redirect_uri: &str, verifier: &str) -> Redeemed {
    let now_ms = server.clock.now_ms();
    let redeemed = server.oauth.codes.with(now_ms, code, |code| {
        match &mut code.use_ {
            Use::Not => {}
            Use::Now { is_repeated } => {
                *is_repeated = true;
                return Redeemed::Again(None);
            }
            Use::Done(owner) => return Redeemed::Again(Some(owner.clone())),
        }
        code.use_ = Use::Now { is_repeated: false };
        let is_proven: bool = Sha256::digest(verifier).as_slice().ct_eq(&code.challenge).into();
        let is_right =
            is_proven && code.client_id == client_id && code.redirect_uri == redirect_uri && now_ms < code.ends_at_ms;
        match is_right {
            true => Redeemed::First(Granted {
                user_id: code.user_id.clone(),
                client_id: code.client_id.clone(),
                client: code.client.clone(),
                scope: code.scope.clone(),
            }),
            false => Redeemed::Wrong,
        }
    });
    redeemed.unwrap_or(Redeemed::Wrong)
}

/// Notes which session a code began. `false` if somebody used it again meanwhile.
pub fn note_session(server: &Server, code: &str, owner: Owner) -> bool {
    let noted = server.oauth.codes.with(server.clock.now_ms(), code, |code| {
        let is_repeated = matches!(code.use_, Use::Now { is_repeated: true });
        code.use_ = Use::Done(owner);
        !is_repeated
    });
    // Pushed out, or its user's password was changed while the session was made.
    noted.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_in_the_query_or_the_fragment() {
        let pairs = [("code", "a&b=c")];
        let query = |uri| address(uri, ResponseMode::Query, Some("s t"), &pairs);
        assert_eq!(query("https://a.example/cb?x=y"), "https://a.example/cb?x=y&state=s+t&code=a%26b%3Dc");
        assert_eq!(query("com.example.app:/callback"), "com.example.app:/callback?state=s+t&code=a%26b%3Dc");
        assert_eq!(query("com.example:callback"), "com.example:callback?state=s+t&code=a%26b%3Dc");
        let fragment = address("https://a.example/cb", ResponseMode::Fragment, None, &pairs);
        assert_eq!(fragment, "https://a.example/cb#code=a%26b%3Dc");
    }

    #[test]
    fn a_challenge_is_a_hash() {
        let parse = |challenge: &str, method: Option<&str>| {
            super::challenge(Some(challenge.to_owned()), method.map(str::to_owned)).ok()
        };
        // Source: RFC 7636, appendix B.
        let right = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        let hash: [u8; 32] = Sha256::digest("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").into();
        assert_eq!(parse(right, Some("S256")), Some(hash));
        for (challenge, method) in [(right, None), (right, Some("plain")), ("short", Some("S256")), ("", Some("S256"))]
        {
            assert_eq!(parse(challenge, method), None);
        }
    }
}
