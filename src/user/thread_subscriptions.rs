//! Which threads a user follows: <https://github.com/matrix-org/matrix-spec-proposals/pull/4306>
//!
//! Each row is about an event of a room that the user saw, so there are never more of them than of these.

use std::{collections::BTreeMap, sync::Arc};

use http::StatusCode;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, UInt, UserId,
    api::client::threads::get_thread_subscriptions_changes::unstable::{ThreadSubscription, ThreadUnsubscription},
};
use serde::{Deserialize, Serialize};

use super::session::Caller;
use crate::{
    Server,
    error::{Error, Result},
    room::{View, history, receipts, show::Reader, threads},
    store::{
        self, EventNid, Family, Group, Record, RoomNid, RoomPos, Scan, Snapshot, StreamPos, Table, TableInfo,
        Transaction,
    },
};

pub const TABLES: [TableInfo; 2] =
    [TableInfo::of::<ThreadSubscriptions>(), TableInfo::of::<ThreadSubscriptionChanges>()];

/// What each user said last about a thread, by its root.
pub struct ThreadSubscriptions;
impl Table for ThreadSubscriptions {
    const NAME: &'static str = "thread_subscriptions";
    const FAMILY: Family = Family::User;
    const ID: u8 = 212;
    type Key<'a> = (&'a UserId, RoomNid, EventNid);
    type Value = Subscription;

    fn group((user, room, _): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of((user, room)))
    }
}

/// In which order they said it: one row for each of [`ThreadSubscriptions`].
pub struct ThreadSubscriptionChanges;
impl Table for ThreadSubscriptionChanges {
    const NAME: &'static str = "thread_subscription_changes";
    const FAMILY: Family = Family::User;
    const ID: u8 = 213;
    type Key<'a> = (&'a UserId, StreamPos, RoomNid, EventNid);
    type Value = ();

    fn group((user, ..): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(user))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    pub changed: StreamPos,
    pub state: State,
}

impl Record for Subscription {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The user asked for it.
    Manual,
    /// A client did, because the thread mentions him.
    Automatic,
    /// He does not want to hear of what was said in the thread until then.
    Ended,
}

/// A change of a subscription that somebody asks for.
#[derive(Clone, Debug)]
pub enum Wish {
    Manual,
    /// On account of this event of the thread.
    Automatic(OwnedEventId),
    End,
}

/// Subscribes a user to a thread, or ends that.
///
/// Errors: `M_NOT_FOUND` if he can't see the thread; `M_NOT_IN_THREAD` and `M_CONFLICTING_UNSUBSCRIPTION`, for now with
/// the prefix of the proposal.
pub async fn set(
    server: &Arc<Server>,
    caller: Caller,
    room: OwnedRoomId,
    root: OwnedEventId,
    wish: Wish,
) -> Result<()> {
    let user = caller.user_id.clone();
    let work = move |reader: &Reader<'_, '_>, _| {
        let root = thread(reader, &root)?;
        let wish = match wish {
            Wish::Manual => Allowed::Manual,
            Wish::Automatic(cause) => Allowed::Automatic(place_in(reader, root, &cause)?),
            Wish::End => Allowed::End,
        };
        Ok((reader.view().nid, root, wish))
    };
    let found = history::read(server, caller, room, work).await?;
    let (room, root, wish) = found.ok_or_else(no_thread)?;
    let owner = user.clone();
    server.commit_and_wake(&user, move |tx| wish.write(tx, &owner, room, root)).await
}

/// Whether the reader's subscription to a thread was made automatically. `M_NOT_FOUND` if he has none.
pub fn is_automatic(reader: &Reader<'_, '_>, root: &EventId) -> Result<bool> {
    let (view, root) = (reader.view(), thread(reader, root)?);
    let kept = view.snapshot.get::<ThreadSubscriptions>(&(reader.sight.user_id, view.nid, root))?;
    match kept.map(|kept| kept.state) {
        Some(State::Manual) => Ok(false),
        Some(State::Automatic) => Ok(true),
        Some(State::Ended) | None => Err(Error::not_found("You are not subscribed to this thread")),
    }
}

/// Whether `user` is subscribed to a thread. `None` if none of his clients ever said anything about any thread.
pub fn is_subscribed(view: &View<'_>, user: &UserId, root: EventNid) -> store::Result<Option<bool>> {
    if let Some(kept) = view.snapshot.get::<ThreadSubscriptions>(&(user, view.nid, root))? {
        return Ok(Some(kept.state != State::Ended));
    }
    let any = view.snapshot.list::<ThreadSubscriptions>(&user).next().transpose()?;
    Ok(any.map(|_| false))
}

/// Removes what a user said about threads.
pub fn delete_user(tx: &mut Transaction<'_>, user: &UserId) {
    tx.delete_all::<ThreadSubscriptions>(&user);
    tx.delete_all::<ThreadSubscriptionChanges>(&user);
}

/// What about a thread nobody learns who can't see it.
pub fn no_thread() -> Error {
    Error::not_found("There is no such thread")
}

/// The number of a thread's root. It is a thread even if nobody has answered yet.
fn thread(reader: &Reader<'_, '_>, root: &EventId) -> Result<EventNid> {
    let (nid, event) = history::visible(reader, root)?.ok_or_else(no_thread)?;
    let is_root = event.relation.is_none() && event.state_key.is_none();
    is_root.then_some(nid).ok_or_else(no_thread)
}

/// The place of an event that must be one of the thread.
fn place_in(reader: &Reader<'_, '_>, root: EventNid, event_id: &EventId) -> Result<RoomPos> {
    let view = reader.view();
    if let Some((_, event)) = history::visible(reader, event_id)?
        && threads::root_of(view, &event)? == Some(root)
        && let Some(place) = receipts::position(view.snapshot, view.nid, event_id)?
    {
        return Ok(place);
    }
    let error = Error::custom("IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", "The event is not in this thread");
    Err(error.with_status(StatusCode::BAD_REQUEST))
}

/// A wish whose event was looked up.
enum Allowed {
    Manual,
    Automatic(RoomPos),
    End,
}

impl Allowed {
    fn write(self, tx: &mut Transaction<'_>, user: &UserId, room: RoomNid, root: EventNid) -> Result<()> {
        let before = tx.get::<ThreadSubscriptions>(&(user, room, root))?;
        let state = match (self, before) {
            (Self::End, _) => State::Ended,
            (Self::Manual, _) => State::Manual,
            (Self::Automatic(cause), Some(Subscription { state: State::Ended, changed }))
                if cause <= changed.into() =>
            {
                let message = "You unsubscribed from this thread after that event";
                let error = Error::custom("IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION", message);
                return Err(error.with_status(StatusCode::CONFLICT));
            }
            // What the user asked for himself stays so.
            (Self::Automatic(_), Some(Subscription { state: State::Manual, .. })) => State::Manual,
            (Self::Automatic(_), _) => State::Automatic,
        };
        // Whoever ends it once more has also seen what came meanwhile.
        if state != State::Ended && before.is_some_and(|before| before.state == state) {
            return Ok(());
        }
        if let Some(before) = before {
            tx.delete::<ThreadSubscriptionChanges>(&(user, before.changed, room, root));
        }
        let changed = tx.pos();
        tx.put::<ThreadSubscriptions>(&(user, room, root), &Subscription { changed, state });
        tx.put::<ThreadSubscriptionChanges>(&(user, changed, room, root), &());
        Ok(())
    }
}

/// How many changes one answer tells at most, and as many if the client does not say.
pub const MAX_CHANGES: usize = 100;

/// Some of a user's changes, and where to go on towards older ones, if there are any.
///
/// <https://github.com/matrix-org/matrix-spec-proposals/pull/4308>
#[derive(Debug, Default)]
pub struct Changes {
    pub subscribed: BTreeMap<OwnedRoomId, BTreeMap<OwnedEventId, ThreadSubscription>>,
    pub unsubscribed: BTreeMap<OwnedRoomId, BTreeMap<OwnedEventId, ThreadUnsubscription>>,
    pub next: Option<StreamPos>,
}

impl Changes {
    /// The newest of those after `after` and before `before`.
    pub fn read(
        server: &Server,
        snapshot: &Snapshot<'_>,
        user: &UserId,
        (after, before): (StreamPos, StreamPos),
        limit: usize,
    ) -> Result<Self> {
        let mut changes = Self::default();
        if after.next() >= before {
            return Ok(changes);
        }
        let range = Scan::range::<ThreadSubscriptionChanges>(&(user, after.next()), &(user, before));
        let mut last = None;
        for (told, row) in snapshot.scan::<ThreadSubscriptionChanges>(range.backward()).enumerate() {
            let row = row?;
            let (_, pos, room, root) = row.key()?;
            if told == limit.clamp(1, MAX_CHANGES) {
                changes.next = last;
                break;
            }
            let kept = snapshot.get::<ThreadSubscriptions>(&(user, room, root))?;
            let kept = kept.ok_or_else(|| Error::internal("a change of a thread subscription that is not there"))?;
            changes.add(&View::of(&server.rooms, snapshot, room)?, root, kept)?;
            last = Some(pos);
        }
        Ok(changes)
    }

    fn add(&mut self, view: &View<'_>, root: EventNid, kept: Subscription) -> Result<()> {
        let (room, root) = (view.room_id().to_owned(), view.event(root)?.event_id);
        let stamp = UInt::new_saturating(kept.changed.0);
        match kept.state {
            State::Ended => {
                self.unsubscribed.entry(room).or_default().insert(root, ThreadUnsubscription::new(stamp));
            }
            State::Manual | State::Automatic => {
                let shown = ThreadSubscription::new(kept.state == State::Automatic, stamp);
                self.subscribed.entry(room).or_default().insert(root, shown);
            }
        }
        Ok(())
    }
}
