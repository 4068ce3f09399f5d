//! What is told beside rooms, where a client asks for it.

use std::collections::{BTreeMap, HashSet};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId,
    api::client::sync::sync_events::v5::request::{ExtensionRoomConfig, Extensions, ThreadSubscriptions},
};
use serde::Serialize;

use super::{
    lists::{Selected, Wanted},
    request::{Asked, Profiles, StickyEvents},
    room::Room,
    tables::{Covered, Extended},
};
use crate::{
    error::Result,
    room::{
        Membership, sticky as sticky_events,
        tables::{ReceiptChanges, UserRoom},
    },
    store::{Group, RoomNid, StreamPos},
    sync::{
        account_data::{self, Datum},
        answer::Context,
        changes::Changes,
        device_lists, ephemeral,
        json::{self, Object},
        profiles, sticky, to_device, token,
    },
    user::thread_subscriptions::{self, MAX_CHANGES, ThreadSubscriptionChanges},
};

/// The name that this extension has while it is a proposal, MSC4308.
const THREAD_SUBSCRIPTIONS: &str = "io.element.msc4308.thread_subscriptions";

/// The name of this one while it is a proposal, MSC4480, and how many events an answer has.
const STICKY_EVENTS: &str = "org.matrix.msc4354.sticky_events";
const MAX_STICKY: usize = 100;

/// The name of this one while it is a proposal, MSC4262.
const PROFILES: &str = "org.matrix.msc4262.profiles";

/// A room that the client wants to hear of.
pub struct Seen<'a> {
    pub nid: RoomNid,
    pub room_id: OwnedRoomId,
    pub wanted: &'a Wanted,
    /// Up to where the client has seen it.
    pub after: Option<StreamPos>,
    /// It was not wanted for some time, and had news then.
    pub was_away: bool,
    /// The user changed data of it.
    pub has_data: bool,
    /// Of which extensions the client had all, up to there.
    pub covered: Covered,
    /// The events that the answer tells.
    pub events: Vec<OwnedEventId>,
    /// Older ones are among them.
    pub is_expanded: bool,
    /// Where members are loaded lazily, those of whom profiles are told.
    pub members: Vec<OwnedUserId>,
}

/// What a client wants of one of the extensions that are about rooms.
struct Part<'s> {
    lists: Option<&'s Vec<String>>,
    rooms: Option<&'s Vec<ExtensionRoomConfig>>,
    /// The client did not ask for it before, or about other rooms.
    is_new: bool,
    /// Whether the client had all of it.
    is_covered: fn(Covered) -> bool,
}

impl Part<'_> {
    /// The rooms that it is about.
    fn of<'r, 'a>(&'r self, seen: &'r [Seen<'a>]) -> impl Iterator<Item = &'r Seen<'a>> {
        seen.iter().filter(|room| self.contains(room.wanted))
    }

    /// Without lists, or rooms, all that the request has are meant.
    fn contains(&self, wanted: &Wanted) -> bool {
        let Wanted { lists, subscribed, .. } = wanted;
        let by_list = match self.lists {
            None => !lists.is_empty(),
            Some(names) => names.iter().any(|name| lists.contains(name) || name == "*" && !lists.is_empty()),
        };
        let is_meant = |named: &ExtensionRoomConfig, subscribed: &OwnedRoomId| match named {
            ExtensionRoomConfig::AllSubscribed => true,
            ExtensionRoomConfig::Room(room_id) => room_id == subscribed,
            _ => false,
        };
        let by_name = |subscribed: &OwnedRoomId| {
            self.rooms.is_none_or(|rooms| rooms.iter().any(|named| is_meant(named, subscribed)))
        };
        by_list || subscribed.as_ref().is_some_and(by_name)
    }

    /// Up to where the client was told this of a room.
    fn after(&self, room: &Seen<'_>) -> Option<StreamPos> {
        room.after.filter(|_| !self.begins(room.covered))
    }

    /// Whether this is told of a room from the start, where the client had all of these extensions.
    fn begins(&self, covered: Covered) -> bool {
        self.is_new || !(self.is_covered)(covered)
    }
}

/// The extensions about rooms that a client asks for.
pub struct Parts<'s> {
    account_data: Option<Part<'s>>,
    receipts: Option<Part<'s>>,
    typing: Option<Part<'s>>,
    profiles: Option<Part<'s>>,
    /// The client asks for other profiles than before.
    are_profiles_new: bool,
}

impl<'s> Parts<'s> {
    /// `before`: what the client was told last; `now`: what it is told with this answer.
    pub fn of(asked: &'s Asked, before: Extended, now: Extended) -> Self {
        let Extensions { account_data, receipts, typing, .. } = &asked.extensions;
        let profiles = &asked.profiles;
        let are_profiles_new = before.profiles != now.profiles;
        Self {
            account_data: (account_data.enabled == Some(true)).then_some(Part {
                lists: account_data.lists.as_ref(),
                rooms: account_data.rooms.as_ref(),
                is_new: before.account_data != now.account_data,
                is_covered: |covered| covered.account_data,
            }),
            receipts: (receipts.enabled == Some(true)).then_some(Part {
                lists: receipts.lists.as_ref(),
                rooms: receipts.rooms.as_ref(),
                is_new: before.receipts != now.receipts,
                is_covered: |covered| covered.receipts,
            }),
            typing: (typing.enabled == Some(true)).then_some(Part {
                lists: typing.lists.as_ref(),
                rooms: typing.rooms.as_ref(),
                is_new: before.typing != now.typing,
                is_covered: |_| true,
            }),
            profiles: profiles.enabled.then_some(Part {
                lists: profiles.lists.as_ref(),
                rooms: profiles.rooms.as_ref(),
                is_new: are_profiles_new,
                is_covered: |covered| covered.profiles,
            }),
            are_profiles_new,
        }
    }

    /// Whether one of them is about a room of which it has not told all.
    pub fn lack(&self, covered: Covered, wanted: &Wanted) -> bool {
        let mut parts = [&self.account_data, &self.receipts, &self.profiles].into_iter().flatten();
        parts.any(|part| !(part.is_covered)(covered) && part.contains(wanted))
    }

    /// Whether profiles of a room are told from the start, where the client had all of these extensions.
    pub fn begin_profiles(&self, covered: Covered, wanted: &Wanted) -> bool {
        self.profiles.as_ref().is_some_and(|part| part.contains(wanted) && part.begins(covered))
    }

    /// Of which of them the client has all of a room after this answer. `has_data`: the user changed data of the room.
    pub fn covered_by(&self, context: &Context<'_>, nid: RoomNid, room: &Room<'_>, has_data: bool) -> Covered {
        let contains = |part: &Option<Part<'_>>| part.as_ref().is_some_and(|part| part.contains(room.wanted));
        let covers = Covered {
            account_data: contains(&self.account_data),
            receipts: contains(&self.receipts),
            profiles: contains(&self.profiles),
        };
        // What it had before is still all if nothing came to it that it is not told now.
        let Some((sent, after)) = room.sent.zip(room.after()) else { return covers };
        let had = room.had_covered();
        let has_receipts = || context.may_have_changed::<ReceiptChanges>(Group::of(nid), after);
        Covered {
            account_data: covers.account_data || had.account_data && !has_data && sent.until.is_none(),
            receipts: covers.receipts || had.receipts && !has_receipts(),
            // Changes are told whosever rooms these are.
            profiles: covers.profiles || had.profiles && !self.are_profiles_new,
        }
    }
}

/// What stands for the extensions in what is kept of the connection: a client that asks for others than before gets them
/// from the start.
pub fn extended(asked: &Asked) -> Extended {
    fn number(is_enabled: Option<bool>, config: &impl Serialize) -> u64 {
        if is_enabled != Some(true) {
            return 0;
        }
        let mut hash = [0; 8];
        let mut hasher = blake3::Hasher::new();
        // Their `Serialize` can't fail; if it did, all would be told again.
        hasher.update(&serde_json::to_vec(config).unwrap_or_default());
        hasher.finalize_xof().fill(&mut hash);
        u64::from_be_bytes(hash).max(1)
    }
    let Extensions { account_data, receipts, typing, thread_subscriptions, .. } = &asked.extensions;
    Extended {
        account_data: number(account_data.enabled, account_data),
        receipts: number(receipts.enabled, receipts),
        typing: number(typing.enabled, typing),
        thread_subscriptions: u64::from(thread_subscriptions.enabled == Some(true)),
        profiles: number(Some(asked.profiles.enabled), &asked.profiles),
    }
}

/// Writes the extensions that have something to tell; whether the client waits for any of it.
pub fn write(
    context: &Context<'_>,
    asked: &Asked,
    before: Extended,
    parts: &Parts<'_>,
    selected: &Selected,
    seen: &[Seen<'_>],
    out: &mut Vec<u8>,
) -> Result<bool> {
    let wanted = &asked.extensions;
    let mut object = Object::begin(out);
    let mut has_news = false;
    if wanted.to_device.enabled == Some(true) {
        has_news |= write_to_device(context, asked, object.key("to_device"))?;
    }
    if wanted.e2ee.enabled == Some(true) {
        has_news |= write_e2ee(context, object.key("e2ee"))?;
    }
    if let Some(part) = &parts.account_data {
        has_news |= object.member_if("account_data", |out| write_account_data(context, part, seen, out))?;
    }
    if let Some(part) = &parts.receipts {
        has_news |= object.member_if("receipts", |out| write_receipts(context, part, seen, out))?;
    }
    if let Some(part) = &parts.typing {
        has_news |= object.member_if("typing", |out| write_typing(context, part, seen, out))?;
    }
    if wanted.thread_subscriptions.enabled == Some(true) {
        let is_new = before.thread_subscriptions == 0;
        let write = |out: &mut Vec<u8>| write_thread_subscriptions(context, &wanted.thread_subscriptions, is_new, out);
        has_news |= object.member_if(THREAD_SUBSCRIPTIONS, write)?;
    }
    if let Some(part) = &parts.profiles {
        has_news |= object.member_if(PROFILES, |out| write_profiles(context, &asked.profiles, part, seen, out))?;
    }
    if let Some(listed) = &selected.listed {
        let write = |out: &mut Vec<u8>| write_sticky_events(context, &asked.sticky_events, listed, selected, seen, out);
        has_news |= object.member_if(STICKY_EVENTS, write)?;
    }
    object.end();
    Ok(has_news)
}

/// The messages after the client's own token: by giving it back it says that it has those before.
fn write_to_device(context: &Context<'_>, asked: &Asked, out: &mut Vec<u8>) -> Result<bool> {
    let config = &asked.extensions.to_device;
    let since = known_since(context, config.since.as_deref())?;
    let limit = config.limit.map_or(usize::MAX, |limit| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX));
    let messages = to_device::read(context, since, limit.clamp(1, to_device::MAX_MESSAGES))?;
    let mut object = Object::begin(out);
    object.member("next_batch", &messages.next.to_string());
    if !messages.events.is_empty() {
        let Ok(()) = json::list(object.key("events"), &messages.events, to_device::write_event);
    }
    object.end();
    Ok(!messages.events.is_empty())
}

/// `M_INVALID_PARAM` if it is not a token of this extension.
pub fn since_of(token: Option<&str>) -> Result<Option<StreamPos>> {
    token.map(token::change).transpose()
}

/// `None` for one of a future that was lost, with a restored backup.
fn known_since(context: &Context<'_>, token: Option<&str>) -> Result<Option<StreamPos>> {
    Ok(since_of(token)?.filter(|since| !context.server.store.is_lost(*since, context.now)))
}

fn write_e2ee(context: &Context<'_>, out: &mut Vec<u8>) -> Result<bool> {
    let (user, device) = (context.user_id(), &*context.request.device_id);
    let mut object = Object::begin(out);
    let mut has_news = false;
    if context.since.is_some() {
        let changes = Changes::find(context)?;
        has_news = object.member_if("device_lists", |out| device_lists::write(context, &changes, out))?;
    }
    let (store, left_keys) = (&context.server.store, &context.server.left_keys);
    object.member("device_one_time_keys_count", &*left_keys.counts(store, context.snapshot, user, device)?);
    let unused = left_keys.fallback_types(store, context.snapshot, user, device)?;
    object.member("device_unused_fallback_key_types", &*unused);
    object.end();
    Ok(has_news)
}

fn write_account_data(context: &Context<'_>, part: &Part<'_>, seen: &[Seen<'_>], out: &mut Vec<u8>) -> Result<bool> {
    let global = account_data::global(context, context.since.filter(|_| !part.is_new))?;
    let mut by_room: BTreeMap<&OwnedRoomId, Vec<Datum>> = BTreeMap::new();
    for room in part.of(seen) {
        let after = part.after(room);
        // Who was up to date need not look where nothing changed.
        if after.is_some() && !room.was_away && !room.has_data {
            continue;
        }
        let data = account_data::read(context, room.nid, after)?;
        if !data.is_empty() {
            by_room.insert(&room.room_id, data);
        }
    }
    let has_news = !global.is_empty() || !by_room.is_empty();
    let mut object = Object::begin(out);
    if !global.is_empty() {
        let Ok(()) = json::list(object.key("global"), &global, account_data::write_event);
    }
    if !by_room.is_empty() {
        let mut rooms = Object::begin(object.key("rooms"));
        for (room_id, data) in &by_room {
            let Ok(()) = json::list(rooms.key(room_id.as_str()), data, account_data::write_event);
        }
        rooms.end();
    }
    object.end();
    Ok(has_news)
}

/// Of a room that the client did not know, the user's own receipts and those for the events that are told. Of one of which it is
/// told older events, these as well: they were left out before.
fn write_receipts(context: &Context<'_>, part: &Part<'_>, seen: &[Seen<'_>], out: &mut Vec<u8>) -> Result<bool> {
    write_ephemeral(part, seen, out, |room| {
        let after = part.after(room);
        // Most rooms that are looked at have an event and nothing else.
        if let Some(after) = after
            && !room.is_expanded
            && !context.may_have_changed::<ReceiptChanges>(Group::of(room.nid), after)
        {
            return Ok(None);
        }
        let all_after = after.filter(|_| !room.is_expanded);
        let mut receipts = ephemeral::receipts(context, &context.view(room.nid)?, all_after)?;
        let is_news = |row: &ephemeral::Row| after.is_some_and(|after| row.receipt.changed > after);
        let is_shown = |row: &ephemeral::Row| room.events.iter().any(|event| *event == row.receipt.event_id);
        receipts.retain(|row| row.is_of_event() && (is_news(row) || row.user_id == context.user_id() || is_shown(row)));
        // One event is all that there is a place for. Who has read two threads up to one event is told of the first,
        // which is none in particular if there is such a receipt.
        Ok(ephemeral::contents(receipts).into_iter().next().map(ephemeral::receipt_event))
    })
}

fn write_typing(context: &Context<'_>, part: &Part<'_>, seen: &[Seen<'_>], out: &mut Vec<u8>) -> Result<bool> {
    write_ephemeral(part, seen, out, |room| {
        // Somebody may have stopped while the client did not listen.
        let since = if room.was_away { Some(0) } else { context.ephemeral_since };
        ephemeral::typing(context, &context.view(room.nid)?, since.filter(|_| part.after(room).is_some()))
    })
}

/// The newest changes that the client has not seen; it asks for the others by `prev_batch`.
fn write_thread_subscriptions(
    context: &Context<'_>,
    config: &ThreadSubscriptions,
    is_new: bool,
    out: &mut Vec<u8>,
) -> Result<bool> {
    let after = context.since.filter(|_| !is_new).unwrap_or_default();
    if !context.may_have_changed::<ThreadSubscriptionChanges>(Group::of(context.user_id()), after) {
        return Ok(false);
    }
    let limit = config.limit.map_or(MAX_CHANGES, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let range = (after, context.now.next());
    let changes =
        thread_subscriptions::Changes::read(context.server, context.snapshot, context.user_id(), range, limit)?;
    let mut object = Object::begin(out);
    if !changes.subscribed.is_empty() {
        object.member("subscribed", &changes.subscribed);
    }
    if !changes.unsubscribed.is_empty() {
        object.member("unsubscribed", &changes.unsubscribed);
    }
    if let Some(next) = changes.next {
        object.member("prev_batch", &next.to_string());
    }
    let has_news = !object.is_empty();
    object.end();
    Ok(has_news)
}

/// Of a room that the client did not know, what all members say of themselves; of one whose members are loaded lazily, what
/// those say of whom the client learns. And what changed, whosever rooms these are.
fn write_profiles(
    context: &Context<'_>,
    config: &Profiles,
    part: &Part<'_>,
    seen: &[Seen<'_>],
    out: &mut Vec<u8>,
) -> Result<bool> {
    let wanted = config.fields.as_deref();
    let (lazy, whole): (Vec<_>, Vec<_>) = part
        .of(seen)
        .filter(|room| room.wanted.row.membership == Membership::Join)
        .partition(|room| room.wanted.config.required.is_lazy);
    let mut news = profiles::News::default();
    if let Some(since) = context.since.filter(|_| !part.is_new) {
        let changes = Changes::find(context)?;
        news = profiles::News::since(context, since, &changes, wanted)?;
        // Rooms that the user came into have their own place below.
        let lazy: HashSet<_> = lazy.iter().map(|room| room.nid).collect();
        let others = changes.joined.iter().filter(|room| room.after.is_some() && !lazy.contains(&room.nid));
        news.add_met(context, others, wanted)?;
    } else {
        news.add(context, context.user_id(), wanted)?;
    }
    for user in lazy.iter().flat_map(|room| &room.members) {
        news.add(context, user, wanted)?;
    }
    for room in whole.into_iter().filter(|room| part.after(room).is_none()) {
        news.add_members(context, &context.view(room.nid)?, wanted)?;
    }
    Ok(profiles::write_extension(&news, out))
}

/// The oldest that the client has not been told, by its own token, of the rooms of its lists and subscriptions.
fn write_sticky_events(
    context: &Context<'_>,
    config: &StickyEvents,
    listed: &BTreeMap<RoomNid, UserRoom>,
    selected: &Selected,
    seen: &[Seen<'_>],
    out: &mut Vec<u8>,
) -> Result<bool> {
    let since = known_since(context, config.since.as_deref())?;
    if context.snapshot.list::<sticky_events::StickyEvents>(&()).next().transpose()?.is_none() {
        return Ok(false); // as nearly always: none of a thousand rooms need be looked at
    }
    let subscribed = selected.rooms.iter().map(|(nid, wanted)| (nid, &wanted.row));
    let rooms: BTreeMap<_, _> = listed.iter().chain(subscribed).collect();
    let (mut all, mut others) = (Vec::new(), Vec::new());
    for (&nid, row) in rooms.into_iter().filter(|(_, row)| row.membership == Membership::Join) {
        // Who came in since gets them all, also those that are older than his token.
        let is_new = row.joined_at.is_none_or(|joined| since.is_some_and(|since| joined > since));
        let found = sticky::read(context, nid, since.filter(|_| !is_new))?.into_iter().map(|entry| (nid, entry));
        if is_new { all.extend(found) } else { others.extend(found) }
    }
    others.sort_by_key(|(_, entry)| entry.since);
    let limit = config.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(MAX_STICKY).clamp(1, MAX_STICKY);
    let is_more = others.len() > limit;
    others.truncate(limit);
    let next = others.last().map(|(_, entry)| entry.since).filter(|_| is_more).unwrap_or(context.now);

    let is_any = !all.is_empty() || !others.is_empty();
    let told: HashSet<_> = seen.iter().flat_map(|room| &room.events).collect();
    let mut by_room: BTreeMap<RoomNid, Vec<sticky::Entry>> = BTreeMap::new();
    for (nid, entry) in all.into_iter().chain(others).filter(|(_, entry)| !told.contains(&entry.event.event_id)) {
        by_room.entry(nid).or_default().push(entry);
    }
    let mut object = Object::begin(out);
    object.member("next_batch", &next.to_string());
    let mut rooms = Object::begin(object.key("rooms"));
    for (nid, entries) in &by_room {
        let view = context.view(*nid)?;
        sticky::write_events(context, &context.reader(&view)?, entries, rooms.key(view.room_id().as_str()))?;
    }
    rooms.end();
    object.end();
    Ok(is_any) // also if the timelines tell them all: the client's token must pass them
}

/// Writes an event for each room that the user is joined to, where `event` gives one.
fn write_ephemeral(
    part: &Part<'_>,
    seen: &[Seen<'_>],
    out: &mut Vec<u8>,
    event: impl Fn(&Seen<'_>) -> Result<Option<serde_json::Value>>,
) -> Result<bool> {
    let mut object = Object::begin(out);
    let mut rooms = Object::begin(object.key("rooms"));
    for room in part.of(seen).filter(|room| room.wanted.row.membership == Membership::Join) {
        if let Some(event) = event(room)? {
            rooms.member(room.room_id.as_str(), &event);
        }
    }
    let has_news = !rooms.is_empty();
    rooms.end();
    object.end();
    Ok(has_news)
}
