//! Where words are said in rooms. Written together with the events, so that it is never behind; a redaction removes the
//! words together with the text.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::words;
use crate::{
    event::StoredEvent,
    store::{EventNid, Family, Record, RoomNid, RoomPos, Table, Transaction},
};

pub struct SearchWords;
impl Table for SearchWords {
    const NAME: &'static str = "search_words";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 151;
    /// A word, and the place of an event that says it.
    type Key<'a> = (RoomNid, &'a str, RoomPos);
    type Value = Said;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    pub event: EventNid,
    pub field: Field,
    /// How many different words the text has.
    pub words: u16,
}

impl Record for Said {}

/// What of an event is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Field {
    Body,
    Name,
    Topic,
}

/// The rows of one event.
#[derive(Clone, Debug)]
pub struct Words {
    said: Said,
    words: Vec<String>,
}

impl Words {
    /// `None` if the event has no text that is searched.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#search-categories>
    pub fn of(event: &StoredEvent, nid: EventNid) -> Option<Self> {
        let is_state = event.state_key.as_deref() == Some("");
        let field = match event.event_type.as_str() {
            "m.room.message" => Field::Body,
            "m.room.name" if is_state => Field::Name,
            "m.room.topic" if is_state => Field::Topic,
            _ => return None,
        };
        let text = text(field, event.view().content().ok()?)?;
        let words: Vec<String> = words::of(&text).into_iter().collect();
        let said = Said { event: nid, field, words: u16::try_from(words.len()).unwrap_or(u16::MAX) };
        (!words.is_empty()).then_some(Self { said, words })
    }

    pub fn put(&self, tx: &mut Transaction<'_>, room: RoomNid, at: RoomPos) {
        for word in &self.words {
            tx.put::<SearchWords>(&(room, word, at), &self.said);
        }
    }

    pub fn delete(&self, tx: &mut Transaction<'_>, room: RoomNid, at: RoomPos) {
        for word in &self.words {
            tx.delete::<SearchWords>(&(room, word, at));
        }
    }

    pub fn said(&self) -> Said {
        self.said
    }

    pub fn words(&self) -> &[String] {
        &self.words
    }
}

/// The text of a field; `None` if the content has none, or has it in another form than the specification's.
fn text(field: Field, content: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Message {
        body: String,
    }
    #[derive(Deserialize)]
    struct Name {
        name: String,
    }
    #[derive(Deserialize)]
    struct Topic {
        #[serde(default)]
        topic: String,
        #[serde(default, rename = "m.topic")]
        blocks: serde_json::Value,
    }
    match field {
        Field::Body => serde_json::from_str::<Message>(content.get()).ok().map(|content| content.body),
        Field::Name => serde_json::from_str::<Name>(content.get()).ok().map(|content| content.name),
        Field::Topic => {
            let Topic { mut topic, blocks } = serde_json::from_str(content.get()).ok()?;
            for block in blocks["m.text"].as_array().into_iter().flatten() {
                let is_plain = block["mimetype"].as_str().is_none_or(|mimetype| mimetype == "text/plain");
                if let Some(text) = block["body"].as_str().filter(|_| is_plain) {
                    topic.push('\n');
                    topic.push_str(text);
                }
            }
            Some(topic)
        }
    }
}
