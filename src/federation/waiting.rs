//! How many events wait in the inbox, of whom and for which rooms: neither one server nor one room can fill it for all.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};

use crate::store::RoomNid;

/// How many events wait to be worked on, at most; until then senders are told to try later. Source: our choice.
const MAX_WAITING: usize = 20_000;

/// How many of them one server sent. Source: our choice: forty full transactions.
const MAX_OF_SERVER: usize = 2_000;

/// How many of them are of one room. Source: our choice: more than two servers can send.
const MAX_OF_ROOM: usize = 5_000;

/// The counts; those that are 0 are not kept.
#[derive(Default)]
pub struct Waiting(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    all: usize,
    of_server: HashMap<OwnedServerName, usize>,
    of_room: HashMap<RoomNid, usize>,
}

impl Waiting {
    pub fn all(&self) -> usize {
        self.0.lock().all
    }

    /// Whether there is room for as many more events of this server.
    pub fn has_room_for(&self, origin: &ServerName, count: usize) -> bool {
        let counts = self.0.lock();
        let of_server = counts.of_server.get(origin).copied().unwrap_or_default();
        counts.all + count <= MAX_WAITING && of_server + count <= MAX_OF_SERVER
    }

    /// Whether the room can have one more event beside `further`, which are about to be added.
    pub fn has_room_in(&self, room: RoomNid, further: usize) -> bool {
        self.0.lock().of_room.get(&room).copied().unwrap_or_default() + further < MAX_OF_ROOM
    }

    pub fn is_any_in(&self, room: RoomNid) -> bool {
        self.0.lock().of_room.contains_key(&room)
    }

    pub fn add(&self, origin: &ServerName, room: RoomNid, count: usize) {
        let mut counts = self.0.lock();
        counts.all += count;
        *counts.of_server.entry(origin.to_owned()).or_default() += count;
        *counts.of_room.entry(room).or_default() += count;
    }

    pub fn remove(&self, origin: &ServerName, room: RoomNid, count: usize) {
        let mut counts = self.0.lock();
        counts.all = counts.all.saturating_sub(count);
        subtract(&mut counts.of_server, origin.to_owned(), count);
        subtract(&mut counts.of_room, room, count);
    }
}

fn subtract<K: Hash + Eq>(counts: &mut HashMap<K, usize, impl BuildHasher>, key: K, count: usize) {
    if let Some(left) = counts.get_mut(&key) {
        *left = left.saturating_sub(count);
        if *left == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn one_server_fills_its_own_share_only() {
        let (waiting, room) = (Waiting::default(), RoomNid(1));
        let (bad, good) = (server_name!("bad.example"), server_name!("good.example"));
        waiting.add(bad, room, MAX_OF_SERVER);
        assert!(!waiting.has_room_for(bad, 1) && waiting.has_room_for(good, 50));
        assert!(waiting.is_any_in(room) && !waiting.is_any_in(RoomNid(2)));
        assert!(waiting.has_room_in(room, 0), "a room has more than one server's share");
        waiting.remove(bad, room, 50);
        assert!(waiting.has_room_for(bad, 50) && !waiting.has_room_for(bad, 51));
    }

    #[test]
    fn one_room_fills_its_own_share_only() {
        let (waiting, busy) = (Waiting::default(), RoomNid(1));
        let server = |number: usize| OwnedServerName::try_from(format!("s{number}.example")).unwrap();
        (0..3).for_each(|number| waiting.add(&server(number), busy, MAX_OF_ROOM / 3));
        assert!(waiting.has_room_in(busy, 1) && !waiting.has_room_in(busy, 2));
        assert!(waiting.has_room_in(RoomNid(2), 0) && waiting.has_room_for(&server(9), 50));
    }

    #[test]
    fn all_of_them_together_are_bounded_and_nothing_is_left_of_what_is_gone() {
        let waiting = Waiting::default();
        let server = |number: usize| OwnedServerName::try_from(format!("s{number}.example")).unwrap();
        let rooms = (1..).map(RoomNid).zip(0..MAX_WAITING / MAX_OF_SERVER);
        rooms.clone().for_each(|(room, number)| waiting.add(&server(number), room, MAX_OF_SERVER));
        assert!(!waiting.has_room_for(&server(99), 1));
        rooms.for_each(|(room, number)| waiting.remove(&server(number), room, MAX_OF_SERVER));
        let counts = waiting.0.lock();
        assert!(counts.all == 0 && counts.of_server.is_empty() && counts.of_room.is_empty());
    }
}
