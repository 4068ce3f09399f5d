//! Which state events of a room a client wants.

use std::collections::{BTreeMap, BTreeSet};

use ruma::UserId;
use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    event::StateRoot,
    room::{View, tables::StateKeys},
    store::{EventNid, StateKeyNid},
    sync::state::{self, MEMBER},
};

const ANY: &str = "*";

/// Pairs of event type and state key, as clients write them: each may be `*`; `$ME` stands for the user, and `$LAZY`
/// for the members whom the timeline shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequiredState {
    /// The state keys of each type.
    keys: BTreeMap<String, BTreeSet<String>>,
    /// Members come with the events that they sent. `*` for all types then does not mean theirs.
    pub is_lazy: bool,
}

impl RequiredState {
    pub fn new(pairs: Vec<(String, String)>, me: &UserId) -> Self {
        let mut wanted = Self::default();
        for (event_type, state_key) in pairs {
            if event_type == MEMBER && state_key == "$LAZY" {
                wanted.is_lazy = true;
                continue;
            }
            let state_key = if state_key == "$ME" { me.to_string() } else { state_key };
            wanted.keys.entry(event_type).or_default().insert(state_key);
        }
        wanted.is_lazy &= !wanted.has(MEMBER, ANY);
        wanted
    }

    /// Also what `other` wants.
    pub fn add(&mut self, other: &Self) {
        let has_all_members = self.has_all_members() || other.has_all_members();
        self.is_lazy = (self.is_lazy || other.is_lazy) && !has_all_members;
        for (event_type, state_keys) in &other.keys {
            self.keys.entry(event_type.clone()).or_default().extend(state_keys.iter().cloned());
        }
    }

    pub fn wants(&self, event_type: &str, state_key: &str) -> bool {
        self.has(event_type, state_key)
            || self.has(event_type, ANY)
            || self.has(ANY, state_key)
            || self.has(ANY, ANY) && !(self.is_lazy && event_type == MEMBER)
    }

    fn has(&self, event_type: &str, state_key: &str) -> bool {
        self.keys.get(event_type).is_some_and(|state_keys| state_keys.contains(state_key))
    }

    pub fn has_all_members(&self) -> bool {
        !self.is_lazy && self.has(ANY, ANY) || self.has(MEMBER, ANY)
    }

    /// The members whom it names.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        [MEMBER, ANY].into_iter().filter_map(move |kind| self.keys.get(kind)).flatten().map(String::as_str)
    }

    /// A number that no other wish has: it stands for this one in what is kept of each room.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[u8::from(self.is_lazy)]);
        let pairs = self.keys.iter().flat_map(|(kind, keys)| keys.iter().map(move |key| [kind.as_str(), key.as_str()]));
        for part in pairs.flatten() {
            hasher.update(&part.len().to_be_bytes());
            hasher.update(part.as_bytes());
        }
        let mut hash = [0; 8];
        hasher.finalize_xof().fill(&mut hash);
        u64::from_be_bytes(hash)
    }

    /// The wanted entries of a state that `had` did not want.
    pub fn select(&self, view: &View<'_>, root: StateRoot, had: &Self) -> Result<BTreeMap<StateKeyNid, EventNid>> {
        let mut selected = BTreeMap::new();
        if self.keys.contains_key(ANY) {
            let is_whole = !self.is_lazy || self.keys.contains_key(MEMBER);
            let all = if is_whole { view.state(root)? } else { state::without_members(view, root)? };
            for (key, event) in all {
                let name = view.state_key_name(key)?;
                if self.wants(&name.event_type, &name.state_key) && !had.wants(&name.event_type, &name.state_key) {
                    selected.insert(key, event);
                }
            }
            return Ok(selected);
        }
        let tries = view.tries();
        let mut take = |key: StateKeyNid| -> Result<()> {
            selected.extend(tries.get(root, key)?.map(|event| (key, event)));
            Ok(())
        };
        for (event_type, state_keys) in &self.keys {
            if state_keys.contains(ANY) {
                for row in view.snapshot.list::<StateKeys>(&(view.nid, event_type.as_str())) {
                    let row = row?;
                    if !had.wants(event_type, row.key()?.2) {
                        take(row.value)?;
                    }
                }
                continue;
            }
            for state_key in state_keys.iter().filter(|state_key| !had.wants(event_type, state_key)) {
                if let Some(key) = view.state_key_nid(event_type, state_key)? {
                    take(key)?;
                }
            }
        }
        Ok(selected)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn wanted(pairs: &[(&str, &str)]) -> RequiredState {
        let pairs = pairs.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned())).collect();
        RequiredState::new(pairs, user_id!("@me:x"))
    }

    #[test]
    fn wildcards_stand_for_types_and_keys() {
        let some = wanted(&[("a", "1"), ("b", "*"), ("*", "2")]);
        for (kind, key, expected) in
            [("a", "1", true), ("a", "3", false), ("b", "x", true), ("c", "2", true), ("c", "1", false)]
        {
            assert_eq!(some.wants(kind, key), expected, "{kind} {key}");
        }
        assert!(wanted(&[("*", "*")]).wants(MEMBER, "@a:x"));
        assert!(wanted(&[(MEMBER, "$ME")]).wants(MEMBER, "@me:x"));
    }

    #[test]
    fn lazy_members_are_left_out_of_everything() {
        let lazy = wanted(&[("*", "*"), (MEMBER, "$LAZY"), (MEMBER, "$ME")]);
        assert!(lazy.is_lazy && lazy.wants("a", "b") && !lazy.wants(MEMBER, "@a:x") && lazy.wants(MEMBER, "@me:x"));
        assert!(!wanted(&[(MEMBER, "*"), (MEMBER, "$LAZY")]).is_lazy);
    }

    #[test]
    fn two_wishes_together_are_all_that_either_wants() {
        let lazy = || wanted(&[("*", "*"), (MEMBER, "$LAZY")]);
        let cases: [(&[(&str, &str)], bool); 4] =
            [(&[("a", "b")], true), (&[("*", "*")], false), (&[(MEMBER, "*")], false), (&[(MEMBER, "@a:x")], true)];
        for (other, is_lazy) in cases {
            let (mut one, mut two) = (lazy(), wanted(other));
            one.add(&wanted(other));
            two.add(&lazy());
            assert_eq!(one, two, "{other:?}");
            assert_eq!(one.is_lazy, is_lazy, "{other:?}");
            assert_eq!(one.wants(MEMBER, "@b:x"), !is_lazy, "{other:?}");
        }
    }

    #[test]
    fn different_wishes_have_different_fingerprints() {
        let all = [wanted(&[]), wanted(&[("a", "b")]), wanted(&[("ab", "")]), wanted(&[(MEMBER, "$LAZY")])];
        let prints: BTreeSet<_> = all.iter().map(RequiredState::fingerprint).collect();
        assert_eq!(prints.len(), all.len());
        assert_eq!(wanted(&[("a", "b"), ("c", "d")]).fingerprint(), wanted(&[("c", "d"), ("a", "b")]).fingerprint());
    }
}
