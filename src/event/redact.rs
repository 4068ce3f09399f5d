//! Redaction: what is left of an event when its content must go.

use ruma::{CanonicalJsonObject, RoomId, canonical_json, room_version_rules::RoomVersionRules};

use super::{
    FormatError, Pdu, StoredEvent,
    stored::{self, DecodeError, EventView},
};

/// The event without everything that the room version does not protect.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#redactions>
pub fn redact(event: CanonicalJsonObject, rules: &RoomVersionRules) -> Result<CanonicalJsonObject, FormatError> {
    canonical_json::redact(event, &rules.redaction, None).map_err(|error| FormatError::bad(error.to_string()))
}

/// The stored form of `event` after the redaction `redacted_by` (the number of that event) was applied to it.
///
/// Its place, its state and its ids stay; content, unknown fields and relation go. Redacting twice changes nothing more.
pub fn redact_stored(
    event: &EventView<'_>,
    room_id: &RoomId,
    rules: &RoomVersionRules,
    redacted_by: u32,
) -> Result<StoredEvent, DecodeError> {
    let json = redact(event.json(room_id, rules)?, rules).map_err(|error| DecodeError(error.to_string()))?;
    let pdu = Pdu::from_json(&json, rules).map_err(|error| DecodeError(error.to_string()))?;
    let mut redacted = StoredEvent::from(event);
    redacted.flags.redacted = true;
    redacted.redacted_by = Some(redacted_by);
    redacted.relation = None;
    redacted.redacts = pdu.redacts;
    (redacted.common, redacted.federation) = stored::split(json, rules);
    Ok(redacted)
}
