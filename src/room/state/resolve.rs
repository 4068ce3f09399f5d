//! State resolution on what differs: the tries give the conflicted keys, the auth graph the auth difference; ruma is
//! given those, and the unconflicted entries that the authorization rules ask for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{StateResolutionV2Rules, StateResolutionVersion},
    state_res::{self, StateMap, utils::event_id_set::EventIdSet},
};

use super::{
    auth_chain::{self, EventSet},
    resolve_owned, resolve_v1,
    trie::Tries,
};
use crate::{
    error::{Error, Result},
    event::{
        Pdu, StateRoot,
        authorize::{Fallible, auth_types},
        rules::has_owned_state,
    },
    room::View,
    store::{self, EventNid, StateKeyNid},
};

/// The state that the room version makes of several. What must be written for the result is in `tries`.
pub fn resolve(view: &View<'_>, tries: &mut Tries<'_>, states: &[StateRoot]) -> Result<StateRoot> {
    let distinct: BTreeSet<StateRoot> = states.iter().copied().collect();
    let states: Vec<StateRoot> = distinct.into_iter().collect();
    let [first, others @ ..] = states.as_slice() else {
        return Ok(StateRoot::EMPTY);
    };
    if others.is_empty() {
        return Ok(*first);
    }
    let conflict = Conflict::find(view, tries, &states)?;
    let resolved = match &view.rules.state_res {
        StateResolutionVersion::V1 => conflict.resolve_v1(tries)?,
        StateResolutionVersion::V2(rules) if has_owned_state(view.rules) => conflict.resolve_owned(tries, rules)?,
        StateResolutionVersion::V2(rules) => conflict.resolve_v2(tries, rules)?,
        other => return Err(Error::internal(format!("state resolution {other:?} is not known"))),
    };
    let mut root = *first;
    for (&key, name) in &conflict.names {
        let event = chosen(&resolved, name);
        let event = event.map(|id| conflict.nid(id)).transpose()?;
        root = tries.set(root, key, event)?;
    }
    // What none of the states has any more and only the auth chains know can be allowed again; what all states agree on stays.
    for ((event_type, state_key), id) in &resolved {
        let Some(key) = view.state_key_nid(&event_type.to_string(), state_key)? else { continue };
        if !conflict.names.contains_key(&key) && tries.get(root, key)?.is_none() {
            root = tries.set(root, key, Some(conflict.nid(id)?))?;
        }
    }
    Ok(root)
}

type Name = (String, String);

/// What was resolved for a name. ruma takes some types for others, and answers with those.
fn chosen<'r>(resolved: &'r StateMap<OwnedEventId>, (event_type, state_key): &Name) -> Option<&'r OwnedEventId> {
    let of_type = |event_type: StateEventType| resolved.get(&(event_type, state_key.clone()));
    let other_type = || TimelineEventType::from(event_type.as_str()).to_string();
    of_type(event_type.as_str().into()).or_else(|| of_type(other_type().into()))
}

/// What several states disagree about.
struct Conflict<'v> {
    view: &'v View<'v>,
    states: Vec<StateRoot>,
    /// The keys that differ, with event type and state key.
    names: HashMap<StateKeyNid, Name>,
    /// The events of these keys, per state.
    events: Vec<HashMap<StateKeyNid, EventNid>>,
}

impl<'v> Conflict<'v> {
    fn find(view: &'v View<'v>, tries: &Tries<'_>, states: &[StateRoot]) -> Result<Self> {
        let mut keys = BTreeSet::new();
        for &other in &states[1..] {
            keys.extend(tries.diff(states[0], other)?.into_iter().map(|(key, ..)| key));
        }
        let mut names = HashMap::new();
        for &key in &keys {
            let name = view.state_key_name(key)?;
            names.insert(key, (name.event_type, name.state_key));
        }
        let mut events = Vec::new();
        for &state in states {
            let mut of_state = HashMap::new();
            for &key in &keys {
                of_state.extend(tries.get(state, key)?.map(|event| (key, event)));
            }
            events.push(of_state);
        }
        Ok(Self { view, states: states.to_vec(), names, events })
    }

    fn conflicted(&self) -> EventSet {
        EventSet::of(self.events.iter().flat_map(HashMap::values).copied())
    }

    fn nid(&self, event_id: &EventId) -> Result<EventNid> {
        let nid = self.view.event_nid(event_id)?;
        nid.ok_or_else(|| Error::internal(format!("state resolution chose the unknown event {event_id}")))
    }

    fn id_set(&self, events: impl Iterator<Item = EventNid>) -> store::Result<EventIdSet<OwnedEventId>> {
        events.map(|event| self.view.event_id(event)).collect()
    }

    /// The state maps that the resolution is given: the conflicted keys, and what all states agree on and the rules
    /// read when they judge one of `events`.
    fn state_maps(&self, tries: &Tries<'_>, events: &EventSet) -> Result<Vec<StateMap<OwnedEventId>>> {
        let mut asked: BTreeSet<Name> = BTreeSet::new();
        for event in events.iter() {
            let pdu = self.view.pdu(event)?;
            let state_key = pdu.state_key.as_deref();
            // An event of which the rules can't tell what they need is refused by them as well.
            let types = auth_types(&pdu.event_type, &pdu.sender, state_key, &pdu.content, self.view.rules);
            asked.extend(types.into_iter().flatten().map(|(event_type, key)| (event_type.to_string(), key)));
        }
        let mut agreed = StateMap::new();
        for (event_type, state_key) in asked {
            let Some(key) = self.view.state_key_nid(&event_type, &state_key)? else { continue };
            if self.names.contains_key(&key) {
                continue;
            }
            if let Some(event) = tries.get(self.states[0], key)? {
                agreed.insert((event_type.into(), state_key), self.view.event_id(event)?);
            }
        }
        self.events.iter().map(|conflicted| self.with_conflicted(agreed.clone(), conflicted)).collect()
    }

    fn with_conflicted(
        &self,
        mut map: StateMap<OwnedEventId>,
        conflicted: &HashMap<StateKeyNid, EventNid>,
    ) -> Result<StateMap<OwnedEventId>> {
        for (key, &event) in conflicted {
            let (event_type, state_key) = &self.names[key];
            map.insert((event_type.as_str().into(), state_key.clone()), self.view.event_id(event)?);
        }
        Ok(map)
    }

    /// The full auth chain of each state.
    fn auth_chains(&self, tries: &Tries<'_>) -> Result<Vec<EventSet>> {
        let mut chains = Vec::new();
        for &state in &self.states {
            chains.push(EventSet::of(tries.list(state)?.into_iter().map(|(_, event)| event)));
        }
        // NOTSPEC: the events of the state count as part of its chain, as they do for Synapse, whose verdict most of a
        // room's servers share. The specification names only the auth events of these.
        auth_chain::extend(self.view, &mut chains)?;
        Ok(chains)
    }

    /// What of each state's auth chain is not in those of all others.
    fn auth_differences(&self, tries: &Tries<'_>) -> Result<Vec<Vec<EventNid>>> {
        let chains = self.auth_chains(tries)?;
        let in_all = |event: &EventNid| chains.iter().all(|chain| chain.contains(*event));
        let differing = |chain: &EventSet| chain.iter().filter(|event| !in_all(event)).collect::<Vec<_>>();
        Ok(chains.iter().map(differing).collect())
    }

    fn resolve_v2(&self, tries: &Tries<'_>, rules: &StateResolutionV2Rules) -> Result<StateMap<OwnedEventId>> {
        let mut considered = self.conflicted();
        let subgraph = if rules.consider_conflicted_state_subgraph {
            auth_chain::between(self.view, &considered)?
        } else {
            EventSet::default()
        };
        let differences = self.auth_differences(tries)?;
        differences.iter().flatten().copied().chain(subgraph.iter()).for_each(|event| considered.insert(event));
        let maps = self.state_maps(tries, &considered)?;
        let differences: Vec<_> =
            differences.into_iter().map(|chain| self.id_set(chain.into_iter())).collect::<store::Result<_>>()?;
        let failed = Fallible::default();
        let resolved = state_res::resolve(
            &self.view.rules.authorization,
            rules,
            &maps,
            differences,
            |event_id: &EventId| failed.keep(self.fetch(event_id)),
            |_| failed.keep(self.id_set(subgraph.iter()).map(Some)),
        );
        failed.check(resolved)?.map_err(|e| Error::internal(format!("state resolution failed: {e}")))
    }

    /// Of rooms with owned state, whose rules ruma does not have. Of the versions of resolution they have the first.
    fn resolve_owned(&self, tries: &Tries<'_>, rules: &StateResolutionV2Rules) -> Result<StateMap<OwnedEventId>> {
        if rules.consider_conflicted_state_subgraph || rules.begin_iterative_auth_checks_with_empty_state_map {
            return Err(Error::internal("rooms with owned state are resolved by version 2.0 only"));
        }
        let mut considered = self.conflicted();
        self.auth_differences(tries)?.into_iter().flatten().for_each(|event| considered.insert(event));
        resolve_owned::resolve(self.view, &considered, |event_type, state_key| {
            let Some(key) = self.view.state_key_nid(&event_type.to_string(), state_key)? else { return Ok(None) };
            let event = if self.names.contains_key(&key) { None } else { tries.get(self.states[0], key)? };
            event.map(|event| self.view.pdu(event)).transpose()
        })
    }

    fn resolve_v1(&self, tries: &Tries<'_>) -> Result<StateMap<OwnedEventId>> {
        let mut conflicts: BTreeMap<_, BTreeSet<OwnedEventId>> = BTreeMap::new();
        for (key, &event) in self.events.iter().flatten() {
            let (event_type, state_key) = &self.names[key];
            let events = conflicts.entry((event_type.as_str().into(), state_key.clone())).or_default();
            events.insert(self.view.event_id(event)?);
        }
        // What some states lack is in no conflict here, other than in later versions.
        let mut agreed = StateMap::new();
        conflicts.retain(|key, events| match events.first().filter(|_| events.len() == 1) {
            Some(only) => {
                agreed.insert(key.clone(), only.clone());
                false
            }
            None => true,
        });
        let failed = Fallible::default();
        let resolved = resolve_v1::resolve(
            self.view.rules,
            &conflicts,
            |event_type, state_key| {
                let key = (event_type.clone(), state_key.to_owned());
                let read = || match agreed.get(&key) {
                    Some(event_id) => self.fetch(event_id),
                    None => self.view.state_pdu_in(tries, self.states[0], event_type, state_key),
                };
                if conflicts.contains_key(&key) { None } else { failed.keep(read()) }
            },
            |event_id| failed.keep(self.fetch(event_id)),
        );
        let mut resolved = failed.check(resolved)?;
        resolved.extend(agreed);
        Ok(resolved)
    }

    fn fetch(&self, event_id: &EventId) -> store::Result<Option<Arc<Pdu>>> {
        self.view.event_nid(event_id)?.map(|nid| self.view.pdu(nid)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_resolved_is_found_where_ruma_takes_its_type_for_another() {
        let name = ("org.matrix.call.sdp_stream_metadata_changed".to_owned(), String::new());
        let other = TimelineEventType::from(name.0.as_str()).to_string();
        assert_ne!(other, name.0);
        let id = OwnedEventId::try_from("$event").unwrap();
        let resolved = StateMap::from([((other.into(), String::new()), id.clone())]);
        assert_eq!(chosen(&resolved, &name), Some(&id));
    }
}
