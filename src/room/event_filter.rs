//! Which events of a room somebody asked for.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use std::collections::HashMap;

use ruma::{
    RoomId, UserId,
    api::client::filter::{RoomEventFilter, UrlFilter},
};
use serde::{Deserialize, de::IgnoredAny};

use crate::event::{StoredEvent, stored::DecodeError};

/// By what relation to another event a client wants events, and by what not (MSC3874). Events without any are among
/// those that it wants, unless it names relations.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RelationFilter {
    #[serde(rename = "org.matrix.msc3874.rel_types")]
    rel_types: Option<Vec<String>>,
    #[serde(default, rename = "org.matrix.msc3874.not_rel_types")]
    not_rel_types: Vec<String>,
}

impl RelationFilter {
    fn allows(&self, event: &StoredEvent) -> bool {
        let rel_type = event.relation.as_ref().map(|relation| &relation.rel_type);
        self.rel_types.as_ref().is_none_or(|wanted| rel_type.is_some_and(|rel_type| wanted.contains(rel_type)))
            && !rel_type.is_some_and(|rel_type| self.not_rel_types.contains(rel_type))
    }
}

/// A client's filter for the events of one room.
#[derive(Clone, Copy, Debug)]
pub struct EventFilter<'f> {
    filter: &'f RoomEventFilter,
    relations: Option<&'f RelationFilter>,
    /// Whether the filter wants anything of this room.
    is_room_wanted: bool,
}

impl<'f> EventFilter<'f> {
    pub fn new(filter: &'f RoomEventFilter, room_id: &RoomId) -> Self {
        let is_named = filter.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|room| room == room_id));
        Self {
            filter,
            relations: None,
            is_room_wanted: is_named && !filter.not_rooms.iter().any(|room| room == room_id),
        }
    }

    #[must_use]
    pub fn with_relations(self, relations: &'f RelationFilter) -> Self {
        Self { relations: Some(relations), ..self }
    }

    /// Whether nothing can pass.
    pub fn is_nothing(&self) -> bool {
        let is_none = |list: Option<bool>| list == Some(true);
        !self.is_room_wanted
            || is_none(self.filter.types.as_ref().map(Vec::is_empty))
            || is_none(self.filter.senders.as_ref().map(Vec::is_empty))
    }

    pub fn allows(&self, event: &StoredEvent) -> Result<bool, DecodeError> {
        if !self.is_room_wanted || !self.allows_type(&event.event_type) || !self.allows_sender(&event.sender) {
            return Ok(false);
        }
        if !self.relations.is_none_or(|relations| relations.allows(event)) {
            return Ok(false);
        }
        Ok(match self.filter.url_filter {
            None => true,
            Some(UrlFilter::EventsWithUrl) => has_url(event)?,
            Some(UrlFilter::EventsWithoutUrl) => !has_url(event)?,
        })
    }

    pub fn allows_type(&self, event_type: &str) -> bool {
        let is_among = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, event_type));
        self.is_room_wanted && self.filter.types.as_deref().is_none_or(is_among) && !is_among(&self.filter.not_types)
    }

    fn allows_sender(&self, sender: &UserId) -> bool {
        self.filter.senders.as_ref().is_none_or(|senders| senders.iter().any(|user| user == sender))
            && !self.filter.not_senders.iter().any(|user| user == sender)
    }
}

fn has_url(event: &StoredEvent) -> Result<bool, DecodeError> {
    // What is stored was checked to be JSON; a content that is no object has no `url`.
    let content = event.view().content()?.get();
    let members = serde_json::from_str::<HashMap<String, IgnoredAny>>(content).unwrap_or_default();
    Ok(members.contains_key("url"))
}

/// Whether `text` matches `pattern`, in which each `*` stands for any characters or none. Takes at most the product of
/// their lengths in steps: at a mismatch only the last `*` takes one more character.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut last_star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star, taken)) = last_star else { return false };
                last_star = Some((star, taken + 1));
                p = star + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::json;

    use super::*;
    use crate::event::{
        Placement,
        rules::SUPPORTED,
        testing::{Forge, draft},
    };

    fn allows(filter: &serde_json::Value, event: &StoredEvent) -> bool {
        let filter = serde_json::from_value(filter.clone()).unwrap();
        EventFilter::new(&filter, room_id!("!room:domain")).allows(event).unwrap()
    }

    fn image() -> StoredEvent {
        let mut forge = Forge::new(SUPPORTED[10].clone());
        let create = forge.create("alice");
        let content = json!({ "body": "x", "url": "mxc://a/b" });
        let event = forge.event("alice", draft("m.room.message", None, &content), &[&create], &[]);
        StoredEvent::new(&event, forge.rules, Placement::default())
    }

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, text) in [("*", ""), ("a*", "a"), ("a*c", "abc"), ("*.b.*", "a.b.b.c"), ("", ""), ("**a", "ba")] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*c", "abd"), ("*b", "ba"), ("", "a"), ("a?", "ab"), ("a**", "ba")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_longer() {
        assert!(!matches(&"*a".repeat(10_000), &"a".repeat(9_999)));
    }

    #[test]
    fn each_part_of_a_filter_counts_and_exclusion_wins() {
        let event = image();
        for filter in [
            json!({}),
            json!({ "types": ["m.room.*"], "senders": ["@alice:domain"], "rooms": ["!room:domain"] }),
            json!({ "not_types": ["m.room.messages"], "not_senders": ["@bob:domain"], "not_rooms": ["!x:domain"] }),
            json!({ "contains_url": true }),
        ] {
            assert!(allows(&filter, &event), "{filter}");
        }
        for filter in [
            json!({ "types": [] }),
            json!({ "senders": [] }),
            json!({ "rooms": [] }),
            json!({ "types": ["m.room.message"], "not_types": ["m.room.*"] }),
            json!({ "senders": ["@alice:domain"], "not_senders": ["@alice:domain"] }),
            json!({ "rooms": ["!room:domain"], "not_rooms": ["!room:domain"] }),
            json!({ "contains_url": false }),
        ] {
            assert!(!allows(&filter, &event), "{filter}");
        }
    }
}
