//! What one user may see of one room: its history visibility, applied to each event as the room was then.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility>

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
};

use ruma::{
    UserId,
    events::{
        StateEventType,
        room::history_visibility::{HistoryVisibility, RoomHistoryVisibilityEventContent},
    },
};

use super::{
    Membership, View, ends, redaction,
    state::trie::Tries,
    tables::{UserRoom, UserRooms},
    view::membership_in,
};
use crate::{
    error::{Error, Result},
    event::{StateRoot, StoredEvent, stored::DecodeError},
    store::{self, EventNid, RoomPos, StateKeyNid, StreamPos},
};

/// How many member events are looked at to find out when somebody left: he may have been invited and banned many times
/// since.
const MAX_MEMBER_EVENTS: usize = 64;

/// How a user stands to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Joined,
    /// Was joined once: sees the room as it was when he left.
    Left(Departure),
    /// Never was joined, asked to forget the room, or left it nobody knows when.
    Stranger,
}

/// When a user left a room, and what the room was like then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    pub pos: RoomPos,
    pub state: StateRoot,
}

/// One of our users who looks at a room. What it reads of states it keeps, since those of a page of events are much the same.
pub struct Sight<'v, 's> {
    pub view: &'v View<'s>,
    pub user_id: &'v UserId,
    pub standing: Standing,
    /// The user's current member event.
    member_event: Option<EventNid>,
    member_key: OnceCell<Option<StateKeyNid>>,
    visibility_key: Option<StateKeyNid>,
    tries: Tries<'s>,
    /// What the events of `member_key` and `visibility_key` say.
    known_memberships: RefCell<HashMap<EventNid, Option<Membership>>>,
    known_visibilities: RefCell<HashMap<EventNid, HistoryVisibility>>,
}

/// What decides who may see the events of one state.
#[derive(Clone, Debug)]
struct AtState {
    /// Of the user.
    membership: Option<Membership>,
    visibility: HistoryVisibility,
}

impl<'v, 's> Sight<'v, 's> {
    pub fn of(view: &'v View<'s>, user_id: &'v UserId) -> Result<Self> {
        Self::by(view, user_id, view.snapshot.get::<UserRooms>(&(user_id, view.nid))?)
    }

    /// As [`Self::of`], where it is known what the room is to the user.
    pub fn by(view: &'v View<'s>, user_id: &'v UserId, row: Option<UserRoom>) -> Result<Self> {
        let row = row.filter(|row| !row.is_forgotten);
        Ok(Self {
            view,
            user_id,
            standing: row.as_ref().map_or(Ok(Standing::Stranger), |row| standing(view, row))?,
            member_event: row.map(|row| row.event),
            member_key: OnceCell::new(),
            visibility_key: view.state_key_nid("m.room.history_visibility", "")?,
            tries: view.tries(),
            known_memberships: RefCell::default(),
            known_visibilities: RefCell::default(),
        })
    }

    /// The state that the user may read as that of the room: the current one, or that of when he left. `M_FORBIDDEN`
    /// if there is none.
    pub fn readable_state(&self) -> Result<StateRoot> {
        match self.standing {
            Standing::Joined => Ok(self.view.current_state()),
            Standing::Left(departure) => Ok(departure.state),
            Standing::Stranger if self.is_world_readable_now()? => Ok(self.view.current_state()),
            Standing::Stranger => Err(not_in_room()),
        }
    }

    /// The state that the user may read as that of the room at an event that he sees. `None` if there is none: his own
    /// member event he sees without the room around it, too.
    pub fn readable_state_at(&self, event: &StoredEvent) -> Result<Option<StateRoot>> {
        Ok(match self.standing {
            Standing::Joined => event.state_after,
            _ if self.history_shows(event)? => event.state_after,
            Standing::Left(departure) => Some(departure.state),
            Standing::Stranger => None,
        })
    }

    /// The last place of the timeline that may hold anything that the user may see.
    pub fn horizon(&self) -> Result<RoomPos> {
        match self.standing {
            Standing::Left(departure) if !self.is_world_readable_now()? => Ok(departure.pos),
            Standing::Joined | Standing::Left(_) | Standing::Stranger => Ok(RoomPos::MAX),
        }
    }

    /// Whether the user may see an event of the room. Rejected and soft-failed events are nobody's to see, nor are those
    /// whose place in the room is not known, nor expired ones.
    pub fn may_see(&self, nid: EventNid, event: &StoredEvent) -> Result<bool> {
        Ok(!self.view.has_expired(event)? && self.could_see(nid, event)?)
    }

    /// As [`Self::may_see`], for who has to do with the event's place rather than with what it says: it may have expired.
    pub fn could_see(&self, nid: EventNid, event: &StoredEvent) -> Result<bool> {
        if event.flags.rejected || event.flags.soft_failed {
            return Ok(false);
        }
        // His own redaction he is shown, as the answer to his client.
        let is_own_redaction = event.event_type == "m.room.redaction" && event.sender == self.user_id;
        if !is_own_redaction && !is_for_clients(self.view, nid, event)? {
            return Ok(false);
        }
        // NOTSPEC: what the user is to the room he may always know. An invite was shown to him without the room's
        // state, and whoever declines it, or has it withdrawn, must learn that it is over.
        Ok(self.member_event == Some(nid) || self.history_shows(event)?)
    }

    /// Whether the room's history at an event is the user's to see, be the event itself shown to clients or not.
    pub(super) fn history_shows(&self, event: &StoredEvent) -> Result<bool> {
        let Some(state) = event.state_after else { return Ok(false) };
        let after = self.at(state)?;
        let pos = RoomPos(event.room_pos);
        if self.allows(&after, pos) {
            return Ok(true);
        }
        Ok(self.before(event, after)?.is_some_and(|before| self.allows(&before, pos)))
    }

    /// Whether the user may see an event that other servers gave us without its place in the room: if history is for all
    /// members, as he is one, and has been since before the event.
    pub fn may_see_unplaced(&self, event: &StoredEvent) -> Result<bool> {
        let is_sound = event.flags.outlier && !event.flags.rejected;
        Ok(is_sound
            && self.standing == Standing::Joined
            && !self.view.has_expired(event)?
            && is_shared_since(self.view, event.depth)?)
    }

    /// Whether the user may see the events of a state whatever he was to the room then.
    pub fn sees_all_of(&self, state: StateRoot) -> Result<bool> {
        Ok(match self.visibility_in(state)? {
            HistoryVisibility::WorldReadable => true,
            HistoryVisibility::Invited | HistoryVisibility::Joined => false,
            _ => self.standing == Standing::Joined,
        })
    }

    /// The user's membership at an event, with what the event itself changed; `None` if the state there is not known.
    pub fn membership_at(&self, event: &StoredEvent) -> Result<Option<Membership>> {
        let at = event.state_after.map(|state| self.membership_in(state)).transpose()?;
        Ok(at.map(|membership| membership.unwrap_or(Membership::Leave)))
    }

    /// Whether anybody at all may read what is said in the room now.
    fn is_world_readable_now(&self) -> Result<bool> {
        Ok(self.visibility_in(self.view.current_state())? == HistoryVisibility::WorldReadable)
    }

    fn allows(&self, at: &AtState, pos: RoomPos) -> bool {
        let was_received_in_time = match self.standing {
            Standing::Joined => true,
            Standing::Left(departure) => pos <= departure.pos,
            Standing::Stranger => false,
        };
        match at.visibility {
            HistoryVisibility::WorldReadable => true,
            HistoryVisibility::Invited => {
                was_received_in_time && matches!(at.membership, Some(Membership::Join | Membership::Invite))
            }
            HistoryVisibility::Joined => was_received_in_time && at.membership == Some(Membership::Join),
            _ => was_received_in_time, // `shared`: who was joined then sees it, and who joined later
        }
    }

    fn at(&self, state: StateRoot) -> store::Result<AtState> {
        Ok(AtState { membership: self.membership_in(state)?, visibility: self.visibility_in(state)? })
    }

    fn membership_in(&self, state: StateRoot) -> store::Result<Option<Membership>> {
        if self.standing == Standing::Joined && state == self.view.current_state() {
            return Ok(Some(Membership::Join));
        }
        self.membership_by(self.event_of(self.member_key()?, state)?)
    }

    fn visibility_in(&self, state: StateRoot) -> store::Result<HistoryVisibility> {
        self.visibility_by(self.event_of(self.visibility_key, state)?)
    }

    fn member_key(&self) -> store::Result<Option<StateKeyNid>> {
        match self.member_key.get() {
            Some(known) => Ok(*known),
            None => {
                let key = self.view.state_key_nid("m.room.member", self.user_id.as_str())?;
                Ok(*self.member_key.get_or_init(|| key))
            }
        }
    }

    fn event_of(&self, key: Option<StateKeyNid>, state: StateRoot) -> store::Result<Option<EventNid>> {
        key.map_or(Ok(None), |key| self.tries.get(state, key))
    }

    /// What decided before a history-visibility event, or before a member event of the user himself; `None` for other
    /// events, before which nothing else decided than after them.
    fn before(&self, event: &StoredEvent, after: AtState) -> store::Result<Option<AtState>> {
        let replaced = event.replaces.map(EventNid);
        match (event.event_type.as_str(), event.state_key.as_deref()) {
            ("m.room.history_visibility", Some("")) => {
                Ok(Some(AtState { visibility: self.visibility_by(replaced)?, ..after }))
            }
            ("m.room.member", Some(user)) if user == self.user_id => {
                Ok(Some(AtState { membership: self.membership_by(replaced)?, ..after }))
            }
            _ => Ok(None),
        }
    }

    fn membership_by(&self, event: Option<EventNid>) -> store::Result<Option<Membership>> {
        let Some(event) = event else { return Ok(None) };
        if let Some(known) = self.known_memberships.borrow().get(&event) {
            return Ok(*known);
        }
        let membership = membership_in(self.view.pdu(event)?.content.get());
        self.known_memberships.borrow_mut().insert(event, membership);
        Ok(membership)
    }

    fn visibility_by(&self, event: Option<EventNid>) -> store::Result<HistoryVisibility> {
        let Some(event) = event else { return Ok(HistoryVisibility::Shared) };
        if let Some(known) = self.known_visibilities.borrow().get(&event) {
            return Ok(known.clone());
        }
        let visibility = visibility_in(self.view.pdu(event)?.content.get());
        self.known_visibilities.borrow_mut().insert(event, visibility.clone());
        Ok(visibility)
    }
}

/// Why somebody who is not in a room, and was not, is told nothing about it; the same for rooms that do not exist.
pub fn not_in_room() -> Error {
    Error::forbidden("You are not in this room, and were not before")
}

/// Whether clients are told of an event, be it by a notification or a number: not if it only makes ends of the graph one,
/// or is a redaction that takes nothing away.
pub fn is_for_clients(view: &View<'_>, nid: EventNid, event: &StoredEvent) -> Result<bool> {
    match event.event_type.as_str() {
        ends::DUMMY => Ok(false),
        "m.room.redaction" => redaction::is_in_force(view, nid, event),
        _ => Ok(true),
    }
}

/// Whether the history of the room is for all of its members, and nothing else was said of it since before this depth.
pub fn is_shared_since(view: &View<'_>, depth: u64) -> Result<bool> {
    let rule = view.state_pdu(view.current_state(), &StateEventType::RoomHistoryVisibility, "")?;
    Ok(rule.is_none_or(|rule| {
        let visibility = visibility_in(rule.content.get());
        rule.depth < depth && matches!(visibility, HistoryVisibility::Shared | HistoryVisibility::WorldReadable)
    }))
}

/// Whether whoever is in the room now may see the events of a state, whatever he was to the room then.
pub fn is_for_all_members(view: &View<'_>, state: StateRoot) -> Result<bool> {
    let rule = view.state_pdu(state, &StateEventType::RoomHistoryVisibility, "")?;
    let visibility = rule.map(|rule| visibility_in(rule.content.get()));
    Ok(!matches!(visibility, Some(HistoryVisibility::Invited | HistoryVisibility::Joined)))
}

/// `shared` if the content says nothing that the specification knows.
pub(super) fn visibility_in(content: &str) -> HistoryVisibility {
    let content = serde_json::from_str::<RoomHistoryVisibilityEventContent>(content);
    match content.map(|content| content.history_visibility) {
        Ok(known @ (HistoryVisibility::WorldReadable | HistoryVisibility::Invited | HistoryVisibility::Joined)) => {
            known
        }
        _ => HistoryVisibility::Shared,
    }
}

fn standing(view: &View<'_>, row: &UserRoom) -> Result<Standing> {
    if row.membership == Membership::Join {
        return Ok(Standing::Joined);
    }
    let departure = if row.joined_at.is_some() { departure(view, row)? } else { None };
    Ok(departure.map_or(Standing::Stranger, Standing::Left))
}

/// When a user left who was joined before: at the first of his member events since he was. `None` if that is not found,
/// or the room's state of then is not known: what came later, which may be knocks of his own, must not stand in for it.
fn departure(view: &View<'_>, row: &UserRoom) -> Result<Option<Departure>> {
    let mut event = view.event(row.event)?;
    let mut membership = membership_of(&event)?;
    if membership == Some(Membership::Join) {
        // State resolution took his membership away, so no event tells of it.
        return Ok(event.state_after.map(|state| Departure { pos: row.since.into(), state }));
    }
    for _ in 0..MAX_MEMBER_EVENTS {
        let before = event.replaces.map(|replaced| view.event(EventNid(replaced))).transpose()?;
        let membership_before = before.as_ref().map(membership_of).transpose()?.flatten();
        match before {
            Some(before) if membership_before != Some(Membership::Join) => {
                (event, membership) = (before, membership_before);
            }
            // Who removed him need not have known that he had joined.
            _ if matches!(membership, Some(Membership::Leave | Membership::Ban)) => {
                return Ok(event.state_after.map(|state| Departure { pos: RoomPos(event.room_pos), state }));
            }
            _ => break,
        }
    }
    Ok(None)
}

/// What a member event makes of its user.
pub fn membership_of(event: &StoredEvent) -> Result<Option<Membership>> {
    Ok(membership_in(event.view().content().map_err(unreadable)?.get()))
}

/// Whether a member event makes somebody join who was not joined before it.
pub fn comes_in(view: &View<'_>, event: &StoredEvent) -> Result<bool> {
    let before = event.replaces.map(|before| view.event(EventNid(before))).transpose()?;
    let before = before.as_ref().map(membership_of).transpose()?.flatten();
    Ok(before != Some(Membership::Join) && membership_of(event)? == Some(Membership::Join))
}

/// Whether none of our other users was joined when `user` came in at `pos`, as far as those say who are joined now: this server
/// came into the room with him.
pub fn is_first(view: &View<'_>, user: &UserId, pos: StreamPos) -> Result<bool> {
    for member in view.each_local_member() {
        let member = member?;
        let row = view.snapshot.get::<UserRooms>(&(&*member, view.nid))?;
        let was_there = row.and_then(|row| row.joined_at).is_some_and(|joined_at| joined_at < pos);
        if was_there && *member != *user {
            return Ok(false);
        }
    }
    Ok(true)
}

pub fn unreadable(error: DecodeError) -> Error {
    Error::internal(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ruma::OwnedEventId;
    use serde_json::json;

    use super::*;
    use crate::{
        event::Flags,
        room::{history, testing::TestRoom},
    };

    /// A room of one visibility in which something is said at every stage of bob's time with it.
    struct Story {
        room: TestRoom,
        said: BTreeMap<&'static str, OwnedEventId>,
    }

    impl Story {
        fn new(visibility: &str) -> Self {
            let room = TestRoom::new();
            room.visibility(visibility);
            Self { room, said: BTreeMap::new() }
        }

        fn say(&mut self, when: &'static str) {
            self.said.insert(when, self.room.message("alice", when));
        }

        fn member(&mut self, by: &str, membership: &str, what: &'static str) {
            self.said.insert(what, self.room.member(by, "bob", membership));
        }

        /// What of all this `reader` sees.
        fn seen_by(&self, reader: &str) -> Vec<&'static str> {
            self.room.read(reader, |reader, _| {
                let is_seen = |id: &OwnedEventId| history::visible(reader, id).unwrap().is_some();
                self.said.iter().filter(|(_, id)| is_seen(id)).map(|(what, _)| *what).collect()
            })
        }
    }

    /// Stages are numbered so that they sort as they happened.
    fn whole_story(visibility: &str) -> Story {
        let mut story = Story::new(visibility);
        story.say("0 before");
        story.member("alice", "invite", "1 is invited");
        story.say("2 invited");
        story.member("bob", "join", "3 joins");
        story.say("4 joined");
        story.member("bob", "leave", "5 leaves");
        story.say("6 left");
        story
    }

    #[test]
    fn each_visibility_shows_each_stage_to_whom_it_should() {
        let joined = ["3 joins", "4 joined", "5 leaves"];
        let invited = ["1 is invited", "2 invited", "3 joins", "4 joined", "5 leaves"];
        let shared = ["0 before", "1 is invited", "2 invited", "3 joins", "4 joined", "5 leaves"];
        let everything = ["0 before", "1 is invited", "2 invited", "3 joins", "4 joined", "5 leaves", "6 left"];
        let cases: [(&str, &[&str], &[&str]); 5] = [
            ("joined", &joined, &[]),
            ("invited", &invited, &[]),
            ("shared", &shared, &[]),
            ("world_readable", &everything, &everything),
            ("something new", &shared, &[]),
        ];
        for (visibility, by_bob, by_stranger) in cases {
            let story = whole_story(visibility);
            assert_eq!(story.seen_by("bob"), by_bob, "{visibility}");
            assert_eq!(story.seen_by("stranger"), by_stranger, "{visibility}");
            assert_eq!(story.seen_by("alice"), everything, "{visibility}");
        }
    }

    #[test]
    fn who_comes_back_sees_what_was_said_meanwhile_only_where_history_is_shared() {
        for (visibility, is_seen) in [("joined", false), ("invited", false), ("shared", true), ("world_readable", true)]
        {
            let mut story = whole_story(visibility);
            story.member("bob", "join", "7 returns");
            story.say("8 back");
            let seen = story.seen_by("bob");
            assert_eq!(seen.contains(&"6 left"), is_seen, "{visibility}");
            assert!(seen.ends_with(&["7 returns", "8 back"]) && seen.contains(&"4 joined"), "{visibility}");
        }
    }

    #[test]
    fn an_invitation_alone_opens_nothing_but_itself() {
        for visibility in ["joined", "invited", "shared"] {
            let mut story = Story::new(visibility);
            story.say("0 before");
            story.member("alice", "invite", "1 is invited");
            story.say("2 invited");
            assert_eq!(story.seen_by("bob"), ["1 is invited"], "{visibility}");
            story.member("bob", "leave", "3 declines");
            assert_eq!(story.seen_by("bob"), ["3 declines"], "{visibility}");
        }
    }

    #[test]
    fn who_is_banned_or_invited_anew_after_he_left_sees_up_to_his_leave() {
        for membership in ["ban", "invite"] {
            let mut story = whole_story("shared");
            story.member("alice", membership, "7 later");
            let seen = story.seen_by("bob");
            assert!(seen.contains(&"5 leaves") && !seen.contains(&"6 left"), "{membership}: {seen:?}");
            let departure = story.room.read("bob", |reader, _| reader.sight.standing);
            let left = story.room.read("bob", |reader, _| history::visible(reader, &story.said["5 leaves"]).unwrap());
            let (_, left) = left.unwrap();
            let expected = Departure { pos: RoomPos(left.room_pos), state: left.state_after.unwrap() };
            assert_eq!(departure, Standing::Left(expected));
        }
    }

    #[test]
    fn who_knocks_again_and_again_after_he_left_sees_nothing_that_was_said_since() {
        let mut story = whole_story("shared");
        story.room.state("alice", "m.room.join_rules", "", &json!({ "join_rule": "knock" }));
        story.member("bob", "knock", "7 knocks");
        let before = ["0 before", "1 is invited", "2 invited", "3 joins", "4 joined", "5 leaves"];
        assert_eq!(story.seen_by("bob"), [&before[..], &["7 knocks"]].concat());
        for _ in 0..MAX_MEMBER_EVENTS {
            story.member("bob", "knock", "7 knocks");
        }
        assert_eq!(story.seen_by("bob"), ["7 knocks"], "nobody knows any more when he left");
        assert_eq!(story.room.read("bob", |reader, _| reader.sight.standing), Standing::Stranger);
    }

    #[test]
    fn who_is_kicked_sees_the_kick_and_nothing_after_it() {
        let mut story = Story::new("joined");
        story.member("bob", "join", "0 joins");
        story.member("alice", "leave", "1 is kicked");
        story.say("2 gone");
        story.member("alice", "ban", "3 is banned");
        story.say("4 banned");
        assert_eq!(story.seen_by("bob"), ["0 joins", "1 is kicked", "3 is banned"]);
    }

    #[test]
    fn who_forgets_a_room_is_a_stranger_to_it() {
        let story = whole_story("shared");
        story.room.forget("bob");
        assert_eq!(story.seen_by("bob"), Vec::<&str>::new());
        let refused = story.room.read("bob", |reader, _| reader.sight.readable_state().unwrap_err());
        assert!(matches!(refused, Error::Refused { .. }));
    }

    #[test]
    fn changes_of_the_visibility_count_from_where_they_are_made() {
        let mut story = Story::new("world_readable");
        story.say("0 open");
        story.said.insert("1 closes", story.room.visibility("joined"));
        story.say("2 closed");
        story.said.insert("3 opens", story.room.visibility("world_readable"));
        story.say("4 open");
        assert_eq!(story.seen_by("stranger"), ["0 open", "1 closes", "3 opens", "4 open"]);
        story.said.insert("5 closes", story.room.visibility("shared"));
        story.say("6 closed");
        assert_eq!(story.seen_by("stranger"), ["0 open", "1 closes", "3 opens", "4 open", "5 closes"]);
    }

    #[test]
    fn events_that_were_not_accepted_are_nobodys_to_see() {
        let room = TestRoom::new();
        let message = room.message("alice", "hi");
        let (nid, mut event) = room.read("alice", |reader, _| history::visible(reader, &message).unwrap().unwrap());
        let is_seen = |event: &StoredEvent| room.read("alice", |reader, _| reader.sight.may_see(nid, event).unwrap());
        assert!(is_seen(&event));
        for flags in [Flags { soft_failed: true, ..event.flags }, Flags { rejected: true, ..event.flags }] {
            assert!(!is_seen(&StoredEvent { flags, ..event.clone() }), "{flags:?}");
        }
        event.state_after = None;
        assert!(!is_seen(&event), "nobody knows the state of an outlier");
    }

    #[test]
    fn a_room_that_says_nothing_shares_its_history_with_members() {
        let room = TestRoom::new();
        let before = room.message("alice", "before");
        room.member("bob", "bob", "join");
        let is_seen = |by: &str| room.read(by, |reader, _| history::visible(reader, &before).unwrap().is_some());
        assert!(is_seen("bob") && !is_seen("stranger"));
    }

    #[test]
    fn contents_of_the_wrong_form_count_as_shared() {
        for content in [json!({}), json!({ "history_visibility": 1 }), json!({ "history_visibility": null })] {
            assert_eq!(visibility_in(&content.to_string()), HistoryVisibility::Shared);
        }
    }
}
