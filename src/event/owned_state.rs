//! Rooms with owned state: a state key that begins with a user's id is his, whatever follows the id, and who has more
//! power than he may change it, too.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/3757>

use ruma::{
    ID_MAX_BYTES, Int, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{AuthorizationRules, RoomVersionRules},
    state_res::{
        Event, check_state_dependent_auth_rules,
        events::{RoomCreateEvent, RoomPowerLevelsEvent},
    },
};
use serde_json::value::RawValue;

use super::{FormatError, Pdu, Refusal, rules::has_owned_state};

/// The longest state key: a user id, an underscore, and what could be a state key elsewhere. In bytes.
pub(super) const MAX_STATE_KEY: usize = 511;
/// What follows the user id of a state key, with the underscore.
const MAX_SUFFIX: usize = 256;

/// What a creator of a room has while it has no power levels.
const CREATOR_LEVEL: i32 = 100;

/// Whether it matters whose the state key of such an event is. The rules say all that there is to say of others before
/// they come to that.
pub(super) fn owner_counts(rules: &RoomVersionRules, event_type: &TimelineEventType) -> bool {
    let has_rules_of_its_own = matches!(
        event_type,
        TimelineEventType::RoomCreate | TimelineEventType::RoomMember | TimelineEventType::RoomThirdPartyInvite
    );
    has_owned_state(rules) && !has_rules_of_its_own
}

/// Whose a state key is; `None` for one that is nobody's.
pub(super) fn owner(state_key: &str) -> Result<Option<&UserId>, FormatError> {
    if !state_key.starts_with('@') {
        return check_size(state_key, ID_MAX_BYTES).map(|()| None);
    }
    // An underscore may be part of a user's name, but of no server's.
    let server_name = state_key.find(':').unwrap_or(state_key.len());
    let end = state_key[server_name..].find('_').map_or(state_key.len(), |at| server_name + at);
    let owner = <&UserId>::try_from(&state_key[..end])
        .map_err(|_| FormatError::bad("a state key that begins with @ must begin with a user id"))?;
    check_size(owner.as_str(), ID_MAX_BYTES)?;
    check_size(&state_key[end..], MAX_SUFFIX).map(|()| Some(owner))
}

fn check_size(part: &str, max: usize) -> Result<(), FormatError> {
    if part.len() > max {
        return Err(FormatError::TooLarge(format!("a part of the state key is longer than {max} bytes")));
    }
    Ok(())
}

/// The authorization rules for a state event for which [`owner_counts`].
pub(super) fn check<E: Event>(
    rules: &AuthorizationRules,
    event: &Pdu,
    state_key: &str,
    fetch_state: impl Fn(&StateEventType, &str) -> Option<E>,
) -> Result<(), Refusal> {
    check_state_dependent_auth_rules(rules, AsOwn(event), &fetch_state).map_err(Refusal)?;
    let Some(owner) = owner(state_key).map_err(|error| Refusal(error.to_string()))? else { return Ok(()) };
    if owner == event.sender {
        return Ok(());
    }
    let create = fetch_state(&StateEventType::RoomCreate, "").ok_or_else(|| Refusal("no create event".to_owned()))?;
    let creators = RoomCreateEvent::new(create).creators(rules).map_err(Refusal)?;
    let levels = fetch_state(&StateEventType::RoomPowerLevels, "").map(RoomPowerLevelsEvent::new);
    let level = |user: &UserId| match &levels {
        Some(levels) => levels.user_power_level(user, rules).map_err(Refusal),
        None => Ok(Int::from(if creators.contains(user) { CREATOR_LEVEL } else { 0 })),
    };
    if level(&event.sender)? > level(owner)? {
        return Ok(());
    }
    Err(Refusal("this state is another user's, who has as much power".to_owned()))
}

/// An event as the other rules may see it, which know nothing of owners: as if its sender owned it.
struct AsOwn<'e>(&'e Pdu);

impl Event for AsOwn<'_> {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        Event::event_id(self.0)
    }

    fn room_id(&self) -> Option<&RoomId> {
        Event::room_id(self.0)
    }

    fn sender(&self) -> &UserId {
        Event::sender(self.0)
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        Event::origin_server_ts(self.0)
    }

    fn event_type(&self) -> &TimelineEventType {
        Event::event_type(self.0)
    }

    fn content(&self) -> &RawValue {
        Event::content(self.0)
    }

    fn state_key(&self) -> Option<&str> {
        let state_key = Event::state_key(self.0)?;
        Some(if state_key.starts_with('@') { self.0.sender.as_str() } else { state_key })
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Event::prev_events(self.0)
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Event::auth_events(self.0)
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        Event::redacts(self.0)
    }

    fn rejected(&self) -> bool {
        Event::rejected(self.0)
    }
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::json;

    use super::*;
    use crate::event::{
        Verified, authorize,
        rules::known,
        testing::{Forge, draft, user},
    };

    #[test]
    fn a_key_is_whose_id_it_begins_with() {
        let id = |key| owner(key).map(|owner| owner.map(|owner| owner.as_str().to_owned()));
        for (key, expected) in [
            ("", None),
            ("x@a:b", None),
            ("@a:b", Some("@a:b")),
            ("@a:b_", Some("@a:b")),
            ("@a_c:b_d_e:_@", Some("@a_c:b")),
            ("@a:b:8448_x", Some("@a:b:8448")),
            ("@a:b.evil.example_x", Some("@a:b.evil.example")),
        ] {
            assert_eq!(id(key).unwrap().as_deref(), expected, "{key}");
        }
        for wrong in ["@", "@oops", "@a_b", "@a:", "@a:_b", "@a:b@c_d", "@a:b c_d"] {
            assert!(matches!(id(wrong), Err(FormatError::BadJson(_))), "{wrong}");
        }
    }

    #[test]
    fn a_key_may_be_as_long_with_an_owner_as_without() {
        let owned = |length: usize| format!("@a:b_{}", "x".repeat(length));
        owner(&owned(255)).unwrap();
        assert!(matches!(owner(&owned(256)), Err(FormatError::TooLarge(_))));
        owner(&"x".repeat(255)).unwrap();
        assert!(matches!(owner(&"x".repeat(256)), Err(FormatError::TooLarge(_))));
        assert!(matches!(owner(&format!("@{}:b_x", "a".repeat(253))), Err(FormatError::TooLarge(_))));
        assert_eq!(MAX_STATE_KEY, 255 + 1 + 255);
    }

    /// Alice made the room, and may do more than bob, who may do more than carol.
    struct Room {
        forge: Forge,
        state: Vec<Verified>,
    }

    impl Room {
        fn new(version: RoomVersionId, has_levels: bool) -> Self {
            let mut forge = Forge::new(version);
            let create = forge.create("alice");
            let mut state = vec![create];
            for name in ["alice", "bob", "carol"] {
                let before = state.last().unwrap().clone();
                state.push(forge.member(name, name, "join", &[&before], &[&state[0].clone()]));
            }
            if has_levels {
                let users = json!({ user("alice"): 100, user("bob"): 50 });
                let levels = draft("m.room.power_levels", Some(""), &json!({ "users": users, "state_default": 0 }));
                let before = state.last().unwrap().clone();
                state.push(forge.event("alice", levels, &[&before], &[&state[0].clone(), &state[1].clone()]));
            }
            Self { forge, state }
        }

        fn allows(&mut self, sender: &str, event_type: &str, state_key: &str) -> bool {
            let before = self.state.last().unwrap().clone();
            let event = self.forge.event(sender, draft(event_type, Some(state_key), &json!({})), &[&before], &[]);
            let state = |event_type: &StateEventType, state_key: &str| {
                let mut pdus = self.state.iter().map(Verified::pdu);
                let found = pdus.find(|pdu| {
                    pdu.event_type.to_string() == event_type.to_string() && pdu.state_key.as_deref() == Some(state_key)
                });
                found.cloned()
            };
            authorize::check_against_state(self.forge.rules, event.pdu(), state).is_ok()
        }
    }

    #[test]
    fn state_is_changed_by_its_owner_and_by_who_has_more_power() {
        for version in known().into_iter().filter(|version| version.as_str().contains("msc3757")) {
            let mut room = Room::new(version, true);
            for owner in ["@bob:domain", "@bob:domain_phone"] {
                for (sender, is_allowed) in [("alice", true), ("bob", true), ("carol", false)] {
                    assert_eq!(room.allows(sender, "x", owner), is_allowed, "{sender} {owner}");
                }
            }
            assert!(!room.allows("bob", "x", "@alice:domain_phone"));
            assert!(room.allows("alice", "x", "@nobody:elsewhere_x") && room.allows("bob", "x", "@nobody:elsewhere_x"));
            assert!(!room.allows("carol", "x", "@nobody:elsewhere_x"), "who has no more than others do");
            assert!(room.allows("carol", "x", "no owner"));
            assert!(!room.allows("carol", "x", "@carol:domain.evil_x"));
        }
    }

    #[test]
    fn without_power_levels_a_creator_has_more_power_than_others() {
        let mut room = Room::new(RoomVersionId::try_from("org.matrix.msc3757.11").unwrap(), false);
        assert!(room.allows("alice", "x", "@bob:domain_x"));
        assert!(!room.allows("bob", "x", "@bob:domain_x"), "who may send no state");
    }

    #[test]
    fn other_rules_and_other_versions_stay_as_they_are() {
        let mut room = Room::new(RoomVersionId::try_from("org.matrix.msc3757.10").unwrap(), true);
        assert!(!room.allows("alice", "m.room.member", "@bob:domain_phone"), "the key of a member is his id");
        let mut ordinary = Room::new(RoomVersionId::V10, true);
        assert!(ordinary.allows("bob", "x", "@bob:domain"));
        assert!(!ordinary.allows("bob", "x", "@bob:domain_phone") && !ordinary.allows("alice", "x", "@bob:domain"));
    }

    #[test]
    fn a_malformed_owner_is_an_event_that_nobody_can_make() {
        let mut forge = Forge::new(RoomVersionId::try_from("org.matrix.msc3757.10").unwrap());
        let create = forge.create("alice");
        let mut build = |key: &str| forge.try_event("alice", draft("x", Some(key), &json!({})), &[&create], &[]);
        assert!(matches!(build("@oops"), Err(FormatError::BadJson(_))));
        assert!(matches!(build(&"x".repeat(256)), Err(FormatError::TooLarge(_))));
        let long = format!("@{}:domain_{}", "a".repeat(247), "x".repeat(255));
        assert_eq!(long.len(), MAX_STATE_KEY);
        assert_eq!(build(&long).unwrap().pdu().state_key.as_deref(), Some(long.as_str()));
        let mut ordinary = Forge::new(RoomVersionId::V10);
        let create = ordinary.create("alice");
        ordinary.try_event("alice", draft("x", Some("@oops"), &json!({})), &[&create], &[]).unwrap();
    }
}
