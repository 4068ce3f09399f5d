//! One request at a time on each connection: a newer one ends the one before it, whose client has given it up.

use std::collections::HashMap;

use parking_lot::Mutex;
use ruma::{OwnedDeviceId, OwnedUserId};
use tokio_util::sync::CancellationToken;

type Key = (OwnedUserId, OwnedDeviceId, String);

/// The newest request of each connection on which one is being answered.
#[derive(Default)]
pub struct Turns(Mutex<Current>);

#[derive(Default)]
struct Current {
    next: u64,
    requests: HashMap<Key, (u64, CancellationToken)>,
}

/// The right of one request to write the state of its connection, until a newer one comes.
pub struct Turn<'t> {
    turns: &'t Turns,
    key: Key,
    number: u64,
    pub ended: CancellationToken,
}

impl Turns {
    pub fn begin(&self, key: Key) -> Turn<'_> {
        let mut current = self.0.lock();
        current.next += 1;
        let (number, ended) = (current.next, CancellationToken::new());
        if let Some((_, older)) = current.requests.insert(key.clone(), (number, ended.clone())) {
            older.cancel();
        }
        Turn { turns: self, key, number, ended }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut current = self.turns.0.lock();
        if current.requests.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            current.requests.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_request_ends_the_older_one_of_its_connection() {
        let turns = Turns::default();
        let key = |conn_id: &str| ("@a:x".try_into().unwrap(), "D".into(), conn_id.to_owned());
        let first = turns.begin(key("one"));
        let other = turns.begin(key("two"));
        let second = turns.begin(key("one"));
        assert!(first.ended.is_cancelled() && !second.ended.is_cancelled() && !other.ended.is_cancelled());
        drop(first);
        assert_eq!(turns.0.lock().requests.len(), 2, "the end of the older one does not end the newer one");
        drop((second, other));
        assert!(turns.0.lock().requests.is_empty());
    }
}
