//! Rooms of another server that come in through the one door: whole, in parts, and in any order.

use std::sync::Arc;

use ruma::{
    OwnedEventId, RoomVersionId, ServerName, UserId,
    events::{StateEventType, TimelineEventType},
};
use serde_json::json;

use super::{
    View,
    append::{Appended, Incoming, Place, Verdict, take_in},
    gaps, invited,
    known_state::KnownState,
    outliers, remote,
    tables::{Timeline, UserRooms},
};
use crate::{
    Server, check,
    clock::Clock,
    config::Config,
    event::{
        Draft, StoredEvent, Verified,
        rules::SUPPORTED,
        testing::{Forge, draft, user},
    },
    log,
    random::Random,
    store::{RoomNid, RoomPos, StreamPos},
};

/// A server, and a room of another one that it gets to know.
struct Room {
    server: Arc<Server>,
    forge: Forge,
    nid: RoomNid,
    /// Create, alice's join, join rules; then what was made in the room.
    base: Vec<Verified>,
    _directory: tempfile::TempDir,
}

impl Room {
    async fn unknown(version: RoomVersionId) -> Self {
        let mut forge = Forge::new(version.clone());
        let create = forge.create("alice");
        let join = forge.member("alice", "alice", "join", &[&create], &auth_of(&forge, &[&create]));
        let rules = draft("m.room.join_rules", Some(""), &json!({ "join_rule": "public" }));
        let rules = forge.event("alice", rules, &[&join], &auth_of(&forge, &[&create, &join]));
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::for_tests("here");
        directory.path().clone_into(&mut config.database_path);
        let open = || Server::open(config, Clock::manual(0), Random::from_seed(0)).unwrap();
        let server = tokio::task::spawn_blocking(open).await.unwrap();
        let nid = remote::claim(&server, forge.room_id.clone().unwrap(), version).await.unwrap();
        Self { server, forge, nid, base: vec![create, join, rules], _directory: directory }
    }

    /// The server came in by bob's join after `before`.
    async fn entered(
        version: RoomVersionId,
        before: impl FnOnce(&mut Self) -> Vec<Verified>,
    ) -> (Self, Vec<Verified>, Verified) {
        let mut room = Self::unknown(version).await;
        let said = before(&mut room);
        let last = said.last().unwrap_or(&room.base[2]).clone();
        let join = room.member("bob", "join", &last);
        let mut state = room.base.clone();
        state.reverse();
        let ids: Arc<[OwnedEventId]> = state.iter().map(|event| event.pdu().event_id.clone()).collect();
        outliers::store(&room.server, room.nid, state).await.unwrap();
        let entry = Incoming { place: Place::Entry, given: vec![ids], ..Incoming::live(join.clone()) };
        assert_eq!(room.take_in(vec![entry]).await[0].verdict, Verdict::Accepted);
        (room, said, join)
    }

    fn auth(&self, others: &[&Verified]) -> Vec<Verified> {
        let all: Vec<&Verified> = [&self.base[0], &self.base[1]].into_iter().chain(others.iter().copied()).collect();
        auth_of(&self.forge, &all).into_iter().cloned().collect()
    }

    fn say(&mut self, text: &str, prev: &[&Verified]) -> Verified {
        let auth = self.auth(&[]);
        let auth: Vec<&Verified> = auth.iter().collect();
        self.forge.event("alice", draft("m.room.message", None, &json!({ "body": text })), prev, &auth)
    }

    fn redact(&mut self, target: &Verified, prev: &Verified) -> Verified {
        let auth = self.auth(&[]);
        let auth: Vec<&Verified> = auth.iter().collect();
        self.forge.event("alice", Draft::redaction(target.pdu().event_id.clone(), None), &[prev], &auth)
    }

    fn member(&mut self, of: &str, membership: &str, prev: &Verified) -> Verified {
        let auth = auth_of(&self.forge, &[&self.base[0], &self.base[2]]).into_iter().cloned().collect::<Vec<_>>();
        let auth: Vec<&Verified> = auth.iter().collect();
        self.forge.member(of, of, membership, &[prev], &auth)
    }

    async fn take_in(&self, incoming: Vec<Incoming>) -> Vec<Appended> {
        take_in(&self.server, self.nid, incoming).await.unwrap()
    }

    async fn live(&self, event: &Verified) -> Verdict {
        self.take_in(vec![Incoming::live(event.clone())]).await.remove(0).verdict
    }

    fn read<R>(&self, read: impl FnOnce(&View<'_>) -> R) -> R {
        let snapshot = self.server.store.snapshot();
        read(&View::of(&self.server.rooms, &snapshot, self.nid).unwrap())
    }

    fn stored(&self, event: &Verified) -> StoredEvent {
        self.read(|view| view.event_by_id(&event.pdu().event_id).unwrap().unwrap())
    }

    /// The ids of the timeline, with their places.
    fn timeline(&self) -> Vec<(RoomPos, OwnedEventId)> {
        self.read(|view| {
            let rows = view.snapshot.list::<Timeline>(&self.nid);
            rows.map(|row| row.map(|row| (row.key().unwrap().1, view.event_id(row.value).unwrap())).unwrap()).collect()
        })
    }

    fn ends(&self) -> Vec<OwnedEventId> {
        self.read(|view| view.forward_extremities().iter().map(|&end| view.event_id(end).unwrap()).collect())
    }

    fn state_ids(&self) -> Vec<OwnedEventId> {
        self.read(|view| {
            let state = view.state(view.current_state()).unwrap();
            let mut ids: Vec<_> = state.into_iter().map(|(_, event)| view.event_id(event).unwrap()).collect();
            ids.sort();
            ids
        })
    }

    fn check(&self) {
        let here = <&ServerName>::try_from("here").unwrap();
        let report = check::check(&self.server.store, here).unwrap();
        assert!(report.is_clean(), "{:#?}", report.problems);
    }
}

fn auth_of<'e>(forge: &Forge, events: &[&'e Verified]) -> Vec<&'e Verified> {
    let names_create = forge.rules.event_format.allow_room_create_in_auth_events;
    let is_create = |event: &Verified| event.pdu().event_type == TimelineEventType::RoomCreate;
    events.iter().copied().filter(|event| names_create || !is_create(event)).collect()
}

fn ids(events: &[&Verified]) -> Vec<OwnedEventId> {
    events.iter().map(|event| event.pdu().event_id.clone()).collect()
}

fn nothing(_: &mut Room) -> Vec<Verified> {
    Vec::new()
}

/// Five messages, each after the one before.
fn talk(room: &mut Room) -> Vec<Verified> {
    let mut said: Vec<Verified> = Vec::new();
    for number in 0..5 {
        let prev = said.last().unwrap_or(&room.base[2]).clone();
        said.push(room.say(&number.to_string(), &[&prev]));
    }
    said
}

#[tokio::test]
async fn a_room_is_entered_with_the_state_that_another_server_told_in_every_version() {
    for version in SUPPORTED {
        let (room, _, join) = Room::entered(version.clone(), nothing).await;
        let mut expected = ids(&[&room.base[0], &room.base[1], &room.base[2], &join]);
        expected.sort();
        assert_eq!(room.state_ids(), expected, "{version}");
        assert_eq!(room.ends(), ids(&[&join]), "{version}");
        assert!(room.stored(&room.base[0]).flags.outlier, "{version}");
        room.check();
    }
}

#[tokio::test]
async fn what_lacks_its_previous_events_leaves_a_gap_and_what_fills_it_comes_before_and_is_no_news() {
    let (mut room, said, join) = Room::entered(RoomVersionId::V11, talk).await;
    let newer = room.say("new", &[&join]);
    assert_eq!(room.live(&newer).await, Verdict::Accepted);
    let gap = room.read(|view| gaps::below(view, RoomPos::MAX).unwrap().unwrap());
    assert_eq!(gap.last_place(), -1);
    assert_eq!(
        room.read(|view| gaps::missing_before(view, view.event_nid(&join.pdu().event_id).unwrap().unwrap())).unwrap(),
        ids(&[&said[4]])
    );

    let log_before = log::next(&room.server, &room.server.store.snapshot(), StreamPos(0), 100).unwrap();
    let given: Arc<[OwnedEventId]> = ids(&[&room.base[0], &room.base[1], &room.base[2]]).into();
    let past = |event: &Verified, pos, given| Incoming {
        place: Place::Past(RoomPos(pos)),
        given,
        ..Incoming::live(event.clone())
    };
    room.take_in(vec![past(&said[3], -2, vec![given]), past(&said[4], -1, vec![])]).await;
    let timeline: Vec<_> = room.timeline().into_iter().map(|(_, id)| id).collect();
    assert_eq!(timeline, ids(&[&said[3], &said[4], &join, &newer]));
    assert_eq!(room.ends(), ids(&[&newer]));
    let log_after = log::next(&room.server, &room.server.store.snapshot(), StreamPos(0), 100).unwrap();
    assert_eq!(log_before, log_after, "old events are no news");
    let gap = room.read(|view| gaps::below(view, RoomPos(-2)).unwrap().unwrap());
    assert_eq!((gap.pos, gap.last_place()), (RoomPos(-2), -3));
    assert!(room.take_in(vec![past(&said[3], -9, vec![])]).await.is_empty(), "it is known by now");
    room.check();
}

#[tokio::test]
async fn an_outlier_gets_its_place_when_it_comes_with_its_previous_events() {
    let (mut room, _, join) = Room::entered(RoomVersionId::V11, nothing).await;
    let auth = room.auth(&[]);
    let auth: Vec<&Verified> = auth.iter().collect();
    let topic = room.forge.event("alice", draft("m.room.topic", Some(""), &json!({ "topic": "x" })), &[&join], &auth);
    outliers::store(&room.server, room.nid, vec![topic.clone()]).await.unwrap();
    let number = |room: &Room| room.read(|view| view.event_nid(&topic.pdu().event_id).unwrap());
    let before = number(&room);
    assert!(room.stored(&topic).state_after.is_none() && !room.state_ids().contains(&topic.pdu().event_id));
    room.check();
    assert_eq!(room.live(&topic).await, Verdict::Accepted);
    assert_eq!(number(&room), before);
    assert!(room.state_ids().contains(&topic.pdu().event_id));
    assert_eq!(room.timeline().last().unwrap().1, topic.pdu().event_id);
    room.check();
}

#[tokio::test]
async fn what_was_rejected_as_an_outlier_stays_so_and_is_in_no_state() {
    let (mut room, _, join) = Room::entered(RoomVersionId::V11, nothing).await;
    let auth = room.auth(&[]);
    let auth: Vec<&Verified> = auth.iter().collect();
    let mallory = draft("m.room.topic", Some(""), &json!({ "topic": "mine" }));
    let mallory = room.forge.event("mallory", mallory, &[&join], &auth);
    outliers::store(&room.server, room.nid, vec![mallory.clone()]).await.unwrap();
    assert!(room.stored(&mallory).flags.rejected);
    let next = room.say("next", &[&mallory]);
    let given: Arc<[OwnedEventId]> = ids(&[&room.base[0], &room.base[1], &room.base[2], &mallory]).into();
    room.take_in(vec![Incoming { given: vec![given], ..Incoming::live(next.clone()) }]).await;
    assert!(!room.state_ids().contains(&mallory.pdu().event_id));
    assert!(matches!(room.live(&mallory).await, Verdict::Rejected(_)));
    assert!(!room.state_ids().contains(&mallory.pdu().event_id));
    room.check();
}

#[tokio::test]
async fn what_names_auth_events_that_nobody_has_is_not_kept() {
    let (mut room, _, join) = Room::entered(RoomVersionId::V11, nothing).await;
    let unknown = room.member("carol", "join", &join);
    let create = room.base[0].clone();
    let topic = draft("m.room.topic", Some(""), &json!({ "topic": "x" }));
    let topic = room.forge.event("carol", topic, &[&join], &[&create, &unknown]);
    outliers::store(&room.server, room.nid, vec![topic.clone()]).await.unwrap();
    assert!(room.read(|view| view.event_nid(&topic.pdu().event_id).unwrap()).is_none());
    outliers::store(&room.server, room.nid, vec![topic.clone(), unknown]).await.unwrap();
    assert!(!room.stored(&topic).flags.outlier || room.stored(&topic).flags.rejected, "carol has no power for that");
    room.check();
}

#[tokio::test]
async fn what_names_an_auth_event_of_another_room_is_rejected_and_what_follows_is_not_lost() {
    let (mut room, _, join) = Room::entered(RoomVersionId::V11, nothing).await;
    let mut other = Forge::new(RoomVersionId::V11);
    other.room_id = Some("!other:domain".try_into().unwrap());
    let create = other.create("alice");
    let elsewhere = other.member("alice", "alice", "join", &[&create], &[&create]);
    let nid = remote::claim(&room.server, create.pdu().room_id.clone(), RoomVersionId::V11).await.unwrap();
    outliers::store(&room.server, nid, vec![create, elsewhere.clone()]).await.unwrap();

    let mut auth = room.auth(&[]);
    auth.push(room.base[2].clone());
    auth.push(elsewhere);
    let auth: Vec<&Verified> = auth.iter().collect();
    let carol = room.forge.member("carol", "carol", "join", &[&join], &auth);
    outliers::store(&room.server, room.nid, vec![carol.clone()]).await.unwrap();
    assert!(room.stored(&carol).flags.rejected);
    let (create, rules) = (room.base[0].clone(), room.base[1].clone());
    let said = draft("m.room.message", None, &json!({ "body": "hers" }));
    let hers = room.forge.event("carol", said, &[&carol], &[&create, &rules, &carol]);
    let given: Arc<[OwnedEventId]> = ids(&[&room.base[0], &room.base[1], &room.base[2], &join]).into();
    let incoming = Incoming { given: vec![given], ..Incoming::live(hers.clone()) };
    assert!(matches!(room.take_in(vec![incoming]).await[0].verdict, Verdict::Rejected(_)));
    let next = room.say("next", &[&hers]);
    assert_eq!(room.live(&next).await, Verdict::Accepted);
    room.check();
}

#[tokio::test]
async fn a_room_that_is_known_is_of_no_other_version_and_takes_no_ids_of_others() {
    let (room, ..) = Room::entered(RoomVersionId::V11, nothing).await;
    let room_id = room.forge.room_id.clone().unwrap();
    remote::claim(&room.server, room_id.clone(), RoomVersionId::V1).await.unwrap_err();
    assert_eq!(remote::claim(&room.server, room_id, RoomVersionId::V11).await.unwrap(), room.nid);

    let mut old = Forge::new(RoomVersionId::V1);
    old.room_id = Some("!old:domain".try_into().unwrap());
    let create = old.create("alice");
    let nid = remote::claim(&room.server, create.pdu().room_id.clone(), RoomVersionId::V1).await.unwrap();
    outliers::store(&room.server, nid, vec![create.clone()]).await.unwrap();
    let snapshot = room.server.store.snapshot();
    let view = View::of(&room.server.rooms, &snapshot, room.nid).unwrap();
    assert!(view.takes_id_away(&create.pdu().event_id).unwrap());
    assert!(!view.takes_id_away(&room.base[0].pdu().event_id).unwrap());
}

#[tokio::test]
async fn nobody_says_another_version_of_a_room_while_it_is_entered() {
    let room = Room::unknown(RoomVersionId::V11).await;
    let room_id = room.forge.room_id.clone().unwrap();
    let version = || room.read(|view| view.room.version.clone());
    let entry = remote::begin_entry(&room.server, room_id.clone(), RoomVersionId::V11);
    remote::claim(&room.server, room_id.clone(), RoomVersionId::V1).await.unwrap_err();
    assert_eq!(remote::claim(&room.server, room_id.clone(), RoomVersionId::V11).await.unwrap(), room.nid);
    assert_eq!(version(), RoomVersionId::V11);
    drop(entry);
    remote::claim(&room.server, room_id, RoomVersionId::V1).await.unwrap();
    assert_eq!(version(), RoomVersionId::V1, "he was not let in, and others may know better");
}

#[tokio::test]
async fn a_redaction_is_applied_when_its_target_comes_later() {
    for as_outlier in [false, true] {
        let (mut room, _, join) = Room::entered(RoomVersionId::V11, nothing).await;
        let message = room.say("secret", &[&join]);
        let redaction = room.redact(&message, &join);
        assert_eq!(room.live(&redaction).await, Verdict::Accepted);
        room.check();
        if as_outlier {
            outliers::store(&room.server, room.nid, vec![message.clone()]).await.unwrap();
            assert!(room.stored(&message).flags.redacted);
            room.check();
        }
        assert_eq!(room.live(&message).await, Verdict::Accepted);
        let stored = room.stored(&message);
        assert!(stored.flags.redacted && !stored.common.contains("secret"), "{as_outlier}: {}", stored.common);
        room.check();
    }
}

#[tokio::test]
async fn what_follows_on_an_event_that_was_not_accepted_follows_on_what_was_before_it() {
    let (mut room, _, join) = Room::entered(RoomVersionId::V11, nothing).await;
    let create = room.base[0].clone();
    let leave = room.forge.member("bob", "bob", "leave", &[&join], &[&create, &join]);
    room.live(&leave).await;
    // Sent from before the leave, when bob was still in the room.
    let late =
        room.forge.event("bob", draft("m.room.message", None, &json!({ "body": "late" })), &[&join], &[&create, &join]);
    assert!(matches!(room.live(&late).await, Verdict::SoftFailed(_)));
    assert_eq!(room.ends(), ids(&[&leave]));
    assert_eq!(room.stored(&late).room_pos, 0, "nobody is shown it");
    let next = room.say("next", &[&late, &leave]);
    assert_eq!(room.live(&next).await, Verdict::Accepted);
    assert_eq!(room.ends(), ids(&[&next]));
    room.check();
}

#[tokio::test]
async fn who_is_banned_is_let_in_by_another_server_only_if_it_knows_that_the_ban_has_ended() {
    for version in [RoomVersionId::V11, RoomVersionId::V12] {
        let (mut room, _, join) = Room::entered(version.clone(), nothing).await;
        let auth = room.auth(&[]);
        let auth: Vec<&Verified> = auth.iter().collect();
        let ban = room.forge.member("alice", "carol", "ban", &[&join], &auth);
        assert_eq!(room.live(&ban).await, Verdict::Accepted, "{version}");
        let admitted = |event: &Verified, given: &[&Verified]| Incoming {
            place: Place::Admitted,
            given: vec![ids(given).into()],
            ..Incoming::live(event.clone())
        };
        let old = room.base.clone();
        let before_the_ban = room.member("carol", "join", &old[2]);
        let told = admitted(&before_the_ban, &[&old[0], &old[1], &old[2]]);
        let verdict = room.take_in(vec![told]).await.remove(0).verdict;
        assert!(matches!(verdict, Verdict::SoftFailed(_)), "{version}: {verdict:?}");
        assert_eq!(room.ends(), ids(&[&ban]), "{version}");

        let auth = room.auth(&[&ban]);
        let auth: Vec<&Verified> = auth.iter().collect();
        let unban = room.forge.member("alice", "carol", "leave", &[&ban], &auth);
        outliers::store(&room.server, room.nid, vec![unban.clone()]).await.unwrap();
        let auth = auth_of(&room.forge, &[&old[0], &old[2], &unban]);
        let after_the_ban = room.forge.member("carol", "carol", "join", &[&unban], &auth);
        let told = admitted(&after_the_ban, &[&old[0], &old[1], &old[2], &join, &unban]);
        assert_eq!(room.take_in(vec![told]).await.remove(0).verdict, Verdict::Accepted, "{version}");
        assert!(room.state_ids().contains(&after_the_ban.pdu().event_id), "{version}");
        room.check();
    }
}

#[tokio::test]
async fn an_event_whose_previous_events_are_unknown_is_an_error_and_not_a_verdict() {
    let (mut room, _, join) = Room::entered(RoomVersionId::V11, nothing).await;
    let missing = room.say("missing", &[&join]);
    let next = room.say("next", &[&missing]);
    take_in(&room.server, room.nid, vec![Incoming::live(next)]).await.unwrap_err();
    room.check();
}

#[tokio::test]
async fn a_member_event_that_came_before_its_room_is_part_of_it_later() {
    let mut room = Room::unknown(RoomVersionId::V11).await;
    let carol = UserId::parse("@carol:here").unwrap();
    let content = json!({ "membership": "invite" });
    let auth = room.auth(&[]);
    let auth: Vec<&Verified> = auth.iter().collect();
    let last = room.base[2].clone();
    let invite = draft("m.room.member", Some(carol.as_str()), &content);
    let invite = room.forge.event("alice", invite, &[&last], &auth);
    let name =
        json!({ "type": "m.room.name", "state_key": "", "sender": "@alice:there", "content": { "name": "There" } });
    let told = Some(invited::Told { state: json!([name]).to_string(), through: None });
    invited::set(&room.server, room.nid, carol.clone(), super::Membership::Invite, invite.clone(), told).await.unwrap();
    room.check();
    let row = || room.server.store.snapshot().get::<UserRooms>(&(&carol, room.nid)).unwrap().unwrap();
    let since = row().since;
    let name: Option<serde_json::Value> = room.read(|view| {
        KnownState::of(view, &carol, Some(&row())).unwrap().content(&StateEventType::RoomName, "").unwrap()
    });
    assert_eq!(name, Some(json!({ "name": "There" })));

    let mut state = room.base.clone();
    state.push(invite.clone());
    let ids: Arc<[OwnedEventId]> = state.iter().map(|event| event.pdu().event_id.clone()).collect();
    outliers::store(&room.server, room.nid, state).await.unwrap();
    room.check();
    let create = room.base[0].clone();
    let rules = room.base[2].clone();
    let join = room.forge.member("dave", "dave", "join", &[&invite], &[&create, &rules]);
    room.take_in(vec![Incoming { place: Place::Entry, given: vec![ids], ..Incoming::live(join) }]).await;
    assert_eq!((row().membership, row().since), (super::Membership::Invite, since), "carol was told before");
    assert_eq!(row().event, room.read(|view| view.event_nid(&invite.pdu().event_id).unwrap().unwrap()));
    assert_eq!(user("dave").server_name(), "domain");
    room.check();
}

#[tokio::test]
async fn what_ended_an_earlier_invite_does_not_end_the_present_one_and_an_ended_one_does_not_come_again() {
    let mut room = Room::unknown(RoomVersionId::V11).await;
    let carol = UserId::parse("@carol:here").unwrap();
    let auth = room.auth(&[]);
    let mut member = |membership: &str, reason: &str, before: &[Verified]| {
        let content = json!({ "membership": membership, "reason": reason });
        let auth: Vec<&Verified> = auth.iter().chain(before).collect();
        let last = room.base[2].clone();
        room.forge.event("alice", draft("m.room.member", Some(carol.as_str()), &content), &[&last], &auth)
    };
    let first = member("invite", "first", &[]);
    let second = member("invite", "second", &[]);
    let third = member("invite", "third", &[]);
    let end_of_first = member("leave", "", std::slice::from_ref(&first));
    let end_of_second = member("leave", "", std::slice::from_ref(&second));
    for (event, to, expected) in [
        (first, super::Membership::Invite, super::Membership::Invite),
        (second.clone(), super::Membership::Invite, super::Membership::Invite),
        (end_of_first, super::Membership::Leave, super::Membership::Invite),
        (end_of_second, super::Membership::Leave, super::Membership::Leave),
        // Its server did not get our answer.
        (second, super::Membership::Invite, super::Membership::Leave),
        (third, super::Membership::Invite, super::Membership::Invite),
    ] {
        invited::set(&room.server, room.nid, carol.clone(), to, event, None).await.unwrap();
        let row = room.server.store.snapshot().get::<UserRooms>(&(&carol, room.nid)).unwrap().unwrap();
        assert_eq!(row.membership, expected);
        room.check();
    }
}
