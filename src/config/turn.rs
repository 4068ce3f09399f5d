//! `[global.turn]`: the TURN server that calls go through.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ConfigError, Secret, duration, secret};

/// Without this section calls work only between clients that reach each other directly.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// `turn:` and `turns:` URIs, given to clients as they are.
    pub uris: Vec<String>,
    /// `static-auth-secret` of the TURN server; comes from `secret_file` if that is set.
    pub secret: Option<Secret>,
    pub secret_file: Option<PathBuf>,
    /// Without a `secret`: the same for everybody.
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// How long what a client gets is good.
    #[serde(with = "duration", default = "lifetime")]
    pub ttl: Duration,
}

fn lifetime() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

impl Turn {
    pub(super) fn check(&self, errors: &mut ConfigError) {
        let is_turn = |uri: &String| uri.starts_with("turn:") || uri.starts_with("turns:");
        if self.uris.is_empty() || !self.uris.iter().all(is_turn) {
            errors.add(
                "turn.uris",
                "has to name TURN servers",
                "write them as [\"turn:turn.example.org?transport=udp\", \"turns:turn.example.org\"]",
            );
        }
        if self.secret.is_none() && (self.username.is_none() || self.password.is_none()) {
            errors.add(
                "turn.secret",
                "or `username` and `password` must be given",
                "copy `static-auth-secret` of your TURN server",
            );
        }
        secret::check("turn.secret", self.secret.as_ref(), errors);
        secret::check("turn.password", self.password.as_ref(), errors);
        if self.ttl < Duration::from_secs(60) {
            errors.add("turn.ttl", "is too short for a call", "set it to 1 min or more");
        }
    }
}
