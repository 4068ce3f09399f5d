//! One or a few at a time for each of many things, where somebody waits for the network meanwhile.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// From how many keys on the unused ones are removed.
const KEPT: usize = 1_000;

/// The permits of each key that somebody holds or waits for.
pub struct Turns<K> {
    at_a_time: usize,
    permits: Mutex<HashMap<K, Arc<Semaphore>>>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self::new(1)
    }
}

impl<K> Turns<K> {
    /// So many hold a key at a time.
    pub fn new(at_a_time: usize) -> Self {
        Self { at_a_time, permits: Mutex::default() }
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits until few enough others hold `key`.
    pub async fn take(&self, key: K) -> OwnedSemaphorePermit {
        let permits = {
            let mut permits = self.permits.lock();
            if permits.len() >= KEPT && !permits.contains_key(&key) {
                permits.retain(|_, of_key| Arc::strong_count(of_key) > 1);
            }
            Arc::clone(permits.entry(key).or_insert_with(|| Arc::new(Semaphore::new(self.at_a_time))))
        };
        permits.acquire_owned().await.expect("it is never closed")
    }

    /// The keys for which one would have to wait now.
    pub fn taken(&self) -> HashSet<K>
    where
        K: Clone,
    {
        let permits = self.permits.lock();
        let taken = permits.iter().filter(|(_, of_key)| of_key.available_permits() == 0);
        taken.map(|(key, _)| key.clone()).collect()
    }
}
