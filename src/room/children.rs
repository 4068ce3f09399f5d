//! The events that relate to another, page by page.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#relationships-api>

use std::collections::{BTreeMap, HashSet};

use ruma::{EventId, OwnedEventId};

use super::{
    history::{self, MAX_LIMIT, event_not_found},
    relations::{Related, Relations},
    show::Reader,
    timeline::{self, Entry, Page},
};
use crate::{
    error::Result,
    store::{self, Direction, RoomPos, Row, Scan},
};

/// How many relations are followed from an event: those of its relations, and of these. Source: the specification names
/// this as the least.
pub const MAX_DEPTH: usize = 3;

/// How many events are looked at for one page, and how many relations for a page of mixed ones. A page that ends early
/// has a token to go on with.
const MAX_EVENTS: usize = 5_000;
const MAX_RELATIONS: usize = 20_000;

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Request<'q> {
    pub parent: &'q EventId,
    pub rel_type: Option<&'q str>,
    pub event_type: Option<&'q str>,
    /// Where to begin; `None` for the end of the timeline that `direction` comes from.
    pub from: Option<RoomPos>,
    /// Where to stop.
    pub to: Option<RoomPos>,
    pub direction: Direction,
    pub limit: usize,
    /// Whether to follow the relations of relations too.
    pub is_recursive: bool,
}

/// The place of a relating event, and what is known of it.
type Child = (RoomPos, Related);

/// The events that relate to one that the reader may see; `M_NOT_FOUND` if he may not. Those of users he ignores are
/// left out.
pub fn list(reader: &Reader<'_, '_>, newest: RoomPos, request: &Request<'_>) -> Result<Page> {
    history::visible(reader, request.parent)?.ok_or_else(event_not_found)?;
    let newest = newest.min(reader.sight.horizon()?);
    let (after, until) = match request.direction {
        Direction::Forward => (request.from.unwrap_or(RoomPos::MIN), request.to.unwrap_or(newest).min(newest)),
        Direction::Backward => (request.to.unwrap_or(RoomPos::MIN), request.from.unwrap_or(newest).min(newest)),
    };
    match request.rel_type.filter(|_| !request.is_recursive) {
        Some(rel_type) => page(reader, request, of_type(reader, request, rel_type, after, until)),
        None => {
            let all = mixed(reader, request)?;
            let in_range = all.into_iter().filter(|(pos, _)| *pos > after && *pos <= until).map(Ok);
            match request.direction {
                Direction::Forward => page(reader, request, in_range),
                Direction::Backward => page(reader, request, in_range.rev()),
            }
        }
    }
}

/// The relations of one type after `after`, up to and with `until`, in the order asked for.
fn of_type<'r>(
    reader: &'r Reader<'_, '_>,
    request: &'r Request<'_>,
    rel_type: &'r str,
    after: RoomPos,
    until: RoomPos,
) -> impl Iterator<Item = store::Result<Child>> + 'r {
    let room = reader.view().nid;
    let place = |pos: RoomPos| (room, request.parent, rel_type, RoomPos(pos.0.saturating_add(1)));
    // With an empty range (the client's tokens may be of any order) the bounds would be the wrong way round.
    let scan = Scan::range::<Relations>(&place(after), &place(until.max(after)));
    let scan = if request.direction == Direction::Backward { scan.backward() } else { scan };
    reader.view().snapshot.scan::<Relations>(scan).map(child)
}

/// The relations of all types, and those of relations if so asked, in the order of the room.
fn mixed(reader: &Reader<'_, '_>, request: &Request<'_>) -> Result<Vec<Child>> {
    let view = reader.view();
    let depth = if request.is_recursive { MAX_DEPTH } else { 1 };
    let mut seen = HashSet::from([request.parent.to_owned()]);
    let mut parents: Vec<OwnedEventId> = vec![request.parent.to_owned()];
    let mut children = BTreeMap::new();
    let mut looked_at = 0;
    for level in 1..=depth {
        let mut next = Vec::new();
        for parent in &parents {
            for row in view.snapshot.list::<Relations>(&(view.nid, &**parent)) {
                let row = row?;
                looked_at += 1;
                if looked_at > MAX_RELATIONS {
                    return Ok(children.into_iter().collect());
                }
                let (_, _, rel_type, pos) = row.key()?;
                if request.rel_type.is_none_or(|wanted| wanted == rel_type) {
                    children.insert(pos, row.value.clone());
                }
                if level < depth {
                    let event_id = view.event_id(row.value.event)?;
                    next.extend(Some(event_id).filter(|event_id| seen.insert(event_id.clone())));
                }
            }
        }
        parents = next;
    }
    Ok(children.into_iter().collect())
}

fn child(row: store::Result<Row<Relations>>) -> store::Result<Child> {
    let row = row?;
    let (_, _, _, pos) = row.key()?;
    Ok((pos, row.value.clone()))
}

/// The first of `children` that the reader may see and asked for.
fn page(
    reader: &Reader<'_, '_>,
    request: &Request<'_>,
    children: impl Iterator<Item = store::Result<Child>>,
) -> Result<Page> {
    let limit = request.limit.min(MAX_LIMIT);
    let mut entries = Vec::new();
    let (mut looked_at, mut bytes) = (0, 0);
    for child in children {
        let (pos, related) = child?;
        if request.event_type.is_some_and(|wanted| wanted != related.event_type) {
            continue;
        }
        if looked_at == MAX_EVENTS {
            return Ok(Page { entries, next: Some(timeline::ahead_of(pos, request.direction)) });
        }
        looked_at += 1;
        let (nid, event) = (related.event, reader.view().event(related.event)?);
        if reader.ignored()?.hides(&event) || !reader.sight.may_see(nid, &event)? {
            continue;
        }
        if entries.len() == limit || bytes >= timeline::PAGE_BYTES {
            return Ok(Page { entries, next: Some(timeline::ahead_of(pos, request.direction)) });
        }
        bytes += event.common.len();
        entries.push(Entry { pos, nid, event });
    }
    Ok(Page { entries, next: None })
}
