//! Auth chains. An event's number is higher than those of its auth events, so that one walk from the highest number down
//! finds the chains of any number of events, in time linear in the room's state events whatever graph a peer builds.

use crate::{
    room::{View, tables},
    store::{EventNid, Result, Scan},
};

/// A set of event numbers of one room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventSet(Vec<u64>);

impl EventSet {
    pub fn of(events: impl IntoIterator<Item = EventNid>) -> Self {
        let mut set = Self::default();
        events.into_iter().for_each(|event| set.insert(event));
        set
    }

    pub fn insert(&mut self, event: EventNid) {
        let (word, bit) = place(event);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    pub fn contains(&self, event: EventNid) -> bool {
        let (word, bit) = place(event);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    pub fn max(&self) -> Option<EventNid> {
        let word = self.0.iter().rposition(|&bits| bits != 0)?;
        let bit = u64::BITS - 1 - self.0[word].leading_zeros();
        Some(EventNid(u32::try_from(word).ok()? * u64::BITS + bit))
    }

    pub fn iter(&self) -> impl Iterator<Item = EventNid> + '_ {
        let bits = |&bits: &u64| (0..u64::BITS).filter(move |bit| bits & 1 << bit != 0);
        (0u32..).zip(&self.0).flat_map(move |(word, set)| bits(set).map(move |bit| EventNid(word * u64::BITS + bit)))
    }
}

fn place(event: EventNid) -> (usize, u64) {
    ((event.0 / u64::BITS) as usize, 1 << (event.0 % u64::BITS))
}

/// Adds to each of `sets` the auth chains of the events in it. Reads the edges once for all of them.
pub fn extend(view: &View<'_>, sets: &mut [EventSet]) -> Result<()> {
    let Some(last) = sets.iter().filter_map(EventSet::max).max() else {
        return Ok(());
    };
    if let Some(pending) = view.pending() {
        follow(sets, pending.nid, &pending.auth_edges); // it has the highest number of all
    }
    let edges = Scan::range::<tables::AuthEdges>(&view.nid, &(view.nid, EventNid(last.0 + 1))).backward();
    for row in view.snapshot.scan::<tables::AuthEdges>(edges) {
        let row = row?;
        let (_, event) = row.key()?;
        follow(sets, event, &row.value.0);
    }
    Ok(())
}

/// The auth chains of state events: without the events themselves, unless one is in the chain of another.
pub fn chain_of(view: &View<'_>, events: &EventSet) -> Result<EventSet> {
    let mut chain = EventSet::default();
    let Some(last) = events.max() else { return Ok(chain) };
    let edges = Scan::range::<tables::AuthEdges>(&view.nid, &(view.nid, EventNid(last.0 + 1))).backward();
    for row in view.snapshot.scan::<tables::AuthEdges>(edges) {
        let row = row?;
        let (_, event) = row.key()?;
        if events.contains(event) || chain.contains(event) {
            row.value.0.iter().for_each(|&auth_event| chain.insert(auth_event));
        }
    }
    Ok(chain)
}

/// Adds the auth events of `event` to the sets that hold it.
fn follow(sets: &mut [EventSet], event: EventNid, auth_events: &[EventNid]) {
    for set in sets.iter_mut().filter(|set| set.contains(event)) {
        auth_events.iter().for_each(|&auth_event| set.insert(auth_event));
    }
}

/// The events on any path of the auth graph from one event of `ends` to another, those included.
///
/// <https://spec.matrix.org/v1.19/rooms/v12/#definitions> (conflicted state subgraph)
pub fn between(view: &View<'_>, ends: &EventSet) -> Result<EventSet> {
    let mut chains = [ends.clone()];
    extend(view, &mut chains)?;
    let [ancestors] = chains;
    let mut between = ends.clone();
    let (Some(first), Some(last)) = (ends.iter().next(), ends.max()) else {
        return Ok(between);
    };
    let edges = Scan::range::<tables::AuthEdges>(&(view.nid, first), &(view.nid, EventNid(last.0 + 1)));
    let mut visit = |event: EventNid, auth_events: &[EventNid]| {
        if ancestors.contains(event) && auth_events.iter().any(|&auth_event| between.contains(auth_event)) {
            between.insert(event);
        }
    };
    for row in view.snapshot.scan::<tables::AuthEdges>(edges) {
        let row = row?;
        visit(row.key()?.1, &row.value.0);
    }
    if let Some(pending) = view.pending() {
        visit(pending.nid, &pending.auth_edges);
    }
    Ok(between)
}
