//! How many events of a room a user should be told of and has not read.
//!
//! Counted when a client asks, and remembered: each event is tried once for each user who syncs. Nothing is written.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications>

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::{Weighter, sync::Cache};
use ruma::{
    OwnedEventId, OwnedUserId, UserId,
    push::{Action, Ruleset},
};
use serde::Serialize;

use super::{
    defaults,
    evaluate::{self, Name, Situation},
    subject::Subject,
};
use crate::{
    Server,
    error::Result,
    event::StateRoot,
    metrics::CacheUse,
    room::{
        Membership, View, ends, receipts,
        tables::{ReceiptChanges, Timeline, UserRoom, UserRooms},
        threads,
    },
    store::{EventNid, Group, RoomNid, RoomPos, Scan, Snapshot, StreamPos},
    user::{
        account_data::GLOBAL,
        ignored::{self, Ignored},
        push_rules,
        tables::{AccountData, AccountDataChanges},
        thread_subscriptions::ThreadSubscriptions,
    },
};

/// So many of the newest events are looked at, at most: whoever has not read for longer sees a number that is too small,
/// but large all the same.
const MAX_EVENTS: usize = 2_000;

/// So many bytes of events are looked at, at most, so that large messages and many patterns don't take minutes.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// Of how many users the rules are kept in the form in which they are needed.
const CACHED_RULES: usize = 2_000;

/// What a memo costs without its events, and an event without its own JSON, in bytes.
const MEMO_BYTES: u64 = 400;
const SUBJECT_BYTES: u64 = 1_000;

/// What was counted before.
pub struct Unread {
    memos: Cache<(OwnedUserId, RoomNid), Arc<Memo>, MemoWeight>,
    subjects: Cache<(RoomNid, EventNid), Arc<Subject>, SubjectWeight>,
    rules: Cache<OwnedUserId, Arc<Rules>>,
}

#[derive(Clone)]
struct MemoWeight;

impl Weighter<(OwnedUserId, RoomNid), Arc<Memo>> for MemoWeight {
    fn weight(&self, _: &(OwnedUserId, RoomNid), memo: &Arc<Memo>) -> u64 {
        let name = memo.name.as_ref().map_or(0, |(_, name)| name.bytes());
        let spoke = memo.spoke.len() * size_of::<(Option<EventNid>, RoomPos)>();
        MEMO_BYTES + (memo.unread.len() * size_of::<Notification>() + spoke + name) as u64
    }
}

#[derive(Clone)]
struct SubjectWeight;

impl Weighter<(RoomNid, EventNid), Arc<Subject>> for SubjectWeight {
    fn weight(&self, _: &(RoomNid, EventNid), subject: &Arc<Subject>) -> u64 {
        SUBJECT_BYTES + 3 * subject.bytes as u64
    }
}

impl Unread {
    /// `memory_bytes`: for what is remembered of users and rooms, and of events.
    pub fn new(memory_bytes: u64) -> Self {
        let half = memory_bytes / 2;
        let about = |each: u64| usize::try_from(half / each).unwrap_or(usize::MAX);
        Self {
            memos: Cache::with_weighter(about(MEMO_BYTES), half, MemoWeight),
            subjects: Cache::with_weighter(about(2 * SUBJECT_BYTES), half, SubjectWeight),
            rules: Cache::new(CACHED_RULES),
        }
    }

    pub fn use_of_counts(&self) -> CacheUse {
        CacheUse::of(&self.memos)
    }

    pub fn use_of_subjects(&self) -> CacheUse {
        CacheUse::of(&self.subjects)
    }

    pub fn use_of_rules(&self) -> CacheUse {
        CacheUse::of(&self.rules)
    }

    fn rules(&self, server: &Server, snapshot: &Snapshot<'_>, user: &UserId) -> Result<Arc<Rules>> {
        let known = self.rules.get(user);
        let has_changed = |as_of| server.store.recent().may_have_changed::<AccountDataChanges>(Group::of(user), as_of);
        if let Some(known) = known.as_ref().filter(|known| !has_changed(known.as_of())) {
            return Ok(Arc::clone(known));
        }
        let changed = |event_type| -> Result<StreamPos> {
            let datum = snapshot.get::<AccountData>(&(user, GLOBAL, event_type))?;
            Ok(datum.map(|datum| datum.changed).unwrap_or_default())
        };
        let version = (changed(push_rules::EVENT_TYPE)?, changed(ignored::EVENT_TYPE)?);
        let as_of = snapshot.pos()?.0;
        if let Some(known) = known.filter(|known| known.version == version) {
            known.as_of.fetch_max(as_of, Ordering::Relaxed);
            return Ok(known);
        }
        let rules = push_rules::changed(snapshot, user)?.map_or(Cow::Borrowed(&*defaults::OF_ANYBODY), Cow::Owned);
        let ignored = Arc::new(Ignored::load(snapshot, user)?);
        let rules = Arc::new(Rules { version, as_of: as_of.into(), rules, ignored });
        self.rules.insert(user.to_owned(), Arc::clone(&rules));
        Ok(rules)
    }

    /// Whom `user` ignores.
    pub fn ignored(&self, server: &Server, snapshot: &Snapshot<'_>, user: &UserId) -> Result<Arc<Ignored>> {
        Ok(Arc::clone(&self.rules(server, snapshot, user)?.ignored))
    }

    /// Whether `user` wants to hear nothing of `other`.
    pub fn ignores(&self, server: &Server, snapshot: &Snapshot<'_>, user: &UserId, other: &UserId) -> Result<bool> {
        Ok(self.rules(server, snapshot, user)?.ignored.contains(other))
    }

    /// Forgets what an event said, when its content is gone for good.
    pub fn forget(&self, room: RoomNid, event: EventNid) {
        self.subjects.remove(&(room, event));
    }

    fn subject(&self, view: &View<'_>, event: EventNid) -> Result<Arc<Subject>> {
        self.subjects.get_or_insert_with(&(view.nid, event), || Ok(Arc::new(Subject::of(view, &view.event(event)?)?)))
    }
}

/// What a user wants to hear, and of whom nothing.
struct Rules {
    /// When either changed.
    version: (StreamPos, StreamPos),
    /// The last `StreamPos` at which this was so for certain.
    as_of: AtomicU64,
    rules: Cow<'static, Ruleset>,
    ignored: Arc<Ignored>,
}

impl Rules {
    fn as_of(&self) -> StreamPos {
        StreamPos(self.as_of.load(Ordering::Relaxed))
    }

    /// What is to be done if the user is to be told of an event.
    fn notify(&self, subject: &Subject, situation: &Situation<'_, '_>) -> Result<Option<&[Action]>> {
        if subject.is_redacted || !subject.is_state && self.ignored.contains(&subject.sender) {
            return Ok(None);
        }
        let actions = evaluate::actions(&self.rules, subject, situation)?;
        Ok(actions.iter().any(Action::should_notify).then_some(actions))
    }
}

/// An event that a user is to be told of.
pub struct Told {
    pub actions: Vec<Action>,
    pub has_read: bool,
}

/// Whether `user` is to be told of an event, by his rules as they are now. `None` if not. An event of his own ends what
/// he has not read, but is never told.
pub fn told(server: &Server, view: &View<'_>, user: &UserId, pos: RoomPos, event: EventNid) -> Result<Option<Told>> {
    let rules = server.unread.rules(server, view.snapshot, user)?;
    let subject = server.unread.subject(view, event)?;
    // A redaction changes the event, and what is remembered of it here is older.
    let stored = view.event(event)?;
    if stored.flags.redacted || view.has_expired(&stored)? {
        return Ok(None);
    }
    let situation = Situation::of(view, user);
    let Some(actions) = rules.notify(&subject, &situation)? else { return Ok(None) };
    if subject.may_be_hidden && !situation.shows(event, &stored)? {
        return Ok(None);
    }
    let row = view.snapshot.get::<UserRooms>(&(user, view.nid))?.filter(|row| row.membership == Membership::Join);
    let has_read = match row.and_then(|row| row.joined_at) {
        Some(joined_at) => {
            let memo = recall(server, view, user, joined_at, view.snapshot.pos()?.into())?;
            memo.has_read(pos, subject.thread)
        }
        None => Reads::load(view, user, None)?.has(pos, subject.thread), // an invitation
    };
    Ok(Some(Told { actions: actions.to_vec(), has_read }))
}

/// The unread messages of all rooms that `user` is in.
pub fn total(server: &Server, snapshot: &Snapshot<'_>, user: &UserId) -> Result<u64> {
    let upto = snapshot.pos()?;
    let mut total = 0;
    for row in snapshot.list::<UserRooms>(&user) {
        let row = row?;
        if row.value.membership == Membership::Join {
            let view = View::of(&server.rooms, snapshot, row.key()?.1)?;
            total += counts(server, &view, user, &row.value, upto)?.total().notifications;
        }
    }
    Ok(total)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    #[serde(rename = "notification_count")]
    pub notifications: u64,
    #[serde(rename = "highlight_count")]
    pub highlights: u64,
}

impl Count {
    fn add(&mut self, is_highlight: bool) {
        self.notifications += 1;
        self.highlights += u64::from(is_highlight);
    }
}

/// The unread events of a room that a user should be told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of the main timeline.
    pub main: Count,
    /// Of the threads, by their roots; those without any are left out.
    pub threads: BTreeMap<OwnedEventId, Count>,
}

impl Counts {
    /// For clients that know no threads.
    pub fn total(&self) -> Count {
        let add = |sum: Count, count: &Count| Count {
            notifications: sum.notifications + count.notifications,
            highlights: sum.highlights + count.highlights,
        };
        self.threads.values().fold(self.main, add)
    }
}

/// An event that the user should be told of.
#[derive(Clone, Copy, Debug)]
struct Notification {
    pos: RoomPos,
    event: EventNid,
    thread: Option<EventNid>,
    is_highlight: bool,
    /// Of what can expire.
    sent_ms: Option<u64>,
}

impl Notification {
    fn has_expired(&self, view: &View<'_>, expired_before: u64) -> bool {
        self.sent_ms.is_some_and(|sent_ms| sent_ms < expired_before)
            && !view.forward_extremities().contains(&self.event)
    }
}

/// What is known of one user in one room.
struct Memo {
    joined_at: StreamPos,
    /// The rules that were tried.
    rules: (StreamPos, StreamPos),
    /// All events up to here have been looked at.
    upto: RoomPos,
    /// When `reads` was so for certain.
    as_of: StreamPos,
    reads: Arc<Reads>,
    /// In the order of the room.
    unread: Vec<Notification>,
    /// Where the user spoke last in the main timeline and in threads, beyond what his receipts say.
    spoke: BTreeMap<Option<EventNid>, RoomPos>,
    /// What the user was called in a state of the room, if somebody's message made us look. Nearly all come while that
    /// state is the current one.
    name: Option<(StateRoot, Name)>,
}

/// How far a user has read.
#[derive(Debug, Default)]
struct Reads {
    /// The newest change of his receipts.
    changed: StreamPos,
    everywhere: RoomPos,
    main: RoomPos,
    threads: HashMap<EventNid, RoomPos>,
}

impl Reads {
    /// `known`: of an earlier time, for if nothing changed.
    fn load(view: &View<'_>, user: &UserId, known: Option<&Arc<Self>>) -> Result<Arc<Self>> {
        let receipts = receipts::of_user(view.snapshot, view.nid, user)?;
        let changed = receipts.iter().map(|receipt| receipt.changed).max().unwrap_or_default();
        if let Some(known) = known.filter(|known| known.changed == changed) {
            return Ok(Arc::clone(known));
        }
        let mut reads = Self { changed, ..Self::default() };
        for receipt in receipts {
            let Some(pos) = receipts::position(view.snapshot, view.nid, &receipt.event_id)? else { continue };
            let read = match receipt.thread.as_str() {
                "" => &mut reads.everywhere,
                threads::MAIN => &mut reads.main,
                root => {
                    match ruma::EventId::parse(root).ok().map(|root| view.event_nid(&root)).transpose()?.flatten() {
                        Some(root) => reads.threads.entry(root).or_default(),
                        None => continue,
                    }
                }
            };
            *read = pos.max(*read);
        }
        Ok(Arc::new(reads))
    }

    fn has(&self, pos: RoomPos, thread: Option<EventNid>) -> bool {
        let in_thread = match thread {
            None => Some(self.main),
            Some(root) => self.threads.get(&root).copied(),
        };
        pos <= self.everywhere || in_thread.is_some_and(|read| pos <= read)
    }
}

/// What `user`, whose room this is by `row`, has not read of its events up to `upto`. Nothing if he is not joined.
pub fn counts(server: &Server, view: &View<'_>, user: &UserId, row: &UserRoom, upto: StreamPos) -> Result<Counts> {
    let Some(joined_at) = row.joined_at else { return Ok(Counts::default()) };
    let upto = RoomPos::from(upto);
    recall(server, view, user, joined_at, upto)?.counts(view, upto)
}

/// What is known of `user`, who joined then, once all events up to `upto` have been looked at.
fn recall(server: &Server, view: &View<'_>, user: &UserId, joined_at: StreamPos, upto: RoomPos) -> Result<Arc<Memo>> {
    let rules = server.unread.rules(server, view.snapshot, user)?;
    let key = (user.to_owned(), view.nid);
    let known = server.unread.memos.get(&key);
    let changed_threads = Group::of((user, view.nid));
    let follows_others = |as_of| server.store.recent().may_have_changed::<ThreadSubscriptions>(changed_threads, as_of);
    let known = known.filter(|memo| memo.joined_at == joined_at && memo.rules == rules.version);
    let known = known.filter(|memo| !follows_others(memo.as_of));
    let as_of = view.snapshot.pos()?;
    let has_read = |as_of| server.store.recent().may_have_changed::<ReceiptChanges>(Group::of(view.nid), as_of);
    let reads = match &known {
        Some(memo) if !has_read(memo.as_of) => Arc::clone(&memo.reads),
        known => Reads::load(view, user, known.as_ref().map(|memo| &memo.reads))?,
    };
    if let Some(memo) = known.as_ref().filter(|memo| memo.upto >= upto && memo.reads.changed == reads.changed) {
        return Ok(Arc::clone(memo));
    }
    let known = known.unwrap_or_else(|| Arc::new(Memo::new(joined_at, rules.version)));
    let new = newest(server, view, known.upto.max(reads.everywhere), upto)?;
    let mut memo = known.with_room_for(new.len());
    (memo.reads, memo.as_of) = (reads, as_of);
    memo.look_at_new(view, user, &rules, &new)?;
    memo.upto = memo.upto.max(upto);
    memo.unread.retain(|notification| !memo.reads.has(notification.pos, notification.thread));
    memo.spoke.retain(|thread, pos| !memo.reads.has(*pos, *thread));
    if memo.unread.len() < memo.unread.capacity() / 2 {
        memo.unread.shrink_to_fit(); // what was read takes no memory
    }
    let memo = Arc::new(memo);
    server.unread.memos.insert(key, Arc::clone(&memo));
    Ok(memo)
}

impl Memo {
    /// Of somebody who has just joined.
    fn new(joined_at: StreamPos, rules: (StreamPos, StreamPos)) -> Self {
        let (upto, as_of, reads) = (joined_at.into(), joined_at, Arc::default());
        Self { joined_at, rules, upto, as_of, reads, unread: Vec::new(), spoke: BTreeMap::new(), name: None }
    }

    /// The same, with room for so many more events and not much else: it is for the newest message, in most cases.
    fn with_room_for(&self, more: usize) -> Self {
        let mut unread = Vec::with_capacity(self.unread.len() + more);
        unread.extend_from_slice(&self.unread);
        let (reads, spoke, name) = (Arc::clone(&self.reads), self.spoke.clone(), self.name.clone());
        Self { reads, unread, spoke, name, ..*self }
    }

    /// Whether the user has read as far as `pos`, by a receipt or by what he said himself.
    fn has_read(&self, pos: RoomPos, thread: Option<EventNid>) -> bool {
        self.reads.has(pos, thread) || self.spoke.get(&thread).is_some_and(|spoke| pos <= *spoke)
    }

    fn look_at_new(&mut self, view: &View<'_>, user: &UserId, rules: &Rules, new: &[Newest]) -> Result<()> {
        let state = view.current_state();
        let has_redaction = new.iter().any(|newest| newest.subject.redacts.is_some()); // of what says the name, it may be
        let name = self.name.take().filter(|(known, _)| *known == state && !has_redaction);
        let situation = Situation::with_name(view, user, name.map(|(_, name)| name));
        for newest in new {
            self.look_at(view, newest, rules, &situation)?;
        }
        self.name = situation.known_name().map(|name| (state, name.clone()));
        let excess = self.unread.len().saturating_sub(MAX_EVENTS);
        self.unread.drain(..excess);
        if self.spoke.len() > MAX_EVENTS
            && let Some(oldest) = self.spoke.values().min().copied()
        {
            self.spoke.retain(|_, pos| *pos > oldest);
        }
        Ok(())
    }

    fn look_at(
        &mut self,
        view: &View<'_>,
        Newest { pos, event, subject }: &Newest,
        rules: &Rules,
        situation: &Situation<'_, '_>,
    ) -> Result<()> {
        if situation.is_own(subject) {
            // Who writes in a thread has read it: the specification calls sending a way to move one's receipt. Changes
            // of state do not count, because the server itself makes some for the user, such as his new name, nor does what
            // it sends as him to join the ends of the room.
            if !(subject.is_state || subject.may_be_hidden && view.event(*event)?.event_type == ends::DUMMY) {
                self.unread.retain(|notification| notification.thread != subject.thread);
                self.spoke.insert(subject.thread, *pos);
            }
            return Ok(());
        }
        if let Some(target) = subject.redacts
            && self.unread.iter().any(|notification| notification.event == target)
            && view.event(target)?.flags.redacted
        {
            self.unread.retain(|notification| notification.event != target);
        }
        if let Some(actions) = rules.notify(subject, situation)?
            && (!subject.may_be_hidden || situation.shows(*event, &view.event(*event)?)?)
        {
            let is_highlight = actions.iter().any(Action::is_highlight);
            let sent_ms = (!subject.is_state).then_some(subject.sent_ms);
            let (pos, event) = (*pos, *event);
            self.unread.push(Notification { pos, event, thread: subject.thread, is_highlight, sent_ms });
        }
        Ok(())
    }

    fn counts(&self, view: &View<'_>, upto: RoomPos) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut threads: BTreeMap<EventNid, Count> = BTreeMap::new();
        let expired_before = view.expired_before()?;
        for notification in self.unread.iter().filter(|notification| notification.pos <= upto) {
            if notification.has_expired(view, expired_before) {
                continue;
            }
            let count = match notification.thread {
                None => &mut counts.main,
                Some(root) => threads.entry(root).or_default(),
            };
            count.add(notification.is_highlight);
        }
        for (root, count) in threads {
            counts.threads.insert(view.event(root)?.event_id, count);
        }
        Ok(counts)
    }
}

/// An event of the timeline.
struct Newest {
    pos: RoomPos,
    event: EventNid,
    subject: Arc<Subject>,
}

/// The newest events of the timeline after `after`, up to and with `upto`, in their order.
fn newest(server: &Server, view: &View<'_>, after: RoomPos, upto: RoomPos) -> Result<Vec<Newest>> {
    if after >= upto {
        return Ok(Vec::new());
    }
    let next = |pos: RoomPos| RoomPos(pos.0.saturating_add(1));
    let scan = Scan::range::<Timeline>(&(view.nid, next(after)), &(view.nid, next(upto))).backward();
    let (mut events, mut bytes) = (Vec::new(), 0);
    for row in view.snapshot.scan::<Timeline>(scan).take(MAX_EVENTS) {
        let row = row?;
        let (pos, event) = (row.key()?.1, row.value);
        let subject = server.unread.subject(view, event)?;
        bytes += subject.bytes;
        events.push(Newest { pos, event, subject });
        if bytes > MAX_EVENT_BYTES {
            break;
        }
    }
    events.reverse();
    Ok(events)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::{
        event::Draft,
        room::testing::{TestRoom, user},
    };

    #[test]
    fn what_no_client_is_shown_is_neither_told_nor_counted() {
        let room = TestRoom::new();
        let mallory = user_id!("@mallory:b.test");
        room.receive_member(mallory, "join");
        let mention = |event_type: &str, redacts: Option<OwnedEventId>| {
            let content = to_raw_value(&json!({ "m.mentions": { "user_ids": [user("alice")] } })).unwrap();
            room.receive(mallory, Draft { redacts, ..Draft::message(event_type.into(), content) })
        };
        let hers = room.message("alice", "hers");
        let his = mention("m.room.message", None);
        let dummy = mention(ends::DUMMY, None);
        let in_vain = mention("m.room.redaction", Some(hers));
        let in_force = mention("m.room.redaction", Some(his));
        let alice = user("alice");
        // As the server does it, to join the ends of the room.
        let empty = to_raw_value(&json!({})).unwrap();
        room.send("alice", Draft::message(ends::DUMMY.into(), empty)).unwrap();
        room.read("alice", |reader, newest| {
            let view = reader.view();
            let is_told = |event_id: &OwnedEventId| {
                let event = view.event_nid(event_id).unwrap().unwrap();
                told(&room.server, view, &alice, newest, event).unwrap().is_some()
            };
            assert_eq!([&dummy, &in_vain, &in_force].map(is_told), [false, false, true]);
            let row = view.snapshot.get::<UserRooms>(&(&alice, view.nid)).unwrap().unwrap();
            let upto = view.snapshot.pos().unwrap();
            let counts = counts(&room.server, view, &alice, &row, upto).unwrap();
            assert_eq!(counts.total(), Count { notifications: 1, highlights: 1 });
        });
    }

    #[test]
    fn what_is_said_where_a_user_has_not_joined_is_his_to_hear_only_where_history_is_shared() {
        for (visibility, is_shared) in [("joined", false), ("shared", true)] {
            let room = TestRoom::new();
            room.visibility(visibility);
            let eve = user_id!("@eve:b.test");
            room.receive_member(eve, "join");
            let before = room.message("alice", "before bob came");
            room.member("bob", "bob", "join");
            let draft = || Draft::message("m.room.message".into(), to_raw_value(&json!({ "body": "x" })).unwrap());
            let aside = room.receive_after(&before, eve, draft());
            let to_him = room.receive(eve, draft());
            let bob = user("bob");
            room.read("bob", |reader, newest| {
                let view = reader.view();
                let is_told = |event_id: &OwnedEventId| {
                    let event = view.event_nid(event_id).unwrap().unwrap();
                    told(&room.server, view, &bob, newest, event).unwrap().is_some()
                };
                assert_eq!([&aside, &to_him].map(is_told), [is_shared, true], "{visibility}");
                let row = view.snapshot.get::<UserRooms>(&(&bob, view.nid)).unwrap().unwrap();
                let upto = view.snapshot.pos().unwrap();
                let counts = counts(&room.server, view, &bob, &row, upto).unwrap();
                assert_eq!(counts.total().notifications, 1 + u64::from(is_shared), "{visibility}");
            });
        }
    }
}
