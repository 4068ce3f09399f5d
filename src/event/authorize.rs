//! The authorization rules of a room version, applied to one event.
//!
//! ruma's rules read events through closures that can only answer "none". A store that fails must not look like an event
//! that is absent: wrap each look-up in [`Fallible::keep`] and ask [`Fallible::check`] before believing the verdict.

use std::{cell::OnceCell, collections::HashMap};

use ruma::{
    EventId, ID_MAX_BYTES, OwnedEventId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{AuthorizationRules, RoomVersionRules},
    state_res::{
        Event, auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
        events::RoomCreateEvent,
    },
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Pdu, owned_state};

/// The rules do not allow an event; says which one, in words for a log or a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Keeps the first error of look-ups that are made inside closures which cannot return one.
#[derive(Debug)]
pub struct Fallible<E>(OnceCell<E>);

impl<E> Default for Fallible<E> {
    fn default() -> Self {
        Self(OnceCell::new())
    }
}

impl<E> Fallible<E> {
    /// The answer of a look-up for the closure to pass on; its error stays here.
    pub fn keep<T>(&self, answer: Result<Option<T>, E>) -> Option<T> {
        answer.unwrap_or_else(|error| {
            self.0.get_or_init(|| error);
            None
        })
    }

    /// `verdict`, unless a look-up failed: then what the rules saw was not the room, and their verdict means nothing.
    pub fn check<T>(self, verdict: T) -> Result<T, E> {
        match self.0.into_inner() {
            Some(error) => Err(error),
            None => Ok(verdict),
        }
    }
}

/// Which entries of the current state an event must name as its auth events.
///
/// Refused if the content is not what the event type asks for, in which case the event could not be allowed either.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection>
pub fn auth_types(
    event_type: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &RoomVersionRules,
) -> Result<Vec<(StateEventType, String)>, Refusal> {
    auth_types_for_event(event_type, sender, state_key, content, &rules.authorization).map_err(Refusal)
}

/// Whether `event` is allowed by itself and by its own auth events; if not, it is rejected.
///
/// `fetch_event` finds events by id, whatever room they claim to be of: the rules compare the rooms.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu> (checks 4 and the first part
/// of each room version's authorization rules)
pub fn check_against_auth_events<E: Event<Id = OwnedEventId> + Clone>(
    rules: &RoomVersionRules,
    event: &Pdu,
    fetch_event: impl Fn(&EventId) -> Option<E>,
) -> Result<(), Refusal> {
    check_state_independent_auth_rules(&rules.authorization, event, &fetch_event).map_err(Refusal)?;
    check_creators(&rules.authorization, event)?;
    let state = state_of_auth_events(&rules.authorization, event, fetch_event);
    check_against_state(rules, event, |event_type, state_key| {
        state.get(&(event_type.to_string(), state_key.to_owned())).cloned()
    })
}

/// Whether `event` is allowed in a room with the state that `fetch_state` reads; asked for the state before the event
/// (if not, it is rejected) and for the current state (if not, it is soft-failed).
pub fn check_against_state<E: Event>(
    rules: &RoomVersionRules,
    event: &Pdu,
    fetch_state: impl Fn(&StateEventType, &str) -> Option<E>,
) -> Result<(), Refusal> {
    check_own_join(event)?;
    match owned_state::owner_counts(rules, &event.event_type).then_some(event.state_key.as_deref()).flatten() {
        Some(state_key) => owned_state::check(&rules.authorization, event, state_key, fetch_state),
        None => check_state_dependent_auth_rules(&rules.authorization, event, fetch_state).map_err(Refusal),
    }
}

/// Whether `event` does not have somebody else join.
///
/// NOTSPEC: before they say so themselves, the rules let anybody at all have the creator join who follows on nothing but the
/// create event, and so give him another name, or bring him back into a room that he was removed from.
fn check_own_join(event: &Pdu) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    if event.event_type != TimelineEventType::RoomMember || event.state_key.as_deref() == Some(event.sender.as_str()) {
        return Ok(());
    }
    match serde_json::from_str::<Content>(event.content.get()) {
        Ok(content) if content.membership == "join" => Err(Refusal("nobody joins for somebody else".to_owned())),
        _ => Ok(()),
    }
}

/// Whether no creator who is named beside the sender has too long an id: ruma is built to accept such ids from old data.
///
/// <https://spec.matrix.org/v1.19/rooms/v12/#authorization-rules>
fn check_creators(rules: &AuthorizationRules, event: &Pdu) -> Result<(), Refusal> {
    if event.event_type != TimelineEventType::RoomCreate || !rules.additional_room_creators {
        return Ok(());
    }
    let creators = RoomCreateEvent::new(event).creators(rules).map_err(Refusal)?;
    match creators.iter().any(|creator| creator.as_str().len() > ID_MAX_BYTES) {
        true => Err(Refusal(format!("the id of a creator is longer than {ID_MAX_BYTES} bytes"))),
        false => Ok(()),
    }
}

/// Whether `event` is not a create event beside `create`, the one that its room has.
///
/// The rules allow any create event that follows on nothing and is of the server that the room's id names: by a second one
/// such a server would become the creator of a room that others made with it, in those room versions that ask the create
/// event who that is.
///
/// NOTSPEC: the rules have no such check.
pub fn check_only_create(event: &Pdu, create: Option<&EventId>) -> Result<(), Refusal> {
    match create {
        Some(create) if event.event_type == TimelineEventType::RoomCreate && event.event_id != create => {
            Err(Refusal(format!("the room was created by {create}")))
        }
        _ => Ok(()),
    }
}

/// The state that the auth events of `event` amount to, with the create event that version 12 leaves unnamed.
fn state_of_auth_events<E: Event<Id = OwnedEventId>>(
    rules: &AuthorizationRules,
    event: &Pdu,
    fetch_event: impl Fn(&EventId) -> Option<E>,
) -> HashMap<(String, String), E> {
    let create = rules
        .room_create_event_id_as_room_id
        .then(|| EventId::parse(format!("${}", event.room_id.strip_sigil())).ok())
        .flatten();
    create
        .iter()
        .chain(&event.auth_events)
        .filter_map(|id| fetch_event(id))
        .filter_map(|found| Some(((found.event_type().to_string(), found.state_key()?.to_owned()), found)))
        .collect()
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::json;

    use super::*;
    use crate::event::{
        Verified,
        rules::SUPPORTED,
        testing::{Forge, draft},
    };

    /// A room of alice, with the auth events that the next event of hers names.
    struct Room {
        forge: Forge,
        events: Vec<Verified>,
    }

    impl Room {
        fn new(version: RoomVersionId) -> Self {
            let mut forge = Forge::new(version);
            let create = forge.create("alice");
            Self::of(forge, create)
        }

        fn of(forge: Forge, create: Verified) -> Self {
            let mut room = Self { forge, events: vec![create] };
            let alice =
                room.make("alice", "m.room.member", Some("@alice:domain"), &json!({ "membership": "join" }), &[]);
            room.events.push(alice);
            room
        }

        /// An event that names the create event, where the version wants that, and the events numbered `auth`.
        fn make(
            &mut self,
            sender: &str,
            event_type: &str,
            state_key: Option<&str>,
            content: &serde_json::Value,
            auth: &[usize],
        ) -> Verified {
            let names_create = !self.forge.rules.authorization.room_create_event_id_as_room_id;
            let auth = names_create.then_some(&0).into_iter().chain(auth);
            let auth: Vec<&Verified> = auth.map(|&number| &self.events[number]).collect();
            let newest = self.events.last().unwrap();
            self.forge.event(sender, draft(event_type, state_key, content), &[newest], &auth)
        }

        fn check(&self, event: &Verified) -> Result<(), Refusal> {
            self.check_with(event, |pdu| pdu)
        }

        fn check_with(&self, event: &Verified, change: impl Fn(Pdu) -> Pdu) -> Result<(), Refusal> {
            check_against_auth_events(self.forge.rules, event.pdu(), |id| self.fetch(id).map(&change))
        }

        fn fetch(&self, id: &EventId) -> Option<Pdu> {
            Some(self.events.iter().find(|event| event.pdu().event_id == id)?.pdu().clone())
        }
    }

    fn text() -> serde_json::Value {
        json!({ "body": "hi" })
    }

    #[test]
    fn a_member_may_speak_and_a_stranger_may_not_in_every_version() {
        for version in SUPPORTED {
            let mut room = Room::new(version.clone());
            for number in 0..2 {
                room.check(&room.events[number].clone()).unwrap();
            }
            let alice = room.make("alice", "m.room.message", None, &text(), &[1]);
            room.check(&alice).unwrap();
            let mallory = room.make("mallory", "m.room.message", None, &text(), &[]);
            room.check(&mallory).unwrap_err();
            let unproved = room.make("alice", "m.room.message", None, &text(), &[]);
            assert!(room.check(&unproved).is_err(), "{version}: her membership is not among the auth events");
        }
    }

    #[test]
    fn a_room_that_does_not_federate_has_no_users_of_other_servers_in_any_version() {
        for (version, federates) in
            SUPPORTED.into_iter().flat_map(|version| [(version.clone(), true), (version, false)])
        {
            let mut forge = Forge::new(version.clone());
            let create = json!({ "room_version": version, "creator": "@alice:domain", "m.federate": federates });
            let create = forge.event("alice", draft("m.room.create", Some(""), &create), &[], &[]);
            forge.room_id = Some(create.pdu().room_id.clone());
            let mut room = Room::of(forge, create);
            let public = room.make("alice", "m.room.join_rules", Some(""), &json!({ "join_rule": "public" }), &[1]);
            room.events.push(public);
            let join = room.make("bob", "m.room.member", Some("@bob:domain"), &json!({ "membership": "join" }), &[2]);
            room.check(&join).unwrap();
            let elsewhere = "@bob:elsewhere";
            let join =
                Pdu { sender: elsewhere.try_into().unwrap(), state_key: Some(elsewhere.into()), ..join.pdu().clone() };
            let verdict = check_against_auth_events(room.forge.rules, &join, |id| room.fetch(id));
            assert_eq!(verdict.is_ok(), federates, "{version}");
        }
    }

    #[test]
    fn the_id_of_an_additional_creator_is_no_longer_than_others_may_be() {
        for (length, is_allowed) in [(255, true), (256, false)] {
            let mut forge = Forge::new(RoomVersionId::V12);
            let creator = format!("@{}:domain", "x".repeat(length - "@:domain".len()));
            let content = json!({ "room_version": "12", "additional_creators": [creator] });
            let create = forge.event("alice", draft("m.room.create", Some(""), &content), &[], &[]);
            let verdict = check_against_auth_events(forge.rules, create.pdu(), |_| None::<Pdu>);
            assert_eq!(verdict.is_ok(), is_allowed, "{length}");
        }
    }

    #[test]
    fn notifications_in_power_levels_count_where_the_rules_speak_of_them() {
        for version in SUPPORTED {
            let mut room = Room::new(version.clone());
            let is_spoken_of = room.forge.rules.authorization.limit_notifications_power_levels;
            for malformed in [json!(null), json!([]), json!({ "room": "everyone" })] {
                let levels = json!({ "notifications": malformed });
                let levels = room.make("alice", "m.room.power_levels", Some(""), &levels, &[1]);
                assert_eq!(room.check(&levels).is_err(), is_spoken_of, "{version}: {malformed}");
                assert!(levels.json()["content"].as_object().unwrap().contains_key("notifications"), "{version}");
            }
            let levels = json!({ "notifications": { "room": 50 } });
            let levels = room.make("alice", "m.room.power_levels", Some(""), &levels, &[1]);
            room.check(&levels).unwrap();
            assert!(levels.pdu().content.get().contains("notifications"), "{version}");
        }
    }

    #[test]
    fn nobody_joins_for_the_creator_in_any_version() {
        for version in SUPPORTED {
            let mut forge = Forge::new(version.clone());
            let create = forge.create("alice");
            let names_create = !forge.rules.authorization.room_create_event_id_as_room_id;
            let auth: Vec<&Verified> = names_create.then_some(&create).into_iter().collect();
            let mut check = |sender: &str| {
                let join = forge.member(sender, "alice", "join", &[&create], &auth);
                let fetch = |id: &EventId| (create.pdu().event_id == id).then(|| create.pdu().clone());
                check_against_auth_events(forge.rules, join.pdu(), fetch)
            };
            check("alice").unwrap();
            assert!(check("mallory").is_err(), "version {version}");
        }
    }

    #[test]
    fn auth_events_must_be_known_accepted_of_the_same_room_and_of_use() {
        let mut room = Room::new(RoomVersionId::V11);
        let topic = room.make("alice", "m.room.topic", Some(""), &json!({ "topic": "x" }), &[1]);
        room.events.push(topic);
        let good = room.make("alice", "m.room.message", None, &text(), &[1]);
        let useless = room.make("alice", "m.room.message", None, &text(), &[1, 2]);
        let twice = room.make("alice", "m.room.message", None, &text(), &[1, 1]);
        room.check(&good).unwrap();
        room.check(&useless).unwrap_err();
        room.check(&twice).unwrap_err();
        room.check_with(&good, |pdu| Pdu { rejected: true, ..pdu }).unwrap_err();
        room.check_with(&good, |pdu| Pdu { room_id: "!other:domain".try_into().unwrap(), ..pdu }).unwrap_err();
        room.events.remove(1);
        room.check(&good).unwrap_err();
    }

    #[test]
    fn a_version_12_event_needs_the_create_event_of_its_room_id() {
        let mut room = Room::new(RoomVersionId::V12);
        let message = room.make("alice", "m.room.message", None, &text(), &[1]);
        room.check(&message).unwrap();
        room.check_with(&message, |pdu| Pdu { rejected: pdu.event_type == TimelineEventType::RoomCreate, ..pdu })
            .unwrap_err();
        room.events.remove(0);
        room.check(&message).unwrap_err();
    }

    #[test]
    fn the_state_decides_whatever_the_auth_events_say() {
        let mut room = Room::new(RoomVersionId::V11);
        let message = room.make("alice", "m.room.message", None, &text(), &[1]);
        let left = room.make("alice", "m.room.member", Some("@alice:domain"), &json!({ "membership": "leave" }), &[1]);
        let state = |member: &Verified| {
            let events = [room.events[0].pdu().clone(), member.pdu().clone()];
            check_against_state(room.forge.rules, message.pdu(), move |event_type, state_key| {
                let is_it = |pdu: &&Pdu| {
                    pdu.event_type.to_string() == event_type.to_string() && pdu.state_key.as_deref() == Some(state_key)
                };
                events.iter().find(is_it).cloned()
            })
        };
        state(&room.events[1]).unwrap();
        state(&left).unwrap_err();
    }

    #[test]
    fn auth_types_are_those_of_event_and_version() {
        let rules = |version: RoomVersionId| crate::event::rules::rules(&version).unwrap();
        let types = |version, content| {
            let content = serde_json::value::to_raw_value(&content).unwrap();
            let alice = <&UserId>::try_from("@a:b").unwrap();
            auth_types(&TimelineEventType::RoomMember, alice, Some("@c:d"), &content, rules(version))
        };
        let key = |event_type: &str, state_key: &str| (StateEventType::from(event_type), state_key.to_owned());
        let mut expected = vec![
            key("m.room.power_levels", ""),
            key("m.room.member", "@a:b"),
            key("m.room.create", ""),
            key("m.room.member", "@c:d"),
            key("m.room.join_rules", ""),
        ];
        let invite = json!({ "membership": "invite" });
        assert_eq!(types(RoomVersionId::V11, invite.clone()).unwrap(), expected);
        expected.remove(2);
        assert_eq!(types(RoomVersionId::V12, invite).unwrap(), expected);
        types(RoomVersionId::V11, json!({ "membership": 1 })).unwrap_err();
    }

    #[test]
    fn a_failed_look_up_is_an_error_and_not_a_verdict() {
        let fallible = Fallible::default();
        assert_eq!(fallible.keep(Ok::<_, &str>(Some(1))), Some(1));
        assert_eq!(fallible.keep(Ok::<Option<u8>, _>(None)), None);
        assert_eq!(Fallible::<&str>::default().check("allowed"), Ok("allowed"));
        assert_eq!(fallible.keep(Err::<Option<u8>, _>("disk")), None);
        assert_eq!(fallible.keep(Err::<Option<u8>, _>("later")), None);
        assert_eq!(fallible.check("refused"), Err("disk"));
    }
}
