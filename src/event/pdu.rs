//! An event as the authorization rules and state resolution read it.

use std::borrow::Cow;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId,
    OwnedUserId, RoomId, UserId,
    events::TimelineEventType,
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomIdFormatVersion, RoomVersionRules},
    serde::btreemap_deserialize_v1_powerlevel_values,
    state_res::Event,
};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{format::FormatError, hash::reference_sha256};

/// The fields of one event that the rules of a room look at.
///
/// Source: a remote server or our own `build`, format-checked; the signatures are not this type's business.
#[derive(Clone, Debug)]
pub struct Pdu {
    pub event_id: OwnedEventId,
    /// The room. For the create event of a version 12 room, which names no room, it is made from the event id.
    pub room_id: OwnedRoomId,
    pub sender: OwnedUserId,
    /// What the sending server claims; decides nothing about acceptance.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// As the rules have it, which know nothing of the types that ruma takes for others.
    pub event_type: TimelineEventType,
    /// As the event says it.
    pub r#type: String,
    pub state_key: Option<String>,
    /// A JSON object: the event's content, but for `notifications` that the rules of its version do not look at.
    pub content: Box<RawValue>,
    pub prev_events: Vec<OwnedEventId>,
    pub auth_events: Vec<OwnedEventId>,
    /// The event that this `m.room.redaction` redacts, read from where the room version keeps it.
    pub redacts: Option<OwnedEventId>,
    /// At most 2^53 - 1.
    pub depth: u64,
    /// Whether the authorization rules refused it when it came in.
    pub rejected: bool,
}

impl Pdu {
    /// Reads the fields out of a format-checked event.
    pub(super) fn from_json(json: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Self, FormatError> {
        let event_id = event_id(json, rules)?;
        let r#type = text(json, "type")?;
        let event_type = TimelineEventType::from(r#type);
        let content = json
            .get("content")
            .and_then(CanonicalJsonValue::as_object)
            .ok_or_else(|| FormatError::bad("`content` is not an object"))?;
        Ok(Self {
            room_id: room_id(json, rules, &event_type, &event_id)?,
            sender: parse_id(text(json, "sender")?, "sender")?,
            origin_server_ts: MilliSecondsSinceUnixEpoch(natural(json, "origin_server_ts")?),
            state_key: json.get("state_key").and_then(CanonicalJsonValue::as_str).map(str::to_owned),
            redacts: redacts(json, content, rules, &event_type),
            content: to_raw_value(&*content_for_rules(content, rules, &event_type))
                .map_err(|error| FormatError::bad(error.to_string()))?,
            prev_events: references(json, "prev_events", rules)?,
            auth_events: references(json, "auth_events", rules)?,
            depth: natural(json, "depth")?.into(),
            rejected: false,
            event_id,
            event_type,
            r#type: r#type.to_owned(),
        })
    }

    /// Whether this is the create event of a room whose id is the hash of that event (version 12 and later).
    fn is_named_by_itself(&self) -> bool {
        // No event id of versions 1 and 2 is without a server name, and no room id of versions 1 to 11 can be the hash
        // of an event that contains it, so that equal ids mean version 12.
        self.event_type == TimelineEventType::RoomCreate
            && self.room_id.server_name().is_none()
            && Some(self.room_id.strip_sigil()) == self.event_id.as_str().strip_prefix('$')
    }
}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    /// `None` for the create event of a version 12 room: the authorization rules refuse one that names a room.
    fn room_id(&self) -> Option<&RoomId> {
        (!self.is_named_by_itself()).then_some(&*self.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

/// The id of an event: its own claim in versions 1 and 2, its reference hash since version 3.
pub(super) fn event_id(json: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<OwnedEventId, FormatError> {
    if rules.event_id_format == EventIdFormatVersion::V1 {
        let id: OwnedEventId = parse_id(text(json, "event_id")?, "event_id")?;
        return match id.server_name() {
            Some(_) => Ok(id),
            None => Err(FormatError::bad("`event_id` names no server")),
        };
    }
    parse_id(&format!("${}", reference_sha256(json, rules)?), "event_id")
}

fn room_id(
    json: &CanonicalJsonObject,
    rules: &RoomVersionRules,
    event_type: &TimelineEventType,
    event_id: &EventId,
) -> Result<OwnedRoomId, FormatError> {
    if rules.room_id_format == RoomIdFormatVersion::V2 && *event_type == TimelineEventType::RoomCreate {
        if json.contains_key("room_id") {
            return Err(FormatError::bad("the create event of a version 12 room cannot have a `room_id`"));
        }
        return parse_id(&event_id.as_str().replacen('$', "!", 1), "room_id");
    }
    parse_id(text(json, "room_id")?, "room_id")
}

/// The event ids in `prev_events` or `auth_events`: `[[id, hashes], …]` in versions 1 and 2, `[id, …]` since version 3.
fn references(
    json: &CanonicalJsonObject,
    field: &str,
    rules: &RoomVersionRules,
) -> Result<Vec<OwnedEventId>, FormatError> {
    let list = json.get(field).and_then(CanonicalJsonValue::as_array);
    let list = list.ok_or_else(|| FormatError::bad(format!("`{field}` is not an array")))?;
    let id_of = |entry: &CanonicalJsonValue| {
        let id = match (rules.events_reference_format, entry) {
            (EventsReferenceFormatVersion::V1, CanonicalJsonValue::Array(pair)) => pair.first()?.as_str()?,
            (EventsReferenceFormatVersion::V1, _) => return None,
            (_, id) => id.as_str()?,
        };
        parse_id(id, field).ok()
    };
    list.iter()
        .map(|entry| {
            id_of(entry).ok_or_else(|| FormatError::bad(format!("`{field}` has an entry that is no event id")))
        })
        .collect()
}

/// The content without malformed `notifications` in power levels of versions 1 to 5, whose rules do not mention them: ruma
/// reads them in all versions, and would refuse an event that other servers take.
///
/// <https://spec.matrix.org/v1.19/rooms/v3/#authorization-rules>
fn content_for_rules<'c>(
    content: &'c CanonicalJsonObject,
    rules: &RoomVersionRules,
    event_type: &TimelineEventType,
) -> Cow<'c, CanonicalJsonObject> {
    if *event_type != TimelineEventType::RoomPowerLevels || rules.authorization.limit_notifications_power_levels {
        return Cow::Borrowed(content);
    }
    let is_malformed = content.get("notifications").is_some_and(|levels| {
        btreemap_deserialize_v1_powerlevel_values::<_, String>(&Value::from(levels.clone())).is_err()
    });
    if !is_malformed {
        return Cow::Borrowed(content);
    }
    let mut content = content.clone();
    content.remove("notifications");
    Cow::Owned(content)
}

/// What a redaction redacts. Malformed is the same as absent: such a redaction changes nothing.
fn redacts(
    json: &CanonicalJsonObject,
    content: &CanonicalJsonObject,
    rules: &RoomVersionRules,
    event_type: &TimelineEventType,
) -> Option<OwnedEventId> {
    if *event_type != TimelineEventType::RoomRedaction {
        return None;
    }
    let place = if rules.redaction.content_field_redacts { content } else { json };
    parse_id(place.get("redacts")?.as_str()?, "redacts").ok()
}

fn text<'a>(json: &'a CanonicalJsonObject, field: &str) -> Result<&'a str, FormatError> {
    let value = json.get(field).and_then(CanonicalJsonValue::as_str);
    value.ok_or_else(|| FormatError::bad(format!("`{field}` is missing or no string")))
}

fn natural(json: &CanonicalJsonObject, field: &str) -> Result<ruma::UInt, FormatError> {
    let value = json.get(field).and_then(CanonicalJsonValue::as_integer);
    let value = value.and_then(|integer| ruma::UInt::try_from(i64::from(integer)).ok());
    value.ok_or_else(|| FormatError::bad(format!("`{field}` is missing or no integer from 0 on")))
}

/// Parses an identifier; longer than 255 bytes is refused here because ruma is built to accept such ids from old data.
fn parse_id<'a, T: TryFrom<&'a str, Error = ruma::IdParseError>>(id: &'a str, field: &str) -> Result<T, FormatError> {
    if id.len() > ruma::ID_MAX_BYTES {
        return Err(FormatError::TooLarge(format!("`{field}` is longer than {} bytes", ruma::ID_MAX_BYTES)));
    }
    T::try_from(id).map_err(|error| FormatError::bad(format!("`{field}`: {error}")))
}
