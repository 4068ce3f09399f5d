//! Browsers: who is logged in to our own pages. That gives no access to anything else, and ends soon.

use std::time::Duration;

use ruma::OwnedUserId;

use crate::{Server, error::Result, user::session};

/// How long a browser stays logged in: for one visit.
pub const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// For how long after he proved who he is somebody may do what can't be undone.
const FRESH_MS: u64 = 5 * 60 * 1_000;

const COOKIE_LENGTH: usize = 43;

#[derive(Clone, Debug)]
pub struct Browser {
    pub user_id: OwnedUserId,
    /// `None` if he never did in this browser: a provider knew him from before.
    proved_at_ms: Option<u64>,
}

/// When somebody who logs in to our pages proved who he is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Now,
    /// To an identity provider, which only says that it still knows him.
    Earlier,
}

impl Browser {
    /// Whether he has just proved who he is.
    pub fn is_fresh(&self, server: &Server) -> bool {
        self.proved_at_ms.is_some_and(|at_ms| server.clock.now_ms() < at_ms.saturating_add(FRESH_MS))
    }
}

/// A cookie for a browser that has none. It says nothing until somebody logs in.
pub fn new_cookie(server: &Server) -> String {
    server.random.text(COOKIE_LENGTH)
}

/// Logs a user, who proved who he is, in to our pages: the cookie that says so. It is a new one, so that nobody knows it
/// from before.
pub fn log_in(server: &Server, user_id: OwnedUserId, proof: Proof) -> Result<String> {
    session::check_in_use(&server.store.snapshot(), &user_id)?;
    let cookie = new_cookie(server);
    let now_ms = server.clock.now_ms();
    let proved_at_ms = (proof == Proof::Now).then_some(now_ms);
    server.oauth.browsers.insert(now_ms, &cookie, Browser { user_id, proved_at_ms });
    Ok(cookie)
}

pub fn log_out(server: &Server, cookie: &str) {
    server.oauth.browsers.take(server.clock.now_ms(), cookie);
}

/// Who is logged in by this cookie. Error: `M_USER_LOCKED`.
pub fn find(server: &Server, cookie: &str) -> Result<Option<Browser>> {
    let found = server.oauth.browsers.with(server.clock.now_ms(), cookie, |browser| browser.clone());
    if let Some(browser) = &found {
        session::check_in_use(&server.store.snapshot(), &browser.user_id)?;
    }
    Ok(found)
}

/// What the forms of a browser hold: no other site knows it.
pub fn form_token(server: &Server, cookie: &str) -> String {
    server.oauth.mac("form", cookie.as_bytes())
}

pub fn is_form_token(server: &Server, cookie: &str, token: &str) -> bool {
    subtle::ConstantTimeEq::ct_eq(form_token(server, cookie).as_bytes(), token.as_bytes()).into()
}
