//! `[global.rate_limits]`: how often one client may do what is costly or open to abuse.

use std::{num::NonZeroU32, time::Duration};

use governor::Quota;
use serde::{Deserialize, Serialize};

use super::{ConfigError, duration};

/// Requests over a limit get `M_LIMIT_EXCEEDED` (429) with the time to wait. Each accessor gives
/// `None` while limits are switched off.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    /// `false` switches all of them off: for tests and benchmarks.
    pub enabled: bool,
    login_per_address: Limit,
    login_per_account: Limit,
    registration: Limit,
    letter: Limit,
    message: Limit,
    upload: Limit,
    thumbnail: Limit,
    key_claim: Limit,
    join_per_server: Limit,
    join_per_room: Limit,
    invite_per_server: Limit,
    rendezvous: Limit,
}

/// At most `burst` requests at once; each request is given back after a further `every`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    burst: NonZeroU32,
    #[serde(with = "duration")]
    every: Duration,
}

impl RateLimits {
    /// Log-in attempts from one IP address.
    pub fn login_per_address(&self) -> Option<Quota> {
        self.quota(self.login_per_address)
    }

    /// Failed log-in attempts for one account, from wherever.
    pub fn login_per_account(&self) -> Option<Quota> {
        self.quota(self.login_per_account)
    }

    /// Registrations, and questions for free user names, from one IP address.
    pub fn registration(&self) -> Option<Quota> {
        self.quota(self.registration)
    }

    /// Letters to one e-mail address.
    pub fn letter(&self) -> Option<Quota> {
        self.quota(self.letter)
    }

    /// Events that one user sends into rooms.
    pub fn message(&self) -> Option<Quota> {
        self.quota(self.message)
    }

    /// Files that one user uploads or announces.
    pub fn upload(&self) -> Option<Quota> {
        self.quota(self.upload)
    }

    /// Thumbnails that are made because one user, server, or address without a user, asked for them first.
    pub fn thumbnail(&self) -> Option<Quota> {
        self.quota(self.thumbnail)
    }

    /// One-time keys that one server claims.
    pub fn key_claim(&self) -> Option<Quota> {
        self.quota(self.key_claim)
    }

    /// Requests by which one server prepares or sends joins and knocks of its users: two for each.
    pub fn join_per_server(&self) -> Option<Quota> {
        self.quota(self.join_per_server)
    }

    /// The same requests of all servers for one room.
    pub fn join_per_room(&self) -> Option<Quota> {
        self.quota(self.join_per_room)
    }

    /// Invites of our users by those of one server, and by-address ones that it is to make true.
    pub fn invite_per_server(&self) -> Option<Quota> {
        self.quota(self.invite_per_server)
    }

    /// Rendezvous that are begun from one IP address.
    pub fn rendezvous(&self) -> Option<Quota> {
        self.quota(self.rendezvous)
    }

    fn quota(&self, limit: Limit) -> Option<Quota> {
        let quota = Quota::with_period(limit.every).map(|quota| quota.allow_burst(limit.burst));
        quota.filter(|_| self.enabled)
    }

    pub(super) fn check(&self, errors: &mut ConfigError) {
        for (key, limit) in [
            ("rate_limits.login_per_address", self.login_per_address),
            ("rate_limits.login_per_account", self.login_per_account),
            ("rate_limits.registration", self.registration),
            ("rate_limits.letter", self.letter),
            ("rate_limits.message", self.message),
            ("rate_limits.upload", self.upload),
            ("rate_limits.thumbnail", self.thumbnail),
            ("rate_limits.key_claim", self.key_claim),
            ("rate_limits.join_per_server", self.join_per_server),
            ("rate_limits.join_per_room", self.join_per_room),
            ("rate_limits.invite_per_server", self.invite_per_server),
            ("rate_limits.rendezvous", self.rendezvous),
        ] {
            if limit.every.is_zero() {
                errors.add(key, "gives requests back every 0 s", "set `every` to 1 ms or more, or `enabled = false`");
            }
        }
    }
}

impl Default for RateLimits {
    fn default() -> Self {
        let limit = |burst, every_ms| Limit {
            burst: NonZeroU32::new(burst).expect("the bursts below are positive"),
            every: Duration::from_millis(every_ms),
        };
        Self {
            enabled: true,
            // A whole office behind one address may log in on the same morning.
            login_per_address: limit(60, 1_000),
            // A password guesser gets 1,440 guesses a day.
            login_per_account: limit(10, 60_000),
            registration: limit(20, 10_000),
            letter: limit(5, 600_000),
            message: limit(50, 200),
            upload: limit(100, 1_000),
            // A new client shows hundreds of rooms at once, each with a picture.
            thumbnail: limit(500, 500),
            // Somebody begins to encrypt in a room with all of us.
            key_claim: limit(5_000, 50),
            // Once a server has one user in a room, its others join at home. One alone must not use up what a room has for all.
            join_per_server: limit(50, 2_000),
            join_per_room: limit(200, 100),
            // A team elsewhere makes a room and invites all of ours.
            invite_per_server: limit(200, 5_000),
            rendezvous: limit(20, 10_000),
        }
    }
}
