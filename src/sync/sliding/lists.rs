//! Which rooms an answer is about: those in the ranges of the lists, and those that the client named.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use ruma::{OwnedRoomId, RoomId};

use super::{
    connection::Known,
    filters::{self, Filter},
    request::{Asked, List, RoomConfig},
};
use crate::{
    error::Result,
    room::{
        Membership,
        tables::{RoomIds, UserRoom},
    },
    store::{RoomNid, RoomPos},
    sync::{answer::Context, invited, user_rooms::UserRoomList},
};

/// What the lists and subscriptions come to.
#[derive(Debug, Default)]
pub struct Selected {
    /// How many rooms each list has, within its ranges or not.
    pub counts: BTreeMap<String, usize>,
    pub rooms: BTreeMap<RoomNid, Wanted>,
    /// All rooms of the lists, within their ranges or not; `None` if nobody asks for that.
    pub listed: Option<BTreeMap<RoomNid, UserRoom>>,
    /// The rooms that the user calls direct chats.
    pub direct: HashSet<OwnedRoomId>,
}

/// A room of which the client wants to hear.
#[derive(Debug)]
pub struct Wanted {
    pub row: UserRoom,
    pub config: Arc<RoomConfig>,
    /// The lists that it is in.
    pub lists: BTreeSet<String>,
    /// Its id, if the client named it.
    pub subscribed: Option<OwnedRoomId>,
}

/// A room that may be in lists.
struct Candidate {
    nid: RoomNid,
    row: UserRoom,
    order: RoomPos,
}

pub fn select(context: &Context<'_>, asked: &Asked, known: &Known) -> Result<Selected> {
    let mut selected = Selected { listed: asked.sticky_events.enabled.then(BTreeMap::new), ..Selected::default() };
    if asked.lists.is_empty() && asked.subscriptions.is_empty() {
        return Ok(selected);
    }
    let server = context.server;
    let all = server.user_rooms.get(&server.store, context.snapshot, context.user_id())?;
    let direct = filters::direct_rooms(context)?;
    if !asked.lists.is_empty() {
        let candidates = candidates(context, &all, known)?;
        for (name, list) in &asked.lists {
            let filter = Filter::new(context, &list.filters, &direct)?;
            let count = selected.add_list(context, name, list, &filter, &candidates)?;
            selected.counts.insert(name.clone(), count);
        }
    }
    selected.direct = direct;
    for (room_id, config) in &asked.subscriptions {
        let Ok(room_id) = RoomId::parse(room_id) else { continue };
        let Some(nid) = context.snapshot.get::<RoomIds>(&&*room_id)? else { continue };
        // Nothing about others: whoever is not in a room and was not does not learn whether it exists.
        if let Some(row) = all.get(nid).filter(|row| may_know(row) || known.sent(nid).is_some())
            && !is_unwanted_invite(context, nid, &row)?
        {
            selected.add(nid, row, config).subscribed = Some(room_id);
        }
    }
    Ok(selected)
}

impl Selected {
    fn add(&mut self, nid: RoomNid, row: UserRoom, config: &Arc<RoomConfig>) -> &mut Wanted {
        let new = || Wanted { row, config: Arc::clone(config), lists: BTreeSet::new(), subscribed: None };
        let wanted = self.rooms.entry(nid).or_insert_with(new);
        if !Arc::ptr_eq(&wanted.config, config) {
            Arc::make_mut(&mut wanted.config).add(config);
        }
        wanted
    }

    /// Adds the rooms in the ranges of a list; how many the list has in all.
    fn add_list(
        &mut self,
        context: &Context<'_>,
        name: &str,
        list: &List,
        filter: &Filter<'_>,
        candidates: &[Candidate],
    ) -> Result<usize> {
        let is_open = filter.is_open();
        let mut count = 0;
        for Candidate { nid, row, .. } in candidates {
            if !is_open && !filter.allows(context, *nid, row)? {
                continue;
            }
            let is_in = |&(first, last): &(usize, usize)| (first..=last).contains(&count);
            if list.ranges.as_ref().is_none_or(|ranges| ranges.iter().any(is_in)) {
                self.add(*nid, *row, &list.config).lists.insert(name.to_owned());
            }
            if let Some(listed) = &mut self.listed {
                listed.insert(*nid, *row);
            }
            count += 1;
        }
        Ok(count)
    }
}

/// The rooms that lists may have, the one of the last event first.
fn candidates(context: &Context<'_>, all: &UserRoomList, known: &Known) -> Result<Vec<Candidate>> {
    let mut rooms = Vec::with_capacity(all.rooms.len());
    for &(nid, row) in &all.rooms {
        let may_be_listed = known.sent(nid).is_some() || is_listed(context, nid, &row)?;
        if may_be_listed && !is_unwanted_invite(context, nid, &row)? {
            rooms.push((nid, row));
        }
    }
    let last = context.server.activities.last(context, rooms.iter().map(|(nid, _)| *nid))?;
    let mut candidates = Vec::with_capacity(rooms.len());
    for ((nid, row), last) in std::iter::zip(rooms, last) {
        // Who is not in a room does not learn when something happens there.
        let order = if row.membership == Membership::Join { last } else { row.since.into() };
        candidates.push(Candidate { nid, row, order });
    }
    candidates.sort_unstable_by_key(|candidate| Reverse((candidate.order, candidate.nid)));
    Ok(candidates)
}

/// Whether a room of which the client has not heard is in lists: not if the user left it himself.
fn is_listed(context: &Context<'_>, nid: RoomNid, row: &UserRoom) -> Result<bool> {
    Ok(match row.membership {
        Membership::Join | Membership::Invite | Membership::Knock => true,
        Membership::Ban => may_know(row),
        Membership::Leave => may_know(row) && context.view(nid)?.pdu(row.event)?.sender != context.user_id(),
    })
}

/// Whether the user is invited to a room by somebody whose invites he is not shown: nothing of it is told, even if the
/// client has heard of the room before.
fn is_unwanted_invite(context: &Context<'_>, nid: RoomNid, row: &UserRoom) -> Result<bool> {
    Ok(row.membership == Membership::Invite
        && !invited::is_wanted(context.server, &context.view(nid)?, context.user_id(), row)?)
}

/// Whether the user is in the room, is to come in, or was in it.
fn may_know(row: &UserRoom) -> bool {
    match row.membership {
        Membership::Join | Membership::Invite | Membership::Knock => true,
        Membership::Leave | Membership::Ban => row.joined_at.is_some() && !row.is_forgotten,
    }
}
