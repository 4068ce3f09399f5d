//! After a crash: what was acknowledged is there, once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde_json::{Value, json};

use crate::http::Connection;
use crate::reader::Reader;
use crate::writer::{Register, Sent, TYPE, Writer, text};

/// Sends again what nobody knew about, with its transaction id, so that from now on everything has to be there.
///
/// Some of what was acknowledged is sent again as well: it has to be answered as it was before.
pub fn send_again(writer: &mut Writer, connection: &mut Connection) -> io::Result<()> {
    for sent in writer.messages.iter_mut().rev().take(10).chain(writer.to_device.iter_mut().rev().take(10)) {
        let answer = connection.request("PUT", &sent.path, &sent.content)?;
        let before = sent.acknowledged.get_or_insert_with(|| answer.clone());
        assert_eq!(*before, answer, "{} was answered differently", sent.path);
    }
    Ok(())
}

/// The events of `room_id` from its newest back to and without `last`, oldest first.
pub fn history(connection: &mut Connection, room_id: &str, last: Option<&str>) -> io::Result<Vec<Value>> {
    let (mut events, mut from) = (Vec::new(), String::new());
    loop {
        let page = connection.get(&format!("rooms/{room_id}/messages?dir=b&limit=100{from}"))?;
        let chunk = page["chunk"].as_array().unwrap_or_else(|| panic!("a page without events: {page}"));
        let new = chunk.iter().take_while(|event| event["event_id"].as_str() != last).cloned();
        let known = events.len();
        events.extend(new);
        if events.len() < known + chunk.len() || page["end"].is_null() {
            events.reverse();
            return Ok(events);
        }
        from = format!("&from={}", text(&page["end"]));
    }
}

/// The history has each event once, every acknowledged one with its content among them, and no message that nobody sent.
pub fn messages_are_there_once(writers: &[Writer], history: &[Value]) {
    let mut expected: BTreeMap<&str, &Sent> = BTreeMap::new();
    for sent in writers.iter().flat_map(|writer| &writer.messages) {
        let answer = sent.acknowledged.as_ref().expect("send_again() has sent what was in doubt");
        let event_id = answer["event_id"].as_str().expect("a sent message has an event id");
        assert!(expected.insert(event_id, sent).is_none(), "{event_id} was given to two messages");
    }
    let mut ids = BTreeSet::new();
    for event in history {
        let event_id = event["event_id"].as_str().expect("an event of the history has an id");
        assert!(ids.insert(event_id), "{event_id} is there twice");
        if event["type"] == "m.room.message" {
            let sent = expected.remove(event_id).unwrap_or_else(|| panic!("nobody was told of {event}"));
            assert_eq!(event["content"], sent.content);
        }
    }
    assert!(expected.is_empty(), "lost: {:?}", expected.keys());
    for event_id in writers.iter().flat_map(|writer| &writer.state_events) {
        assert!(ids.contains(event_id.as_str()), "the state event {event_id} is lost");
    }
}

/// A person's syncs have shown each event of `history` once (or had a gap, which is allowed), and none that is not there.
pub fn syncs_were_complete(reader: &Reader, history: &[Value]) {
    let mut shown = reader.timeline.clone();
    for event in history {
        let times = shown.remove(event["event_id"].as_str().expect("an event of the history has an id")).unwrap_or(0);
        assert!(times == 1 || (times == 0 && reader.has_gap), "a person's syncs had this event {times} times: {event}");
    }
    assert!(shown.is_empty(), "a sync showed what is not in the history: {shown:?}");
}

/// What `writer` sent to its neighbor's device has come there once.
pub fn to_device_came_once(writer: &Writer, neighbor: &Reader) {
    let mut came = neighbor.to_device.clone();
    for sent in &writer.to_device {
        let mut bodies = Vec::new();
        collect_bodies(&sent.content, &mut bodies);
        for body in bodies {
            assert_eq!(came.remove(&body), Some(1), "how often the to-device message {body} came");
        }
    }
    assert!(came.is_empty(), "to-device messages of an earlier round came again: {came:?}");
}

fn collect_bodies(value: &Value, bodies: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            ("body", Value::String(body)) => bodies.push(body.clone()),
            (_, value) => collect_bodies(value, bodies),
        }
    }
}

/// What was overwritten has the last acknowledged value, or the one after it that was in doubt.
pub fn registers_are_kept(writer: &mut Writer, room_id: &str, connection: &mut Connection) -> io::Result<()> {
    let state = format!("rooms/{room_id}/state/{TYPE}/{}", writer.person.device_id);
    register_is_kept(&mut writer.state, &state, connection)?;
    let account_data = format!("user/{}/account_data/{TYPE}", writer.person.user_id);
    register_is_kept(&mut writer.account_data, &account_data, connection)
}

fn register_is_kept(register: &mut Register, path: &str, connection: &mut Connection) -> io::Result<()> {
    let value = match connection.exchange("GET", path, &Value::Null)? {
        (200, content) => content["written"].as_u64().unwrap_or_else(|| panic!("{path} is {content}")),
        (404, _) => 0,
        (status, answer) => panic!("GET {path}: {status} {answer}"),
    };
    let Register { acknowledged, in_doubt } = *register;
    assert!(value == acknowledged || Some(value) == in_doubt, "{path}: {value}, not {acknowledged} or {in_doubt:?}");
    *register = Register { acknowledged: value, in_doubt: None };
    Ok(())
}

/// No key of `owner` was given twice, and as many are left as must be.
///
/// `claimer` is the only one who claims them.
pub fn keys_were_given_once(owner: &Writer, claimer: &Writer, connection: &mut Connection) -> io::Result<()> {
    let given: BTreeSet<&String> = claimer.claimed_keys.iter().collect();
    assert_eq!(given.len(), claimer.claimed_keys.len(), "a key of {} was given twice", owner.person.user_id);
    for key in &given {
        assert!(owner.uploaded_keys.contains_key(*key), "{key} was given but never uploaded");
    }
    let answer = connection.request("POST", "keys/upload", &json!({}))?;
    let left: u64 =
        answer["one_time_key_counts"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    // A key that was given has been uploaded, whatever the upload was answered.
    let certain =
        owner.uploaded_keys.iter().filter(|(key, acknowledged)| **acknowledged || given.contains(key)).count() as u64;
    let possible = owner.uploaded_keys.len() as u64;
    let given = given.len() as u64;
    let bounds = (certain - given).saturating_sub(claimer.claims_in_doubt)..=possible - given;
    assert!(bounds.contains(&left), "{} has {left} one-time keys, not one of {bounds:?}", owner.person.user_id);
    Ok(())
}
