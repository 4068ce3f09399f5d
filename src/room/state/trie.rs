//! The state of a room as a persistent map from state keys to events: a radix trie of 16 branches whose nodes are
//! kept by a hash of what they hold. A changed state shares all untouched nodes with the one before, and equal states
//! are one root, whichever way they came about.
//!
//! State keys are numbered densely, so the trie is as high as its highest number needs: 5 levels for a million keys.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use quick_cache::sync::Cache;

use crate::{
    event::StateRoot,
    metrics::CacheUse,
    room::tables::StateNodes,
    store::{EventNid, Result, RoomNid, Snapshot, StateKeyNid, Transaction, Value},
};

const BITS: u32 = 4;
const BRANCHES: usize = 1 << BITS;

type Hash = [u8; 16];

/// One node, as it lies on disk and in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// The lowest level: events.
    Leaf([Option<EventNid>; BRANCHES]),
    /// All other levels: the hashes of the nodes below.
    Inner([Option<Hash>; BRANCHES]),
}

impl Node {
    fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(events) => events.iter().all(Option::is_none),
            Self::Inner(children) => children.iter().all(Option::is_none),
        }
    }

    /// The hash is over the room as well, though not over the height, which the node's kind and place give.
    fn hash(&self, room: RoomNid) -> Hash {
        let mut bytes = room.0.to_be_bytes().to_vec();
        self.write(&mut bytes);
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        hash
    }
}

/// On disk: kind, a bit per branch, and what the branches with a bit hold.
impl Value for Node {
    fn write(&self, out: &mut Vec<u8>) {
        fn body<const N: usize, T: Copy>(out: &mut Vec<u8>, kind: u8, branches: &[Option<T>], bytes: fn(T) -> [u8; N]) {
            let bit = |(i, branch): (usize, &Option<T>)| u16::from(branch.is_some()) << i;
            let present: u16 = branches.iter().enumerate().map(bit).sum();
            out.push(kind);
            out.extend_from_slice(&present.to_be_bytes());
            out.extend(branches.iter().flatten().flat_map(|&branch| bytes(branch)));
        }
        match self {
            Self::Leaf(events) => body(out, 0, events, |event| event.0.to_be_bytes()),
            Self::Inner(children) => body(out, 1, children, |hash| hash),
        }
    }

    fn read(version: u8, body: &[u8]) -> Result<Self, String> {
        fn branches<const N: usize, T>(
            present: u16,
            mut bytes: &[u8],
            of: fn([u8; N]) -> T,
        ) -> Option<[Option<T>; BRANCHES]> {
            let mut branches = [const { None }; BRANCHES];
            for i in (0..BRANCHES).filter(|i| present & 1 << i != 0) {
                let (first, rest) = bytes.split_first_chunk()?;
                branches[i] = Some(of(*first));
                bytes = rest;
            }
            bytes.is_empty().then_some(branches)
        }
        let wrong = || format!("not a state node of layout 1, but of {version}");
        let ([kind, high, low], rest) = body.split_first_chunk().ok_or_else(wrong)?;
        let present = u16::from_be_bytes([*high, *low]);
        match (version, kind) {
            (1, 0) => branches(present, rest, |b| EventNid(u32::from_be_bytes(b))).map(Self::Leaf),
            (1, 1) => branches(present, rest, |hash| hash).map(Self::Inner),
            _ => None,
        }
        .ok_or_else(wrong)
    }
}

/// The branch of `key` at `level`; level 0 is that of the leaves.
fn branch(key: StateKeyNid, level: u8) -> usize {
    (key.0 >> (BITS * u32::from(level))) as usize % BRANCHES
}

/// How many levels a trie needs to hold `key`.
fn height_for(key: StateKeyNid) -> u8 {
    let bits = (u32::BITS - key.0.leading_zeros()).max(1);
    u8::try_from(bits.div_ceil(BITS)).expect("32 bits are 8 levels")
}

/// How many nodes are kept in memory: all of a room of 100,000 members and of many smaller ones, at 400 bytes each at most.
const KNOWN_NODES: usize = 20_000;

/// Nodes that were read lately: each look-up in a large room passes those near the root. A node holds what its hash says,
/// so that none is ever out of date.
pub struct KnownNodes(Cache<(RoomNid, Hash), Arc<Node>>);

impl KnownNodes {
    pub fn cache_use(&self) -> CacheUse {
        CacheUse::of(&self.0)
    }
}

impl Default for KnownNodes {
    fn default() -> Self {
        Self(Cache::new(KNOWN_NODES))
    }
}

/// The tries of one room: those on disk, and changed ones that are not written yet.
pub struct Tries<'s> {
    snapshot: &'s Snapshot<'s>,
    known: &'s KnownNodes,
    room: RoomNid,
    made: HashMap<Hash, Arc<Node>>,
}

/// Nodes that were made and must be written with the roots that need them.
#[derive(Debug, Default)]
pub struct MadeNodes(Vec<(Hash, Arc<Node>)>);

impl MadeNodes {
    pub fn write(&self, tx: &mut Transaction<'_>, room: RoomNid) {
        for (hash, node) in &self.0 {
            tx.put::<StateNodes>(&(room, *hash), &**node);
        }
    }
}

/// A state key whose events differ: in the first state, and in the second.
pub type Difference = (StateKeyNid, Option<EventNid>, Option<EventNid>);

impl<'s> Tries<'s> {
    pub fn new(snapshot: &'s Snapshot<'s>, known: &'s KnownNodes, room: RoomNid) -> Self {
        Self { snapshot, known, room, made: HashMap::new() }
    }

    /// What must be written for the roots that `set` returned.
    pub fn into_made(self) -> MadeNodes {
        MadeNodes(self.made.into_iter().collect())
    }

    pub fn get(&self, root: StateRoot, key: StateKeyNid) -> Result<Option<EventNid>> {
        if root.height < height_for(key) {
            return Ok(None);
        }
        let mut hash = root.hash;
        for level in (0..root.height).rev() {
            match &*self.node(hash)? {
                Node::Leaf(events) => return Ok(events[branch(key, level)]),
                Node::Inner(children) => match children[branch(key, level)] {
                    Some(child) => hash = child,
                    None => return Ok(None),
                },
            }
        }
        Ok(None)
    }

    /// The root of `root` with `key` set to `event`, or removed.
    pub fn set(&mut self, root: StateRoot, key: StateKeyNid, event: Option<EventNid>) -> Result<StateRoot> {
        let mut root = root;
        while event.is_some() && root.height < height_for(key) {
            root = self.raise(root);
        }
        if root.height < height_for(key) {
            return Ok(root); // what is not there need not be removed
        }
        match self.set_below(Some(root.hash), root.height - 1, key, event)? {
            Some(hash) => self.lower(StateRoot { height: root.height, hash }),
            None => Ok(StateRoot::EMPTY),
        }
    }

    /// The root of the map `entries`, built from its leaves up: a large state makes no nodes that it does not keep.
    pub fn of(&mut self, entries: &BTreeMap<StateKeyNid, EventNid>) -> Result<StateRoot> {
        let Some((&last, _)) = entries.last_key_value() else { return Ok(StateRoot::EMPTY) };
        let mut leaves: BTreeMap<u32, [Option<EventNid>; BRANCHES]> = BTreeMap::new();
        for (&key, &event) in entries {
            leaves.entry(key.0 >> BITS).or_default()[branch(key, 0)] = Some(event);
        }
        let mut level: BTreeMap<u32, Hash> =
            leaves.into_iter().map(|(prefix, events)| (prefix, self.keep(Node::Leaf(events)))).collect();
        let height = height_for(last);
        for _ in 1..height {
            let mut above: BTreeMap<u32, [Option<Hash>; BRANCHES]> = BTreeMap::new();
            for (prefix, hash) in level {
                above.entry(prefix >> BITS).or_default()[prefix as usize % BRANCHES] = Some(hash);
            }
            level = above.into_iter().map(|(prefix, hashes)| (prefix, self.keep(Node::Inner(hashes)))).collect();
        }
        match level.pop_first() {
            Some((_, hash)) => self.lower(StateRoot { height, hash }),
            None => Ok(StateRoot::EMPTY),
        }
    }

    /// All keys and their events, in the order of the keys.
    pub fn list(&self, root: StateRoot) -> Result<Vec<(StateKeyNid, EventNid)>> {
        let differences = self.diff(StateRoot::EMPTY, root)?;
        Ok(differences.into_iter().filter_map(|(key, _, event)| Some((key, event?))).collect())
    }

    /// The keys whose events differ between two states. Reads only the nodes that the two do not share.
    pub fn diff(&self, a: StateRoot, b: StateRoot) -> Result<Vec<Difference>> {
        let mut out = Vec::new();
        let top = a.height.max(b.height);
        if top > 0 {
            self.diff_below(Side::of(a), Side::of(b), top - 1, 0, &mut out)?;
        }
        Ok(out)
    }

    fn diff_below(&self, a: Side, b: Side, level: u8, prefix: u32, out: &mut Vec<Difference>) -> Result<()> {
        if a == b {
            return Ok(());
        }
        let (a, b) = (self.open(a, level)?, self.open(b, level)?);
        for i in 0..BRANCHES {
            let prefix = prefix << BITS | u32::try_from(i).expect("there are 16 branches");
            if level == 0 {
                let (old, new) = (a.event(i), b.event(i));
                if old != new {
                    out.push((StateKeyNid(prefix), old, new));
                }
            } else {
                self.diff_below(a.child(i), b.child(i), level - 1, prefix, out)?;
            }
        }
        Ok(())
    }

    /// What a side of a comparison holds at `level`; a lower trie is the first branch of a higher one.
    fn open(&self, side: Side, level: u8) -> Result<Opened> {
        Ok(match side {
            Side::Nothing => Opened::Nothing,
            Side::Root(root) if root.height <= level => Opened::Below(root),
            Side::Root(StateRoot { hash, .. }) | Side::Node(hash) => Opened::Node(self.node(hash)?),
        })
    }

    fn node(&self, hash: Hash) -> Result<Arc<Node>> {
        let key = (self.room, hash);
        if let Some(node) = self.made.get(&hash).cloned().or_else(|| self.known.0.get(&key)) {
            return Ok(node);
        }
        let missing =
            || crate::store::Error::corrupt("state_nodes", &hash, "a state refers to it, but it is not there");
        let node = Arc::new(self.snapshot.get::<StateNodes>(&key)?.ok_or_else(missing)?);
        self.known.0.insert(key, Arc::clone(&node));
        Ok(node)
    }

    fn keep(&mut self, node: Node) -> Hash {
        let hash = node.hash(self.room);
        self.made.insert(hash, Arc::new(node));
        hash
    }

    fn set_below(
        &mut self,
        hash: Option<Hash>,
        level: u8,
        key: StateKeyNid,
        event: Option<EventNid>,
    ) -> Result<Option<Hash>> {
        let node = match hash {
            Some(hash) if hash != StateRoot::EMPTY.hash => (*self.node(hash)?).clone(),
            _ if level == 0 => Node::Leaf([None; BRANCHES]),
            _ => Node::Inner([None; BRANCHES]),
        };
        let node = match node {
            Node::Leaf(mut events) => {
                events[branch(key, level)] = event;
                Node::Leaf(events)
            }
            Node::Inner(mut children) => {
                let child = &mut children[branch(key, level)];
                *child = match (*child, event) {
                    (None, None) => None,
                    (below, event) => self.set_below(below, level - 1, key, event)?,
                };
                Node::Inner(children)
            }
        };
        Ok(if node.is_empty() { None } else { Some(self.keep(node)) })
    }

    /// The same map, one level higher.
    fn raise(&mut self, root: StateRoot) -> StateRoot {
        if root == StateRoot::EMPTY {
            return StateRoot { height: 1, hash: StateRoot::EMPTY.hash };
        }
        let mut children = [None; BRANCHES];
        children[0] = (root.hash != StateRoot::EMPTY.hash).then_some(root.hash);
        let hash = if children[0].is_some() { self.keep(Node::Inner(children)) } else { root.hash };
        StateRoot { height: root.height + 1, hash }
    }

    /// The same map, as low as it can be, so that equal maps have one root.
    fn lower(&self, mut root: StateRoot) -> Result<StateRoot> {
        while root.height > 1 {
            match &*self.node(root.hash)? {
                Node::Inner([Some(only), rest @ ..]) if rest.iter().all(Option::is_none) => {
                    root = StateRoot { height: root.height - 1, hash: *only };
                }
                _ => break,
            }
        }
        Ok(root)
    }
}

/// One of two tries that are compared, at some place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Nothing,
    /// A whole trie, perhaps lower than the other.
    Root(StateRoot),
    Node(Hash),
}

impl Side {
    fn of(root: StateRoot) -> Self {
        if root == StateRoot::EMPTY { Self::Nothing } else { Self::Root(root) }
    }
}

enum Opened {
    Nothing,
    Below(StateRoot),
    Node(Arc<Node>),
}

impl Opened {
    fn event(&self, i: usize) -> Option<EventNid> {
        match self {
            Self::Node(node) => match **node {
                Node::Leaf(events) => events[i],
                Node::Inner(_) => None,
            },
            _ => None,
        }
    }

    fn child(&self, i: usize) -> Side {
        match self {
            Self::Node(node) => match **node {
                Node::Inner(children) => children[i].map_or(Side::Nothing, Side::Node),
                Node::Leaf(_) => Side::Nothing,
            },
            Self::Below(root) if i == 0 => Side::Root(*root),
            _ => Side::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::store::{self, Store};

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&store::Options::for_tests(directory.path())).expect("a new database opens");
        (directory, store)
    }

    /// Sets every key, writes the nodes, and returns the root.
    fn build(store: &Store, base: StateRoot, entries: &BTreeMap<u32, u32>) -> StateRoot {
        let snapshot = store.snapshot();
        let known = KnownNodes::default();
        let mut tries = Tries::new(&snapshot, &known, RoomNid(1));
        let mut root = base;
        for (&key, &event) in entries {
            root = tries.set(root, StateKeyNid(key), Some(EventNid(event))).unwrap();
        }
        let made = tries.into_made();
        store
            .commit_blocking(move |tx| {
                made.write(tx, RoomNid(1));
                Ok::<_, store::Error>(())
            })
            .unwrap();
        root
    }

    fn read(store: &Store, root: StateRoot) -> BTreeMap<u32, u32> {
        let snapshot = store.snapshot();
        let entries = Tries::new(&snapshot, &KnownNodes::default(), RoomNid(1)).list(root).unwrap();
        entries.into_iter().map(|(key, event)| (key.0, event.0)).collect()
    }

    fn keys() -> impl Strategy<Value = u32> {
        prop_oneof![0..40u32, 0..5_000u32, any::<u32>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn a_trie_holds_what_was_set(entries in proptest::collection::btree_map(keys(), any::<u32>(), 0..60)) {
            let (_directory, store) = store();
            let root = build(&store, StateRoot::EMPTY, &entries);
            prop_assert_eq!(read(&store, root), entries.clone());
            let snapshot = store.snapshot();
            let known = KnownNodes::default();
            let tries = Tries::new(&snapshot, &known, RoomNid(1));
            for (&key, &event) in &entries {
                prop_assert_eq!(tries.get(root, StateKeyNid(key)).unwrap(), Some(EventNid(event)));
            }
        }

        #[test]
        fn equal_maps_are_one_root_however_they_came_about(
            entries in proptest::collection::btree_map(keys(), any::<u32>(), 0..40),
            passing in proptest::collection::btree_map(keys(), any::<u32>(), 0..40),
        ) {
            let (_directory, store) = store();
            let straight = build(&store, StateRoot::EMPTY, &entries);
            let detour = build(&store, build(&store, StateRoot::EMPTY, &passing), &entries);
            let snapshot = store.snapshot();
            let known = KnownNodes::default();
            let mut tries = Tries::new(&snapshot, &known, RoomNid(1));
            let mut root = detour;
            for key in passing.keys().filter(|key| !entries.contains_key(key)) {
                root = tries.set(root, StateKeyNid(*key), None).unwrap();
            }
            prop_assert_eq!(root, straight);
        }

        #[test]
        fn a_map_built_at_once_is_the_one_built_key_by_key(
            entries in proptest::collection::btree_map(keys(), any::<u32>(), 0..60),
        ) {
            let (_directory, store) = store();
            let stepwise = build(&store, StateRoot::EMPTY, &entries);
            let snapshot = store.snapshot();
            let known = KnownNodes::default();
            let mut tries = Tries::new(&snapshot, &known, RoomNid(1));
            let entries = entries.into_iter().map(|(key, event)| (StateKeyNid(key), EventNid(event))).collect();
            prop_assert_eq!(tries.of(&entries).unwrap(), stepwise);
        }

        #[test]
        fn a_difference_is_what_differs(
            a in proptest::collection::btree_map(keys(), 0..3u32, 0..60),
            b in proptest::collection::btree_map(keys(), 0..3u32, 0..60),
        ) {
            let (_directory, store) = store();
            let (left, right) = (build(&store, StateRoot::EMPTY, &a), build(&store, StateRoot::EMPTY, &b));
            let snapshot = store.snapshot();
            let found = Tries::new(&snapshot, &KnownNodes::default(), RoomNid(1)).diff(left, right).unwrap();
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).copied().collect();
            let expected: Vec<Difference> = keys
                .into_iter()
                .filter(|key| a.get(key) != b.get(key))
                .map(|key| (StateKeyNid(key), a.get(&key).copied().map(EventNid), b.get(&key).copied().map(EventNid)))
                .collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_node_survives_any_bytes(bytes: Vec<u8>) {
            let _ = Node::read(1, &bytes);
        }
    }

    #[test]
    fn one_change_of_a_large_state_writes_little() {
        let (_directory, store) = store();
        let root = build(&store, StateRoot::EMPTY, &(0..10_000).map(|key| (key, key)).collect());
        let snapshot = store.snapshot();
        let known = KnownNodes::default();
        let mut tries = Tries::new(&snapshot, &known, RoomNid(1));
        tries.set(root, StateKeyNid(7_777), Some(EventNid(1))).unwrap();
        let mut bytes = Vec::new();
        let made = tries.into_made();
        made.0.iter().for_each(|(_, node)| node.write(&mut bytes));
        assert_eq!(made.0.len(), 4, "one node a level");
        assert!(bytes.len() < 1024, "{} bytes", bytes.len());
    }

    #[test]
    fn what_was_looked_up_is_not_read_again() {
        let (_directory, store) = store();
        let root = build(&store, StateRoot::EMPTY, &(0..10_000).map(|key| (key, key)).collect());
        let (snapshot, known) = (store.snapshot(), KnownNodes::default());
        let get = |key| Tries::new(&snapshot, &known, RoomNid(1)).get(root, StateKeyNid(key)).unwrap();
        assert_eq!(get(7_777), Some(EventNid(7_777)));
        assert_eq!((known.cache_use().misses, known.cache_use().entries), (4, 4));
        assert_eq!(get(7_776), Some(EventNid(7_776)), "of the same leaf");
        assert_eq!(get(7_936), Some(EventNid(7_936)), "of another branch from the second node on");
        assert_eq!(known.cache_use().misses, 6);
    }
}
