//! Events that another server handed us: what is wrong with one of them costs us only that one.

use std::sync::Arc;

use ruma::{RoomId, room_version_rules::RoomVersionRules};
use serde_json::value::RawValue;
use tracing::debug;

use super::keys;
use crate::{
    Server,
    error::Result,
    event::{Verified, format},
};

/// The events of `room_id` among `events` whose format and signatures are right.
pub async fn check(
    server: &Arc<Server>,
    rules: &'static RoomVersionRules,
    room_id: &RoomId,
    events: Vec<Box<RawValue>>,
) -> Result<Vec<Verified>> {
    check_read(server, rules, room_id, events, format::parse).await
}

/// As [`check`], of events that are read otherwise.
pub async fn check_read(
    server: &Arc<Server>,
    rules: &'static RoomVersionRules,
    room_id: &RoomId,
    events: Vec<Box<RawValue>>,
    parse: keys::Parse,
) -> Result<Vec<Verified>> {
    let is_right = |event: Result<Verified, _>| match event {
        Ok(event) => Some(event).filter(|event| event.pdu().room_id == room_id),
        Err(error) => {
            debug!(%room_id, "an event is left out: {error}");
            None
        }
    };
    Ok(keys::verify_all(server, rules, events, parse).await?.into_iter().filter_map(is_right).collect())
}
