//! Anybody can make us fetch the keys of any server: by asking us as a notary, by a signed request. What is stored of
//! servers that are in none of our rooms is bounded.

use std::{
    cmp::Reverse,
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ruma::OwnedServerName;

use crate::{
    Server,
    error::Result,
    federation::tables::{KeyDocuments, VerifyKeys},
    room::servers::RoomServers,
    store::{self, Group, Snapshot, Transaction},
};

/// Of how many servers that are in none of our rooms the keys are kept: those that were fetched last.
pub const KEPT: usize = 2_000;

/// How many servers one transaction forgets.
const BATCH: usize = 200;

/// How many servers' keys were stored that had none before, since the last look at them.
#[derive(Default)]
pub struct Newcomers(AtomicUsize);

/// Notes that keys of so many servers were stored that had none, and forgets others once they are many.
pub async fn note(server: &Arc<Server>, count: usize) -> Result<()> {
    let newcomers = &server.federation.fetches.newcomers.0;
    if newcomers.fetch_add(count, Ordering::Relaxed) + count > KEPT {
        newcomers.store(0, Ordering::Relaxed);
        forget(server).await?;
    }
    Ok(())
}

/// Forgets keys of servers that are in none of our rooms; of how many. What they signed is looked up anew if it is needed.
pub async fn forget(server: &Arc<Server>) -> Result<usize> {
    let forgotten = server.read(|snapshot| Ok(too_many(snapshot)?)).await?;
    for batch in forgotten.chunks(BATCH) {
        let batch = batch.to_vec();
        let delete = move |tx: &mut Transaction<'_>| {
            for name in &batch {
                tx.delete::<KeyDocuments>(&name.as_str());
                tx.delete_group::<VerifyKeys>(&name.as_str(), Group::shared(name.as_str()));
            }
            Ok::<_, store::Error>(())
        };
        server.store.write_when_full(delete).await?;
    }
    Ok(forgotten.len())
}

fn too_many(snapshot: &Snapshot<'_>) -> store::Result<Vec<OwnedServerName>> {
    let mut in_rooms = HashSet::new();
    for row in snapshot.list::<RoomServers>(&()) {
        in_rooms.insert(row?.key()?.1.to_owned());
    }
    let mut strangers = Vec::new();
    for row in snapshot.list::<KeyDocuments>(&()) {
        let row = row?;
        let name = OwnedServerName::try_from(row.key()?).ok().filter(|name| !in_rooms.contains(name));
        strangers.extend(name.map(|name| (row.value.fetched_ms, name)));
    }
    strangers.sort_by_key(|(fetched_ms, _)| Reverse(*fetched_ms));
    Ok(strangers.into_iter().skip(KEPT).map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        federation::tables::{KeyDocument, VerifyKey},
        room::{servers::Presence, testing::TestRoom},
    };

    fn name(number: usize) -> OwnedServerName {
        format!("s{number}.test").try_into().unwrap()
    }

    #[test]
    fn of_servers_in_none_of_our_rooms_only_the_keys_that_were_fetched_last_are_kept() {
        const STRANGERS: usize = KEPT + 10;
        let room = TestRoom::new();
        let nid = room.nid;
        room.change(move |tx| {
            let key = VerifyKey { key: vec![1; 32], valid_until_ms: 1, expired_ms: None };
            // The larger its number, the earlier it came; the very first is of a server in our room.
            for number in 0..=STRANGERS {
                let (name, fetched_ms) = (name(number), (STRANGERS - number) as u64);
                let document = KeyDocument { json: "{}".to_owned(), fetched_ms, valid_until_ms: 1 };
                tx.put::<KeyDocuments>(&name.as_str(), &document);
                tx.put::<VerifyKeys>(&(name.as_str(), "ed25519:1"), &key);
            }
            let since = tx.pos();
            tx.put::<RoomServers>(&(nid, &*name(STRANGERS)), &Presence { joined: 1, since });
        });
        let kept = |number| {
            let (snapshot, name) = (room.server.store.snapshot(), name(number));
            let document = snapshot.contains::<KeyDocuments>(&name.as_str()).unwrap();
            (document, snapshot.list::<VerifyKeys>(&name.as_str()).count())
        };
        room.block_on(note(&room.server, KEPT)).unwrap();
        assert_eq!(kept(KEPT), (true, 1), "so many newcomers are looked at together");
        room.block_on(note(&room.server, 1)).unwrap();
        assert_eq!(
            [KEPT - 1, KEPT, STRANGERS - 1, STRANGERS].map(kept),
            [(true, 1), (false, 0), (false, 0), (true, 1)]
        );
        assert_eq!(room.block_on(forget(&room.server)).unwrap(), 0);
    }
}
