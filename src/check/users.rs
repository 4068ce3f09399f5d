//! Accounts: each index by position has exactly the rows of its table.

use std::collections::BTreeMap;

use super::Checker;
use crate::{
    oauth::tables::{self as oauth, Clients, RefreshFamilies},
    room::{
        delayed::tables::{DelayedDue, DelayedEvents, DelayedOfUser, DelayedTransactions},
        server_notices::NoticeRooms,
        tables::Rooms,
    },
    sso::tables::{Links, LinksOfUser},
    store::Result,
    sync::sliding::tables::{Connections, SentRooms},
    user::{
        dehydrated::DehydratedDevices,
        directory::{self, Entries, Words},
        email::{EmailOwners, Emails},
        guests::Guests,
        keys::tables::{OneTimeKeyCounts, OneTimeKeyPlaces, OneTimeKeys, UserSignatureChanges, UserSignatures},
        profile::{LastProfileChanges, ProfileChanges},
        tables::{
            AccessTokens, AccountData, AccountDataChanges, Accounts, BackupKeys, Backups, DeviceTokens, Devices,
            KeyChanges, LastKeyChange, RefreshTokens, ToDevice, ToDeviceCounts, TokenKind,
        },
        thread_subscriptions::{ThreadSubscriptionChanges, ThreadSubscriptions},
    },
};

pub fn check(checker: &mut Checker<'_>) {
    checker.run("devices", devices);
    checker.run("dehydrated devices and guests", special);
    checker.run("tokens", tokens);
    checker.run("OAuth sessions", oauth_sessions);
    checker.run("identities of users", identities);
    checker.run("account data", account_data);
    checker.run("key changes", key_changes);
    checker.run("profile changes", profile_changes);
    checker.run("one-time keys", one_time_keys);
    checker.run("user signatures", user_signatures);
    checker.run("to-device messages", to_device);
    checker.run("key backups", backups);
    checker.run("sliding connections", sliding_connections);
    checker.run("e-mail addresses", emails);
    checker.run("user directory", user_directory);
    checker.run("notice rooms", notice_rooms);
    checker.run("delayed events", delayed_events);
    checker.run("thread subscriptions", thread_subscriptions);
}

/// Each address is one account's, and found from both.
fn emails(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<Emails>(&()) {
        let row = row?;
        let (user_id, address) = row.key()?;
        let owner = checker.snapshot.get::<EmailOwners>(&address)?;
        let is_there = checker.snapshot.contains::<Accounts>(&user_id)?;
        let agrees = is_there && owner.is_some_and(|owner| owner.user_id == user_id);
        checker.expect("e-mail addresses", agrees, || format!("one of {user_id} is not known as his"));
        count += 1;
    }
    let owned = checker.snapshot.list::<EmailOwners>(&()).count();
    checker.expect("e-mail addresses", count == owned, || format!("accounts have {count}, {owned} have an owner"));
    Ok(())
}

fn devices(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<Devices>(&()) {
        let row = row?;
        let (user_id, device_id) = row.key()?;
        let account = checker.snapshot.get::<Accounts>(&user_id)?;
        let is_in_use = account.is_some_and(|account| account.is_active());
        checker.expect("devices", is_in_use, || format!("{device_id} is one of {user_id}, who has no account"));
    }
    Ok(())
}

/// What is dehydrated is a device of its user; guests are listed, and nobody else.
fn special(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<DehydratedDevices>(&()) {
        let row = row?;
        let is_there = checker.snapshot.contains::<Devices>(&(row.key()?, &row.value.device_id))?;
        checker.expect("devices", is_there, || format!("the dehydrated one of {:?} is not there", row.key()));
    }
    for row in checker.snapshot.list::<Accounts>(&()) {
        let row = row?;
        let is_guest = row.value.is_guest && row.value.is_active();
        let is_listed = checker.snapshot.contains::<Guests>(&row.key()?)?;
        checker.expect("guests", is_guest == is_listed, || format!("{:?} is one: {is_guest}", row.key()));
    }
    Ok(())
}

/// Every token is one of a device that is there, and each device's list of tokens is whole.
fn tokens(checker: &mut Checker<'_>) -> Result<()> {
    let mut listed = [0, 0];
    for row in checker.snapshot.list::<DeviceTokens>(&()) {
        let row = row?;
        let (user_id, device_id, hash) = row.key()?;
        let (owner, granted) = match row.value.kind {
            TokenKind::Access => {
                listed[0] += 1;
                let token = checker.snapshot.get::<AccessTokens>(&hash)?;
                token.map(|token| ((token.user_id, token.device_id), token.granted)).unzip()
            }
            TokenKind::Refresh => {
                listed[1] += 1;
                let token = checker.snapshot.get::<RefreshTokens>(&hash)?;
                token.map(|token| ((token.user_id, token.device_id), token.granted)).unzip()
            }
        };
        let agrees = owner.is_some_and(|(user, device)| user == user_id && device == device_id)
            && granted == Some(row.value.granted)
            && checker.snapshot.contains::<Devices>(&(user_id, device_id))?;
        checker.expect("tokens", agrees, || format!("one listed for {device_id} of {user_id} is not its token"));
    }
    let stored =
        [checker.snapshot.list::<AccessTokens>(&()).count(), checker.snapshot.list::<RefreshTokens>(&()).count()];
    checker.expect("tokens", stored == listed, || format!("{stored:?} are stored, {listed:?} are listed by device"));
    Ok(())
}

/// Every session of OAuth is one of a device and a client that are there, and found by its refresh tokens.
fn oauth_sessions(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<oauth::Sessions>(&()) {
        let row = row?;
        let (user_id, device_id) = row.key()?;
        let owner = checker.snapshot.get::<RefreshFamilies>(&row.value.family)?;
        let agrees = owner.is_some_and(|owner| owner.user_id == user_id && owner.device_id == device_id)
            && checker.snapshot.contains::<Devices>(&(user_id, device_id))?
            && checker.snapshot.contains::<Clients>(&row.value.client_id.as_str())?;
        checker.expect("OAuth sessions", agrees, || format!("that of {device_id} of {user_id} is not whole"));
        count += 1;
    }
    let found = checker.snapshot.list::<RefreshFamilies>(&()).count();
    checker.expect("OAuth sessions", count == found, || format!("there are {count}, {found} are found by tokens"));
    Ok(())
}

/// Every identity is tied to an account that is or was there, and found from it.
fn identities(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<Links>(&()) {
        let row = row?;
        let (provider, subject) = row.key()?;
        let user_id = &*row.value.user_id;
        let agrees = checker.snapshot.contains::<LinksOfUser>(&(user_id, provider, subject))?
            && checker.snapshot.contains::<Accounts>(&user_id)?;
        checker.expect("identities of users", agrees, || format!("one at {provider} is not known to {user_id}"));
        count += 1;
    }
    let of_users = checker.snapshot.list::<LinksOfUser>(&()).count();
    checker.expect("identities of users", count == of_users, || format!("there are {count}, users have {of_users}"));
    Ok(())
}

fn account_data(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<AccountData>(&()) {
        let row = row?;
        let (user_id, room, event_type) = row.key()?;
        let index = (user_id, row.value.changed, room, event_type);
        let is_indexed = checker.snapshot.contains::<AccountDataChanges>(&index)?;
        checker.expect("account data", is_indexed, || format!("{:?} is not among the changes", row.key()));
        count += 1;
    }
    let indexed = checker.snapshot.list::<AccountDataChanges>(&()).count();
    checker.expect("account data", count == indexed, || format!("{count} rows have {indexed} rows of changes"));
    Ok(())
}

fn thread_subscriptions(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<ThreadSubscriptions>(&()) {
        let row = row?;
        let (user_id, room, root) = row.key()?;
        let index = (user_id, row.value.changed, room, root);
        let is_indexed = checker.snapshot.contains::<ThreadSubscriptionChanges>(&index)?;
        checker.expect("thread subscriptions", is_indexed, || format!("{:?} is not among the changes", row.key()));
        count += 1;
    }
    let indexed = checker.snapshot.list::<ThreadSubscriptionChanges>(&()).count();
    checker.expect("thread subscriptions", count == indexed, || format!("{count} rows have {indexed} rows of changes"));
    Ok(())
}

fn key_changes(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<LastKeyChange>(&()) {
        let row = row?;
        let user_id = row.key()?;
        let is_indexed = checker.snapshot.contains::<KeyChanges>(&(row.value, user_id))?;
        checker.expect("key changes", is_indexed, || format!("{user_id} is not among the changes"));
        count += 1;
    }
    let indexed = checker.snapshot.list::<KeyChanges>(&()).count();
    checker.expect("key changes", count == indexed, || format!("{count} users have {indexed} rows of changes"));
    Ok(())
}

fn profile_changes(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<LastProfileChanges>(&()) {
        let row = row?;
        let (user_id, field) = row.key()?;
        let is_indexed = checker.snapshot.contains::<ProfileChanges>(&(row.value, user_id, field))?;
        checker.expect("profile changes", is_indexed, || format!("{field} of {user_id} is not among the changes"));
        count += 1;
    }
    let indexed = checker.snapshot.list::<ProfileChanges>(&()).count();
    checker.expect("profile changes", count == indexed, || format!("{count} fields have {indexed} rows of changes"));
    Ok(())
}

fn one_time_keys(checker: &mut Checker<'_>) -> Result<()> {
    let mut found = BTreeMap::<_, u64>::new();
    let mut placed = checker.snapshot.list::<OneTimeKeyPlaces>(&()).count() as u64;
    for row in checker.snapshot.list::<OneTimeKeys>(&()) {
        let row = row?;
        let (user_id, device_id, algorithm, uploaded, index) = row.key()?;
        let place = checker.snapshot.get::<OneTimeKeyPlaces>(&(user_id, device_id, algorithm, &row.value.id))?;
        let is_placed = place.is_some_and(|place| place.uploaded == uploaded && place.index == index);
        checker.expect("one-time keys", is_placed, || format!("{:?} is not found by its id", row.key()));
        placed -= u64::from(is_placed);
        *found.entry((user_id.to_owned(), device_id.to_owned(), algorithm.to_owned())).or_default() += 1;
    }
    checker.expect("one-time keys", placed == 0, || format!("{placed} ids have no key"));
    for row in checker.snapshot.list::<OneTimeKeyCounts>(&()) {
        let row = row?;
        let (user_id, device_id, algorithm) = row.key()?;
        let key = (user_id.to_owned(), device_id.to_owned(), algorithm.to_owned());
        let count = found.remove(&key).unwrap_or_default();
        checker.expect("one-time keys", count == row.value, || format!("{key:?} has {count}, counted {}", row.value));
    }
    checker.expect("one-time keys", found.is_empty(), || format!("{found:?} are not counted"));
    Ok(())
}

fn user_signatures(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<UserSignatures>(&()) {
        let row = row?;
        let (signer, owner) = row.key()?;
        let is_indexed = checker.snapshot.contains::<UserSignatureChanges>(&(signer, row.value.changed, owner))?;
        checker.expect("user signatures", is_indexed, || format!("{:?} is not among the changes", row.key()));
        count += 1;
    }
    let indexed = checker.snapshot.list::<UserSignatureChanges>(&()).count();
    checker.expect("user signatures", count == indexed, || format!("{count} rows have {indexed} rows of changes"));
    Ok(())
}

fn to_device(checker: &mut Checker<'_>) -> Result<()> {
    let mut found = BTreeMap::<_, u64>::new();
    for row in checker.snapshot.list::<ToDevice>(&()) {
        let row = row?;
        let (user_id, device_id, ..) = row.key()?;
        *found.entry((user_id.to_owned(), device_id.to_owned())).or_default() += 1;
    }
    for row in checker.snapshot.list::<ToDeviceCounts>(&()) {
        let row = row?;
        let (user_id, device_id) = row.key()?;
        let key = (user_id.to_owned(), device_id.to_owned());
        let count = found.remove(&key).unwrap_or_default();
        checker
            .expect("to-device messages", count == row.value, || format!("{key:?} has {count}, counted {}", row.value));
    }
    checker.expect("to-device messages", found.is_empty(), || format!("{found:?} are not counted"));
    Ok(())
}

fn backups(checker: &mut Checker<'_>) -> Result<()> {
    let mut found = BTreeMap::<_, u64>::new();
    for row in checker.snapshot.list::<BackupKeys>(&()) {
        let row = row?;
        let (user_id, version, ..) = row.key()?;
        *found.entry((user_id.to_owned(), version)).or_default() += 1;
    }
    for row in checker.snapshot.list::<Backups>(&()) {
        let row = row?;
        let (user_id, version) = row.key()?;
        let count = found.remove(&(user_id.to_owned(), version)).unwrap_or_default();
        let is_right = count == row.value.count && (count == 0 || !row.value.is_deleted);
        checker.expect("key backups", is_right, || {
            format!("version {version} of {user_id} has {count}, says {:?}", row.value)
        });
    }
    checker.expect("key backups", found.is_empty(), || format!("{found:?} have no version"));
    Ok(())
}

/// Connections are of devices that are there, and rooms were told on connections that are there.
fn sliding_connections(checker: &mut Checker<'_>) -> Result<()> {
    let name = "sliding connections";
    for row in checker.snapshot.list::<Connections>(&()) {
        let row = row?;
        let (user_id, device_id, conn_id) = row.key()?;
        let has_device = checker.snapshot.contains::<Devices>(&(user_id, device_id))?;
        checker.expect(name, has_device, || format!("{conn_id:?} is of {device_id} of {user_id}, which is not there"));
        let positions = row.value.positions.iter().map(|position| position.at);
        let is_in_order = !row.value.positions.is_empty() && positions.is_sorted();
        checker.expect(name, is_in_order, || format!("{conn_id:?} of {user_id} has {:?}", row.value.positions));
    }
    for row in checker.snapshot.list::<SentRooms>(&()) {
        let row = row?;
        let (user_id, device_id, conn_id, room) = row.key()?;
        let is_there = checker.snapshot.contains::<Connections>(&(user_id, device_id, conn_id))?;
        checker
            .expect(name, is_there, || format!("room {room} was told on {conn_id:?} of {user_id}, which is not there"));
    }
    Ok(())
}

/// Every account in use can be found by its names, and the words lead to those who have them.
fn user_directory(checker: &mut Checker<'_>) -> Result<()> {
    let name = "user directory";
    for row in checker.snapshot.list::<Accounts>(&()) {
        let row = row?;
        let user_id = row.key()?;
        let found = checker.snapshot.get::<Entries>(&user_id)?;
        match directory::expected(checker.snapshot, user_id) {
            Ok(expected) => checker
                .expect(name, found == expected, || format!("{user_id} has the entry {found:?}, not {expected:?}")),
            Err(error) => checker.expect(name, false, || format!("the profile of {user_id}: {error:?}")),
        }
    }
    let mut listed = 0;
    for row in checker.snapshot.list::<Entries>(&()) {
        let row = row?;
        let user_id = row.key()?;
        for word in &row.value.words {
            let is_there = checker.snapshot.contains::<Words>(&(word, user_id))?;
            checker.expect(name, is_there, || format!("{user_id} is not found by {word:?}"));
            listed += 1;
        }
    }
    let words = checker.snapshot.list::<Words>(&()).count();
    checker.expect(name, words == listed, || format!("{words} words, but entries have {listed}"));
    Ok(())
}

fn notice_rooms(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<NoticeRooms>(&()) {
        let row = row?;
        let is_there = checker.snapshot.contains::<Rooms>(&row.value)?;
        checker.expect("notice rooms", is_there, || format!("{:?} has a room that is not there", row.key()));
    }
    Ok(())
}

/// Each delayed event is its user's, and waits for its time unless it has come to an end.
fn delayed_events(checker: &mut Checker<'_>) -> Result<()> {
    let name = "delayed events";
    let (mut count, mut waiting, mut transactions) = (0, 0, 0);
    for row in checker.snapshot.list::<DelayedEvents>(&()) {
        let row = row?;
        let (delay_id, event) = (row.key()?, &row.value);
        let is_listed = checker.snapshot.contains::<DelayedOfUser>(&(&event.user_id, delay_id))?;
        let is_due = checker.snapshot.contains::<DelayedDue>(&(event.due_ms(), delay_id))?;
        let agrees = is_listed && is_due == event.end.is_none();
        checker.expect(name, agrees, || format!("{delay_id} of {} has the wrong rows", event.user_id));
        if let Some((device_id, scope, txn_id)) = &event.transaction {
            let key = (&*event.user_id, &**device_id, scope.as_str(), txn_id.as_str());
            let found = checker.snapshot.get::<DelayedTransactions>(&key)?;
            checker.expect(name, found.as_deref() == Some(delay_id), || format!("{delay_id} has lost its transaction"));
            transactions += 1;
        }
        count += 1;
        waiting += usize::from(is_due);
    }
    let found = [
        checker.snapshot.list::<DelayedOfUser>(&()).count(),
        checker.snapshot.list::<DelayedDue>(&()).count(),
        checker.snapshot.list::<DelayedTransactions>(&()).count(),
    ];
    let expected = [count, waiting, transactions];
    checker.expect(name, found == expected, || format!("of users, due, of transactions: {found:?}, not {expected:?}"));
    Ok(())
}
