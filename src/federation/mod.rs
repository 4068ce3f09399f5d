//! The other servers: where they are, what they sign with, what is asked of them.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/>

pub mod alternatives;
pub mod backfill;
pub mod backoff;
pub mod binding;
pub mod by_time;
pub mod completing;
mod discovery;
pub mod edu;
pub mod events;
pub mod handshake;
pub mod inbox;
pub mod introducing;
pub mod inviting;
pub mod joining;
pub mod keys;
pub mod knocking;
pub mod leaving;
pub mod missing;
pub mod policy_server;
pub mod query;
pub mod queue;
pub mod refusal;
pub mod relationships;
pub mod relay;
mod request;
pub mod resident;
mod signed_json;
pub mod status;
pub mod tables;
pub mod turns;
mod waiting;
pub mod x_matrix;

use ruma::ServerName;

pub use self::request::{
    Unsigned, exchange, exchange_signed, request, request_json, request_unsigned, request_unsigned_now, request_within,
};
use self::{discovery::WellKnownCache, keys::Fetches, resident::answer::Answering};
use crate::{
    Server,
    error::{Error, Result},
    metrics::CacheUse,
};

/// What is known of other servers in memory.
#[derive(Default)]
pub struct Federation {
    well_known: WellKnownCache,
    fetches: Fetches,
    /// What they are being told at the moment.
    answering: Answering,
    bindings: binding::Bindings,
    /// Servers that fail and for which nothing waits.
    failing: backoff::Failing,
}

impl Federation {
    pub fn use_of_well_known(&self) -> CacheUse {
        self.well_known.cache_use()
    }
}

/// Whether anything may be exchanged with `server`: every way in and out asks this. We ourselves are no other server.
pub fn allows(server: &Server, other: &ServerName) -> bool {
    server.config.allow_federation
        && !other.as_str().eq_ignore_ascii_case(server.name().as_str())
        && server.config.federation.allowed_servers.iter().any(|pattern| pattern.matches(other))
}

/// As [`allows`], with the error for whoever asks.
pub fn check_allowed(server: &Server, other: &ServerName) -> Result<()> {
    if allows(server, other) {
        Ok(())
    } else {
        Err(Error::forbidden(format!("This server does not exchange anything with {other}")))
    }
}
