//! `[global.sessions]`: how long what a log-in gives out stays good.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, duration};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sessions {
    /// Life of an access token of a client that asked for refresh tokens. Other clients' tokens do not end.
    #[serde(with = "duration")]
    pub access_token_lifetime: Duration,
    /// Life of a refresh token that is not used. `None`: no end.
    #[serde(with = "duration::optional", default)]
    pub refresh_token_lifetime: Option<Duration>,
    /// Life of the single-use token by which one device logs in another (`POST /login/get_token`).
    #[serde(with = "duration")]
    pub login_token_lifetime: Duration,
}

impl Sessions {
    pub(super) fn check(&self, errors: &mut ConfigError) {
        let shortest = Duration::from_secs(1);
        for (key, lifetime) in [
            ("sessions.access_token_lifetime", self.access_token_lifetime),
            ("sessions.login_token_lifetime", self.login_token_lifetime),
        ] {
            if lifetime < shortest {
                errors.add(key, "is too short to be used", "set it to 1 s or more");
            }
        }
        if self.refresh_token_lifetime.is_some_and(|lifetime| lifetime <= self.access_token_lifetime) {
            errors.add(
                "sessions.refresh_token_lifetime",
                "ends before the access token that it should replace",
                "make it longer than `access_token_lifetime`, or leave it out",
            );
        }
    }
}

impl Default for Sessions {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { access_token_lifetime: 60 * minute, refresh_token_lifetime: None, login_token_lifetime: 2 * minute }
    }
}
