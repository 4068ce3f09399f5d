use ruma::{OwnedUserId, push::FlattenedJson, serde::Raw};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    event::{
        StoredEvent,
        client_form::{self, Unsigned},
    },
    room::{View, threads},
    store::EventNid,
};

/// An event in the form that rules are tried on; the same for all users.
#[derive(Debug)]
pub struct Subject {
    pub json: FlattenedJson,
    pub sender: OwnedUserId,
    pub is_state: bool,
    pub is_redacted: bool,
    /// The root of the thread that it belongs to; `None` for the main timeline.
    pub thread: Option<EventNid>,
    /// The event of this room that it asks to redact.
    pub redacts: Option<EventNid>,
}

impl Subject {
    pub fn of(view: &View<'_>, event: &StoredEvent) -> Result<Self> {
        let json = client_form::raw(&event.view(), Some(view.room_id()), &Unsigned::default())
            .map_err(|e| Error::internal(e.to_string()))?;
        let redacts = event.redacts.as_ref().map(|target| view.event_nid(target)).transpose()?.flatten();
        Ok(Self {
            json: FlattenedJson::from_raw(&Raw::<Value>::from_json(json)),
            sender: event.sender.clone(),
            is_state: event.state_key.is_some(),
            is_redacted: event.flags.redacted,
            thread: threads::root_of(view, event)?,
            redacts,
        })
    }
}
