//! The device grant: a client that has no browser shows a code, and its user agrees in a browser elsewhere.
//! <https://spec.matrix.org/v1.19/client-server-api/#device-authorisation-flow>

use std::time::Duration;

use ruma::{OwnedUserId, UserId};

use super::{
    authorization::Granted,
    client::{self, Client, GrantType},
    failure::{Code, Failure},
    scope::Scope,
};
use crate::{Server, random::Random};

/// How long the codes are good, and how long they are remembered, so that a client learns that they have ended.
pub const LIFETIME: Duration = Duration::from_secs(10 * 60);
pub const REMEMBERED: Duration = Duration::from_secs(20 * 60);

/// How long a client waits between two questions, at first; each one that comes too early adds as much.
pub const INTERVAL: Duration = Duration::from_secs(5);

const DEVICE_CODE_LENGTH: usize = 43;

/// Without vowels, so that no words come out, and without what looks alike. Source: RFC 8628, section 6.1.
const USER_CODE_LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const USER_CODE_LENGTH: usize = 8;

/// What a client asked for.
pub struct DeviceGrant {
    client_id: String,
    client: Client,
    scope: Scope,
    answer: Answer,
    ends_at_ms: u64,
    interval_ms: u64,
    next_question_ms: u64,
}

enum Answer {
    Pending,
    Denied,
    Approved(OwnedUserId),
}

impl DeviceGrant {
    pub fn is_approved_by(&self, user: &UserId) -> bool {
        matches!(&self.answer, Answer::Approved(by) if by == user)
    }
}

/// What the client gets.
pub struct Codes {
    pub device_code: String,
    /// As people read it: `ABCD-EFGH`.
    pub user_code: String,
}

pub fn begin(server: &Server, client_id: &str, scope: &str) -> Result<Codes, Failure> {
    let client = client::find(server, client_id)?;
    client.check_grant(GrantType::DeviceCode)?;
    let scope = Scope::parse(scope)?;
    let now_ms = server.clock.now_ms();
    let device_code = server.random.text(DEVICE_CODE_LENGTH);
    let user_code = new_user_code(&server.random);
    let grant = DeviceGrant {
        client_id: client_id.to_owned(),
        client,
        scope,
        answer: Answer::Pending,
        ends_at_ms: now_ms.saturating_add(millis(LIFETIME)),
        interval_ms: millis(INTERVAL),
        next_question_ms: now_ms,
    };
    server.oauth.device_grants.insert(now_ms, &device_code, grant);
    server.oauth.user_codes.insert(now_ms, &user_code, device_code.clone());
    let (first, second) = user_code.split_at(USER_CODE_LENGTH / 2);
    Ok(Codes { device_code, user_code: format!("{first}-{second}") })
}

fn new_user_code(random: &Random) -> String {
    let mut code = String::with_capacity(USER_CODE_LENGTH);
    while code.len() < USER_CODE_LENGTH {
        // Bytes beyond the last multiple of 20 are thrown again, so that all letters are as likely.
        let [byte] = random.bytes();
        if byte < 240 {
            code.push(char::from(USER_CODE_LETTERS[usize::from(byte % 20)]));
        }
    }
    code
}

/// What somebody types, without what does not count.
fn normalized(user_code: &str) -> String {
    user_code.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_uppercase()).collect()
}

/// The client that waits for this code to be agreed to, and for what; `None` if none does.
pub fn look_up(server: &Server, user_code: &str) -> Option<(Client, Scope)> {
    with_pending(server, user_code, |grant| (grant.client.clone(), grant.scope.clone()))
}

/// The user agrees, or (`None`) does not. `false` if nobody waits for that any more.
pub fn answer(server: &Server, user_code: &str, by: Option<OwnedUserId>) -> bool {
    let answer = by.map_or(Answer::Denied, Answer::Approved);
    with_pending(server, user_code, |grant| grant.answer = answer).is_some()
}

fn with_pending<R>(server: &Server, user_code: &str, then: impl FnOnce(&mut DeviceGrant) -> R) -> Option<R> {
    let now_ms = server.clock.now_ms();
    let device_code = server.oauth.user_codes.with(now_ms, &normalized(user_code), |code| code.clone())?;
    server.oauth.device_grants.with(now_ms, &device_code, |grant| {
        let is_pending = matches!(grant.answer, Answer::Pending) && now_ms < grant.ends_at_ms;
        is_pending.then(|| then(grant))
    })?
}

/// The client asks how things stand; what it was granted is given out once.
pub fn redeem(server: &Server, client_id: &str, device_code: &str) -> Result<Granted, Failure> {
    let unknown = || Code::InvalidGrant.because("This device code is unknown, or was used");
    let now_ms = server.clock.now_ms();
    let standing = server.oauth.device_grants.with(now_ms, device_code, |grant| {
        if grant.client_id != client_id {
            return Err(unknown());
        }
        if now_ms >= grant.ends_at_ms {
            return Err(Code::ExpiredToken.because("The codes have ended"));
        }
        let is_early = now_ms < grant.next_question_ms;
        if is_early {
            grant.interval_ms = grant.interval_ms.saturating_add(millis(INTERVAL));
        }
        grant.next_question_ms = now_ms.saturating_add(grant.interval_ms);
        match grant.answer {
            _ if is_early => Err(Code::SlowDown.because("Wait longer between two questions")),
            Answer::Pending => Err(Code::AuthorizationPending.because("The user has not agreed yet")),
            Answer::Denied => Err(Code::AccessDenied.because("The user did not agree")),
            Answer::Approved(_) => Ok(()),
        }
    });
    standing.unwrap_or_else(|| Err(unknown()))?;
    // Of two that ask at once, one gets it.
    match server.oauth.device_grants.take(now_ms, device_code) {
        Some(DeviceGrant { answer: Answer::Approved(user_id), client_id, client, scope, .. }) => {
            Ok(Granted { user_id, client_id, client, scope })
        }
        _ => Err(unknown()),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_people_type_them() {
        let code = new_user_code(&Random::from_seed(1));
        assert_eq!(code.len(), 8);
        let (first, second) = code.split_at(4);
        assert_eq!(normalized(&format!(" {}-{second} ", first.to_lowercase())), code);
    }
}
