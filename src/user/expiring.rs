//! What lives for minutes, in memory: sessions of user-interactive authentication, login tokens, nonces. A restart
//! forgets it, and a client then starts over.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Looking a secret up by its hash takes as long whatever of it is right.
type Hash = [u8; 32];

/// Values found by a secret text, each for a limited time. At most `capacity` are kept: the oldest make room.
pub struct Expiring<V> {
    lifetime_ms: u64,
    capacity: usize,
    rows: Mutex<Rows<V>>,
}

struct Rows<V> {
    values: HashMap<Hash, V>,
    /// The keys of `values` and when they end, oldest first: all live equally long.
    ends: VecDeque<(u64, Hash)>,
}

impl<V> Expiring<V> {
    pub fn new(lifetime: Duration, capacity: usize) -> Self {
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        let rows = Rows { values: HashMap::new(), ends: VecDeque::new() };
        Self { lifetime_ms, capacity, rows: Mutex::new(rows) }
    }

    pub fn insert(&self, now_ms: u64, key: &str, value: V) {
        let mut rows = self.rows.lock();
        rows.forget_ended(now_ms);
        if rows.ends.len() >= self.capacity
            && let Some((_, oldest)) = rows.ends.pop_front()
        {
            rows.values.remove(&oldest);
        }
        let hash = hash(key);
        rows.values.insert(hash, value);
        rows.ends.push_back((now_ms.saturating_add(self.lifetime_ms), hash));
    }

    /// As [`Self::insert`]. Of the values that `is_alike` finds, this one included, at most `most` are kept: so one user
    /// pushes out nothing but what is his.
    pub fn insert_among(&self, now_ms: u64, key: &str, value: V, most: usize, is_alike: impl Fn(&V) -> bool) {
        {
            let Rows { values, ends } = &mut *self.rows.lock();
            let alike: Vec<_> =
                ends.iter().map(|(_, hash)| *hash).filter(|hash| values.get(hash).is_some_and(&is_alike)).collect();
            for hash in &alike[..(alike.len() + 1).saturating_sub(most)] {
                values.remove(hash);
            }
            ends.retain(|(_, hash)| values.contains_key(hash));
        }
        self.insert(now_ms, key, value);
    }

    /// What `read` makes of the value; `None` if there is none or its time is over.
    pub fn with<R>(&self, now_ms: u64, key: &str, read: impl FnOnce(&mut V) -> R) -> Option<R> {
        let mut rows = self.rows.lock();
        rows.forget_ended(now_ms);
        rows.values.get_mut(&hash(key)).map(read)
    }

    /// Removes the value and returns it: of two callers, one gets it.
    pub fn take(&self, now_ms: u64, key: &str) -> Option<V> {
        let mut rows = self.rows.lock();
        rows.forget_ended(now_ms);
        let hash = hash(key);
        let value = rows.values.remove(&hash)?;
        rows.ends.retain(|(_, other)| *other != hash);
        Some(value)
    }

    /// Removes the values that `keep` refuses.
    pub fn retain(&self, keep: impl Fn(&V) -> bool) {
        let Rows { values, ends } = &mut *self.rows.lock();
        values.retain(|_, value| keep(value));
        ends.retain(|(_, hash)| values.contains_key(hash));
    }
}

impl<V> Rows<V> {
    fn forget_ended(&mut self, now_ms: u64) {
        while let Some((_, hash)) = self.ends.pop_front_if(|(end, _)| *end <= now_ms) {
            self.values.remove(&hash);
        }
    }
}

fn hash(key: &str) -> Hash {
    Sha256::digest(key).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_with_its_time_and_is_taken_once() {
        let values = Expiring::new(Duration::from_millis(100), 10);
        values.insert(0, "a", 1);
        values.insert(50, "b", 2);
        assert_eq!(values.with(99, "a", |v| *v), Some(1));
        assert_eq!(values.with(100, "a", |v| *v), None);
        assert_eq!(values.take(149, "b"), Some(2));
        assert_eq!(values.take(149, "b"), None);
    }

    #[test]
    fn the_oldest_makes_room() {
        let values = Expiring::new(Duration::from_secs(1), 2);
        for key in ["a", "b", "c"] {
            values.insert(0, key, ());
        }
        assert!(values.take(1, "a").is_none());
        assert!(values.take(1, "b").is_some() && values.take(1, "c").is_some());
        assert!(values.rows.lock().ends.is_empty());
    }

    #[test]
    fn what_is_alike_makes_room_among_itself() {
        let values = Expiring::new(Duration::from_secs(1), 10);
        values.insert(0, "of another", 1);
        for key in ["a", "b", "c"] {
            values.insert_among(0, key, 2, 2, |v| *v == 2);
        }
        assert_eq!(values.with(0, "a", |v| *v), None);
        for (key, value) in [("of another", 1), ("b", 2), ("c", 2)] {
            assert_eq!(values.with(0, key, |v| *v), Some(value), "{key}");
        }
        assert_eq!(values.rows.lock().ends.len(), 3);
    }

    #[test]
    fn what_is_refused_is_removed() {
        let values = Expiring::new(Duration::from_secs(1), 5);
        values.insert(0, "a", 1);
        values.insert(0, "b", 2);
        values.retain(|v| *v == 2);
        assert_eq!((values.take(0, "a"), values.take(0, "b")), (None, Some(2)));
    }
}
