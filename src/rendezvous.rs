//! Places in memory where two devices meet while one logs the other in. Whoever knows the id of one may read what lies
//! there and replace it; what the devices say there is encrypted by them.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4388>, and its predecessor
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4108>

use std::{net::IpAddr, time::Duration};

use crate::{
    Server,
    error::{Error, Result},
    user::expiring::Expiring,
};

/// How long a session lives. Source: MSC4388, which has this as the most.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// How many there are at most: the oldest make room. Source: our choice, docs/security.md.
const MAX_SESSIONS: usize = 1_000;

/// The largest content. Source: both proposals.
const MAX_BYTES: usize = 4096;

const ID_LENGTH: usize = 32;
const TOKEN_LENGTH: usize = 16;

pub struct Sessions(Expiring<Session>);

impl Default for Sessions {
    fn default() -> Self {
        Self(Expiring::new(LIFETIME, MAX_SESSIONS))
    }
}

/// What lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub content: String,
    /// Another one after each change.
    pub token: String,
    /// Milliseconds since the Unix epoch.
    pub modified_ms: u64,
    pub expires_ms: u64,
}

/// What came of a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Changed {
    Done(Session),
    /// Somebody else was first: what lies there now.
    Conflict(Session),
}

/// Makes a session: its id, and it. `M_LIMIT_EXCEEDED` if that address made many, `M_TOO_LARGE`.
pub fn create(server: &Server, address: IpAddr, content: String) -> Result<(String, Session)> {
    check_size(&content)?;
    server.limits.rendezvous(address)?;
    let (id, now_ms) = (server.random.text(ID_LENGTH), server.clock.now_ms());
    let lifetime_ms = u64::try_from(LIFETIME.as_millis()).unwrap_or(u64::MAX);
    let token = server.random.text(TOKEN_LENGTH);
    let session = Session { content, token, modified_ms: now_ms, expires_ms: now_ms.saturating_add(lifetime_ms) };
    server.rendezvous.0.insert(now_ms, &id, session.clone());
    Ok((id, session))
}

/// `M_NOT_FOUND` if there is no such session, or no longer.
pub fn get(server: &Server, id: &str) -> Result<Session> {
    server.rendezvous.0.with(server.clock.now_ms(), id, |session| session.clone()).ok_or_else(no_session)
}

/// Replaces what lies there, if `token` is the one of what lies there now. `M_NOT_FOUND`, `M_TOO_LARGE`.
pub fn put(server: &Server, id: &str, token: &str, content: String) -> Result<Changed> {
    check_size(&content)?;
    let (now_ms, next) = (server.clock.now_ms(), server.random.text(TOKEN_LENGTH));
    let change = |session: &mut Session| {
        if session.token != token {
            return Changed::Conflict(session.clone());
        }
        *session = Session { content, token: next, modified_ms: now_ms, ..*session };
        Changed::Done(session.clone())
    };
    server.rendezvous.0.with(now_ms, id, change).ok_or_else(no_session)
}

/// Ends a session. `M_NOT_FOUND` if there is none.
pub fn delete(server: &Server, id: &str) -> Result<()> {
    server.rendezvous.0.take(server.clock.now_ms(), id).map(drop).ok_or_else(no_session)
}

fn check_size(content: &str) -> Result<()> {
    if content.len() > MAX_BYTES { Err(too_large()) } else { Ok(()) }
}

pub fn too_large() -> Error {
    Error::too_large(format!("At most {MAX_BYTES} bytes can lie in a rendezvous"))
}

fn no_session() -> Error {
    Error::not_found("There is no such rendezvous, or no longer")
}
