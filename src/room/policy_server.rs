//! The policy server of a room: it looks at events before they are sent, and signs those that it recommends.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#determining-if-a-policy-server-is-enabled-in-a-room>

use ruma::{
    OwnedServerName, ServerName,
    events::{StateEventType, TimelineEventType},
    serde::Base64,
};
use serde::Deserialize;

use super::{View, servers};
use crate::{
    event::{Pdu, Verified, policy},
    store::Result,
};

/// Whom a room has its events looked at by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyServer {
    pub via: OwnedServerName,
    /// The key whose signature counts; empty if the room's state has one that is none.
    pub key: Base64,
}

/// The policy server that the room uses now.
pub fn of(view: &View<'_>) -> Result<Option<PolicyServer>> {
    #[derive(Deserialize)]
    struct Content {
        via: String,
        public_keys: PublicKeys,
    }
    #[derive(Deserialize)]
    struct PublicKeys {
        ed25519: String,
    }
    let content: Option<Content> = view.state_content(view.current_state(), &StateEventType::RoomPolicy, "")?;
    let Some(Content { via, public_keys }) = content else { return Ok(None) };
    // It must have joined: nobody else may make it look at a room.
    let Ok(via) = <&ServerName>::try_from(via.as_str()) else { return Ok(None) };
    let is_there = servers::is_in(view.snapshot, view.nid, via)?;
    let key = Base64::parse(&public_keys.ed25519).unwrap_or_else(|_| Base64::empty());
    Ok(is_there.then(|| PolicyServer { via: via.to_owned(), key }))
}

/// The policy server that should have signed `event` and has not.
pub fn lacking(view: &View<'_>, event: &Verified) -> Result<Option<PolicyServer>> {
    if is_exempt(event.pdu()) {
        return Ok(None);
    }
    let policy_server = of(view)?;
    Ok(policy_server.filter(|PolicyServer { via, key }| !policy::is_signed(event, view.rules, via, key)))
}

/// Nobody could switch off a policy server that is gone if it were asked about that.
fn is_exempt(pdu: &Pdu) -> bool {
    pdu.event_type == TimelineEventType::from("m.room.policy") && pdu.state_key.as_deref() == Some("")
}
