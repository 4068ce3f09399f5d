//! A walk through a tree of replies, by reading only. It goes as far as what is here; where something is missing that
//! other servers may have, it says so.

use std::{
    cmp::Reverse,
    collections::{HashSet, VecDeque},
};

use ruma::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};

use super::{
    children_of, parent_of,
    told::{self, MAX_COUNTED, Summary},
};
use crate::{
    error::{Error, Result},
    event::StoredEvent,
    room::{View, read::Found},
    store::{self, EventNid},
};

/// How many events a page has at most, and unless it is to have fewer.
pub const MAX_LIMIT: u64 = 100;
/// How many events are looked at for one page.
const MAX_LOOKED_AT: usize = 5_000;
/// How many children are read for the numbers of children that a page tells.
const MAX_SUMMARIZED: usize = 20_000;
/// How many events may wait to be looked at in one walk.
const MAX_WAITING: usize = 10_000;

/// What is asked for, by a client or by another server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    pub event_id: OwnedEventId,
    /// A hint at who may have the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<OwnedRoomId>,
    /// How far from the event; negative for any distance.
    #[serde(default = "max_depth")]
    pub max_depth: i64,
    /// How many children of each event; negative for all.
    #[serde(default = "max_breadth")]
    pub max_breadth: i64,
    #[serde(default = "max_limit")]
    pub limit: u64,
    #[serde(default)]
    pub depth_first: bool,
    #[serde(default = "is_recent_first")]
    pub recent_first: bool,
    #[serde(default)]
    pub include_parent: bool,
    #[serde(default)]
    pub include_children: bool,
    #[serde(default)]
    pub direction: Direction,
    /// Where to go on; empty to begin.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub batch: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the events that an event replies to.
    Up,
    /// To the replies.
    #[default]
    Down,
}

// As the proposal has them.
const fn max_depth() -> i64 {
    3
}

const fn max_breadth() -> i64 {
    10
}

const fn max_limit() -> u64 {
    MAX_LIMIT
}

const fn is_recent_first() -> bool {
    true
}

impl Query {
    /// The same question about another page.
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        let walk = |query: &Self| Self { room_id: None, limit: 0, batch: String::new(), ..query.clone() };
        walk(self) == walk(other)
    }
}

/// Who is told the tree.
pub trait Viewer {
    fn view(&self) -> &View<'_>;
    fn may_see(&self, nid: EventNid, event: &StoredEvent) -> Result<bool>;
    /// Whether he may know what other servers say of an event: how many children it has, whoever may see those.
    fn may_hear_of(&self, event: &StoredEvent) -> Result<bool>;
}

/// Where a walk has come to.
#[derive(Clone, Debug)]
pub struct Walk {
    pub query: Query,
    waiting: VecDeque<Waiting>,
    /// The events that were told, or found not to be for this viewer.
    met: HashSet<EventNid>,
    /// The events from which the walk went on.
    passed: HashSet<EventNid>,
    /// More waited than a walk remembers.
    is_cut: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    event: EventNid,
    /// How far it is from where the walk began; `None` if the walk does not go on from it.
    depth: Option<i64>,
}

/// A part of the tree, those nearest to the beginning first.
pub struct Page {
    pub events: Vec<(Found, Summary)>,
    /// Where the walk goes on; `None` if it is at its end.
    pub rest: Option<Box<Walk>>,
    pub is_limited: bool,
}

/// How far a walk came.
pub enum Step {
    Page(Page),
    /// This event, which is not here, or the children of this one are to be asked for first.
    Missing(OwnedEventId),
}

/// What is already known to be missing.
#[derive(Clone, Copy)]
pub enum Missing<'m> {
    /// These were asked for, and are passed by now.
    AllBut(&'m HashSet<OwnedEventId>),
    /// Nobody is asked.
    All,
}

impl Missing<'_> {
    pub fn is_to_be_asked_for(self, id: &OwnedEventId) -> bool {
        match self {
            Self::AllBut(asked) => !asked.contains(id),
            Self::All => false,
        }
    }
}

/// Why a walk ends for now.
enum Stop {
    Missing(OwnedEventId),
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<store::Error> for Stop {
    fn from(error: store::Error) -> Self {
        Self::Error(error.into())
    }
}

/// The first page of a walk from `start`, which `viewer` may see, or the next page of `rest`.
pub fn page(viewer: &impl Viewer, mut walk: Walk, limit: usize, missing: Missing<'_>) -> Result<Step> {
    let mut events = Vec::new();
    match walk.go_on(viewer, limit, missing, &mut events) {
        Ok(()) => {}
        Err(Stop::Missing(id)) => return Ok(Step::Missing(id)),
        Err(Stop::Error(error)) => return Err(error),
    }
    let is_limited = !walk.waiting.is_empty() || walk.is_cut;
    let mut budget = MAX_SUMMARIZED;
    let mut with_summaries = Vec::with_capacity(events.len());
    for found in events {
        let summary = summary(viewer, &found, &mut budget)?;
        with_summaries.push((found, summary));
    }
    let rest = Some(walk).filter(|walk| !walk.waiting.is_empty()).map(Box::new);
    Ok(Step::Page(Page { events: with_summaries, rest, is_limited }))
}

impl Walk {
    /// A walk that begins with the event of the query.
    pub fn begin(viewer: &impl Viewer, query: Query, start: EventNid, missing: Missing<'_>) -> Result<WalkOrMissing> {
        let mut walk = Self {
            query,
            waiting: VecDeque::from([Waiting { event: start, depth: None }]),
            met: HashSet::new(),
            passed: HashSet::new(),
            is_cut: false,
        };
        match walk.wait_for_the_nearest(viewer, start, missing) {
            Ok(()) => {
                walk.waiting.push_back(Waiting { event: start, depth: Some(0) });
                Ok(WalkOrMissing::Walk(Box::new(walk)))
            }
            Err(Stop::Missing(id)) => Ok(WalkOrMissing::Missing(id)),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    /// The parent and the children of the first event, if they are wanted whichever way the walk goes.
    fn wait_for_the_nearest(
        &mut self,
        viewer: &impl Viewer,
        start: EventNid,
        missing: Missing<'_>,
    ) -> std::result::Result<(), Stop> {
        let mut nearest = Vec::new();
        if self.query.include_parent {
            nearest.extend(parent(viewer, start, missing)?);
        }
        if self.query.include_children {
            nearest.extend(self.children(viewer, start, missing)?);
        }
        self.waiting.extend(nearest.into_iter().map(|event| Waiting { event, depth: None }));
        Ok(())
    }

    /// Goes on until `limit` events are found, or nothing is left.
    fn go_on(
        &mut self,
        viewer: &impl Viewer,
        limit: usize,
        missing: Missing<'_>,
        found: &mut Vec<Found>,
    ) -> std::result::Result<(), Stop> {
        let mut looked_at = 0;
        while let Some(&next) = self.waiting.front() {
            if !self.met.contains(&next.event) {
                if looked_at == MAX_LOOKED_AT {
                    return Ok(());
                }
                looked_at += 1;
                let event = viewer.view().event(next.event)?;
                if viewer.may_see(next.event, &event)? {
                    if found.len() == limit {
                        return Ok(());
                    }
                    found.push((next.event, event));
                } else {
                    self.passed.insert(next.event); // nor is there a way through it
                }
                self.met.insert(next.event);
            }
            self.waiting.pop_front();
            let Some(depth) = next.depth.filter(|_| self.passed.insert(next.event)) else { continue };
            if self.query.max_depth >= 0 && depth >= self.query.max_depth {
                continue;
            }
            let further: Vec<EventNid> = match self.query.direction {
                Direction::Up => parent(viewer, next.event, missing)?.into_iter().collect(),
                Direction::Down => {
                    let breadth = usize::try_from(self.query.max_breadth).unwrap_or(usize::MAX);
                    self.children(viewer, next.event, missing)?.into_iter().take(breadth).collect()
                }
            };
            let further = further.into_iter().map(|event| Waiting { event, depth: Some(depth + 1) });
            if self.query.depth_first {
                further.rev().for_each(|waiting| self.waiting.push_front(waiting));
            } else {
                self.waiting.extend(further);
            }
            self.is_cut |= self.waiting.len() > MAX_WAITING;
            self.waiting.truncate(MAX_WAITING);
        }
        Ok(())
    }

    /// The children of an event, in the order that is asked for.
    fn children(
        &self,
        viewer: &impl Viewer,
        event: EventNid,
        missing: Missing<'_>,
    ) -> std::result::Result<Vec<EventNid>, Stop> {
        let view = viewer.view();
        let id = view.event_id(event)?;
        if missing.is_to_be_asked_for(&id) && told::has_unexplored(view, event, &id)? {
            return Err(Stop::Missing(id));
        }
        let mut children = children_of(view, &id, MAX_COUNTED)?;
        let age = |child: &(EventNid, super::Child)| (child.1.origin_server_ts, child.0);
        match self.query.recent_first {
            true => children.sort_by_key(|child| Reverse(age(child))),
            false => children.sort_by_key(age),
        }
        Ok(children.into_iter().map(|(event, _)| event).collect())
    }
}

/// A walk that has begun, or what is missing for it.
pub enum WalkOrMissing {
    Walk(Box<Walk>),
    Missing(OwnedEventId),
}

/// The parent of an event, if it is here.
fn parent(viewer: &impl Viewer, event: EventNid, missing: Missing<'_>) -> std::result::Result<Option<EventNid>, Stop> {
    let Some(parent) = parent_of(viewer.view(), event)? else { return Ok(None) };
    match viewer.view().event_nid(&parent)? {
        None if missing.is_to_be_asked_for(&parent) => Err(Stop::Missing(parent)),
        here => Ok(here),
    }
}

/// How many children an event has: of those that are here the ones that the viewer may see, or what other servers say, if
/// that is more.
fn summary(viewer: &impl Viewer, (nid, event): &Found, budget: &mut usize) -> Result<Summary> {
    let view = viewer.view();
    let children = children_of(view, &event.event_id, (*budget).min(MAX_COUNTED))?;
    *budget = budget.saturating_sub(children.len());
    let mut visible = Vec::new();
    for (nid, child) in children {
        let event = view.event(nid)?;
        if viewer.may_see(nid, &event)? {
            visible.push((event.event_id, child.rel_type));
        }
    }
    let here = Summary::of(visible);
    Ok(match told::told(view, *nid)? {
        Some(told) if told.summary.total() > here.total() && viewer.may_hear_of(event)? => told.summary,
        _ => here,
    })
}
