use ruma::{OwnedUserId, push::FlattenedJson, serde::Raw};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::glob;
use crate::{
    error::{Error, Result},
    event::{
        StoredEvent,
        client_form::{self, Unsigned},
    },
    room::{View, ends, threads, visibility::is_for_all_members},
    store::EventNid,
};

/// Where the text of a message is.
pub const BODY: &str = "content.body";

/// An event in the form that rules are tried on; the same for all users.
#[derive(Debug)]
pub struct Subject {
    pub json: FlattenedJson,
    /// `content.body` in small letters.
    pub body: Option<String>,
    /// The size of the event as JSON.
    pub bytes: usize,
    pub sender: OwnedUserId,
    /// As its server claims, in milliseconds since the Unix epoch.
    pub sent_ms: u64,
    pub is_state: bool,
    pub is_redacted: bool,
    /// Whether it says itself whom it mentions.
    pub has_mentions: bool,
    /// The root of the thread that it belongs to; `None` for the main timeline.
    pub thread: Option<EventNid>,
    /// The event of this room that it asks to redact.
    pub redacts: Option<EventNid>,
    /// Whether there may be members who are not shown it: by its type, or by the history visibility at its place.
    pub may_be_hidden: bool,
}

impl Subject {
    pub fn of(view: &View<'_>, event: &StoredEvent) -> Result<Self> {
        let json = client_form::raw(&event.view(), Some(view.room_id()), &Unsigned::default())
            .map_err(|e| Error::internal(e.to_string()))?;
        let redacts = event.redacts.as_ref().map(|target| view.event_nid(target)).transpose()?.flatten();
        let is_for_all = event.state_after.map_or(Ok(false), |state| is_for_all_members(view, state))?;
        let bytes = json.get().len();
        let json = FlattenedJson::from_raw(&Raw::<Value>::from_json(json));
        Ok(Self {
            body: json.get_str(BODY).map(glob::lower),
            json,
            bytes,
            sender: event.sender.clone(),
            sent_ms: event.origin_server_ts,
            is_state: event.state_key.is_some(),
            is_redacted: event.flags.redacted,
            has_mentions: has_mentions(event)?,
            thread: threads::root_of(view, event)?,
            redacts,
            may_be_hidden: !is_for_all || matches!(event.event_type.as_str(), ends::DUMMY | "m.room.redaction"),
        })
    }
}

fn has_mentions(event: &StoredEvent) -> Result<bool> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.mentions")]
        mentions: Option<IgnoredAny>,
    }
    let content = event.view().content().map_err(|e| Error::internal(e.to_string()))?;
    Ok(serde_json::from_str::<Content>(content.get()).is_ok_and(|content| content.mentions.is_some()))
}
