//! Who looks at a page: a browser, by its cookie.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::FromRequestParts,
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, HeaderValue, header, request::Parts};
use serde::Deserialize;

use super::{endpoints::off, words::Words};
use crate::{
    Server,
    error::{Error, Result},
    http::peer::client_ip,
    mail::letter,
    oauth::{
        browser::{self, Browser, Proof},
        paths,
    },
};

/// The cookie that a browser keeps for one visit. With the prefix, browsers take it from this host only, and encrypted.
const COOKIE: &str = "chappe";
const SECURE_COOKIE: &str = "__Host-chappe";

/// A browser that looks at a page.
pub struct Visitor {
    cookie: String,
    is_secure: bool,
    /// It came without a cookie.
    is_new: bool,
    /// Who is logged in. Nobody, if he was locked meanwhile.
    pub browser: Option<Browser>,
    pub words: &'static Words,
    pub address: IpAddr,
    /// Path and query of the page.
    pub here: String,
}

impl FromRequestParts<Arc<Server>> for Visitor {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self> {
        let is_secure = server.config.oauth_base().ok_or_else(off)?.scheme() == "https";
        let language = parts.headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        let language = letter::language(language, server.config.oauth.language);
        let found = cookie(&parts.headers, if is_secure { SECURE_COOKIE } else { COOKIE });
        let browser = match found.as_deref().map(|cookie| browser::find(server, cookie)) {
            Some(Err(Error::Refused { .. })) | None => None,
            Some(found) => found?,
        };
        Ok(Self {
            is_new: found.is_none(),
            cookie: found.unwrap_or_else(|| browser::new_cookie(server)),
            is_secure,
            browser,
            words: Words::of(language),
            address: client_ip(parts, &server.config.trusted_proxies),
            here: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        })
    }
}

/// What every form holds.
#[derive(Deserialize)]
pub struct FormToken {
    #[serde(default)]
    pub form_token: String,
}

impl Visitor {
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// What goes into a form of a page.
    pub fn form_token(&self, server: &Server) -> String {
        browser::form_token(server, &self.cookie)
    }

    /// Whether a form came from a page of ours in this browser.
    pub fn sent(&self, server: &Server, token: &str) -> bool {
        !self.is_new && browser::is_form_token(server, &self.cookie, token)
    }

    /// Notes that this browser is that of a user, in place of whom it was before.
    pub fn log_in(&mut self, server: &Server, user: ruma::OwnedUserId, proof: Proof) -> Result<()> {
        let cookie = browser::log_in(server, user, proof)?;
        browser::log_out(server, &self.cookie);
        self.cookie = cookie;
        self.is_new = true;
        Ok(())
    }

    pub fn log_out(&mut self, server: &Server) {
        browser::log_out(server, &self.cookie);
        self.cookie = browser::new_cookie(server);
        self.is_new = true;
    }

    /// The answer, with the cookie if the browser does not have it.
    pub fn answer(&self, answer: impl IntoResponse) -> Response {
        let mut answer = answer.into_response();
        if self.is_new {
            let (name, secure) = if self.is_secure { (SECURE_COOKIE, "; Secure") } else { (COOKIE, "") };
            let cookie = format!("{name}={}; Path=/; HttpOnly; SameSite=Lax{secure}", self.cookie);
            let cookie = HeaderValue::try_from(cookie).expect("cookies are letters and digits");
            answer.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        answer
    }

    pub fn go_to(&self, address: &str) -> Response {
        self.answer(go_to(address))
    }

    /// To the page where one logs in, and then back here.
    pub fn to_login(&self) -> Response {
        self.go_to(&with_next(paths::LOGIN, &self.here))
    }
}

/// Sends the browser to another page. Nobody keeps the answer: there may be a code in it.
fn go_to(address: &str) -> Response {
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::REFERRER_POLICY, "no-referrer")];
    (headers, Redirect::to(address)).into_response()
}

/// The address of a page that leads on to `next`.
pub fn with_next(path: &str, next: &str) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
    format!("{path}?{query}")
}

/// Where a page leads on to: a page of ours, whatever the address says.
pub fn next(given: Option<&str>) -> &str {
    let is_ours =
        |next: &&str| next.starts_with("/_chappe/") && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    given.filter(is_ours).unwrap_or(paths::ACCOUNT)
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let mut cookies = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    cookies.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lead_on_to_pages_of_ours_only() {
        assert_eq!(next(Some("/_chappe/oauth/authorize?a=b")), "/_chappe/oauth/authorize?a=b");
        for given in [
            None,
            Some(""),
            Some("https://evil.example/_chappe/"),
            Some("//evil.example/_chappe/"),
            Some("/\\evil.example/_chappe/"),
            Some("/_chappe/\\evil"),
            Some("/_chappe/\r\nSet-Cookie: a=b"),
            Some("/_matrix/client/v3/logout"),
        ] {
            assert_eq!(next(given), paths::ACCOUNT, "{given:?}");
        }
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; xchappe=no;chappe=yes"));
        assert_eq!(cookie(&headers, "chappe").unwrap(), "yes");
        assert_eq!(cookie(&headers, "b"), None);
    }
}
