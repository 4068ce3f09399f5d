//! What is kept for and of other servers.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedServerName, OwnedUserId};

use super::Checker;
use crate::{
    federation::{
        queue::tables::{Destinations, Item, Queue},
        tables::{KeyDocuments, VerifyKeys},
    },
    room::tables::Events,
    store::{Result, StreamPos},
    user::keys::{
        remote::RemoteUsers,
        tables::{CrossSigningKeys, DeviceKeys},
    },
};

pub fn check(checker: &mut Checker<'_>) {
    checker.run("keys of servers", keys);
    checker.run("queues", queues);
    checker.run("keys of other servers' users", remote_keys);
}

/// Every document of keys has its keys, and no key is without a document.
fn keys(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<KeyDocuments>(&()) {
        let row = row?;
        let server = row.key()?;
        let has_keys = checker.snapshot.list::<VerifyKeys>(&server).next().is_some();
        checker.expect("keys of servers", has_keys, || format!("{server} has a document and no keys"));
    }
    for row in checker.snapshot.list::<VerifyKeys>(&()) {
        let row = row?;
        let (server, id) = row.key()?;
        let has_document = checker.snapshot.contains::<KeyDocuments>(&server)?;
        checker.expect("keys of servers", has_document, || format!("{server} has {id} and no document"));
    }
    Ok(())
}

/// Queues are counted, it is known where they begin, and their events are there.
fn queues(checker: &mut Checker<'_>) -> Result<()> {
    let mut found = BTreeMap::<OwnedServerName, u64>::new();
    let mut first = BTreeMap::<OwnedServerName, StreamPos>::new();
    for row in checker.snapshot.list::<Queue>(&()) {
        let row = row?;
        let (destination, pos, _) = row.key()?;
        first.entry(destination.to_owned()).or_insert(pos);
        *found.entry(destination.to_owned()).or_default() += 1;
        if let Item::Event { room, event } = &row.value {
            let is_there = checker.snapshot.contains::<Events>(&(*room, *event))?;
            checker.expect("queues", is_there, || format!("event {event} of room {room} waits and is not there"));
        }
    }
    for row in checker.snapshot.list::<Destinations>(&()) {
        let row = row?;
        let destination = row.key()?;
        let count = found.remove(destination).unwrap_or_default();
        checker.expect("queues", count == row.value.rows, || {
            format!("{destination} has {count} rows, counted {}", row.value.rows)
        });
        let found_first = first.get(destination).copied().unwrap_or_default();
        checker.expect("queues", row.value.first <= found_first, || {
            format!("the rows of {destination} begin at {found_first}, before {}", row.value.first)
        });
    }
    checker.expect("queues", found.is_empty(), || format!("{found:?} are not counted"));
    Ok(())
}

/// Whoever has keys here and no account is among the users of other servers whose keys are kept.
fn remote_keys(checker: &mut Checker<'_>) -> Result<()> {
    let mut owners = BTreeSet::<OwnedUserId>::new();
    for row in checker.snapshot.list::<DeviceKeys>(&()) {
        owners.insert(row?.key()?.0.to_owned());
    }
    for row in checker.snapshot.list::<CrossSigningKeys>(&()) {
        owners.insert(row?.key()?.0.to_owned());
    }
    let ours = checker.server_name;
    for user in owners.iter().filter(|user| user.server_name() != ours) {
        let is_kept = checker.snapshot.contains::<RemoteUsers>(&&**user)?;
        checker.expect("keys of other servers' users", is_kept, || format!("{user} has keys here"));
    }
    Ok(())
}
