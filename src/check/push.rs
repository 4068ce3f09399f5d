//! Pushers and application services: each index has the rows of its table, and nothing waits for what is gone.

use super::Checker;
use crate::{
    appservice::tables::{Cursors, Invites, NetworkRooms, ToDeviceRows, Transactions},
    push::{
        pushers::{Pushers, PushersByKey},
        queue::{Badges, PushQueue},
    },
    room::tables::Rooms,
    store::Result,
    user::tables::{Accounts, Devices},
};

pub fn check(checker: &mut Checker<'_>) {
    checker.run("pushers", pushers);
    checker.run("push queue", queue);
    checker.run("application services", appservices);
    checker.run("network rooms", network_rooms);
}

/// Each pusher belongs to an account, and to a device that is there, and is found by its app and pushkey.
fn pushers(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<Pushers>(&()) {
        let row = row?;
        let (user, app_id, pushkey) = row.key()?;
        let has_device = match &row.value.device_id {
            Some(device) => checker.snapshot.contains::<Devices>(&(user, device))?,
            None => checker.snapshot.contains::<Accounts>(&user)?,
        };
        let is_indexed = checker.snapshot.contains::<PushersByKey>(&(app_id, pushkey, user))?;
        checker.expect("pushers", has_device, || format!("one of {user} for {app_id} has no device"));
        checker.expect("pushers", is_indexed, || format!("one of {user} for {app_id} is not found by its key"));
        let is_object = row.value.data().is_ok();
        checker.expect("pushers", is_object, || format!("the data of one of {user} for {app_id} is no JSON object"));
        count += 1;
    }
    let indexed = checker.snapshot.list::<PushersByKey>(&()).count();
    checker.expect("pushers", count == indexed, || format!("{count} pushers, but {indexed} are found by their keys"));
    Ok(())
}

fn queue(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<PushQueue>(&()) {
        let row = row?;
        let (user, app_id, pushkey, ..) = row.key()?;
        let is_there = checker.snapshot.contains::<Pushers>(&(user, app_id, pushkey))?;
        checker.expect("push queue", is_there, || format!("something waits for a pusher of {user} that is not there"));
    }
    for row in checker.snapshot.list::<Badges>(&()) {
        let row = row?;
        let is_there = checker.snapshot.contains::<Pushers>(&row.key()?)?;
        checker.expect("push queue", is_there, || format!("{:?} is no pusher, and told a number", row.key()));
    }
    Ok(())
}

/// The rooms that services list are there.
fn network_rooms(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<NetworkRooms>(&()) {
        let row = row?;
        let (network, room) = row.key()?;
        let is_there = checker.snapshot.contains::<Rooms>(&room)?;
        checker.expect("network rooms", is_there, || format!("room {room} is listed in {network} and not there"));
    }
    Ok(())
}

/// What a service is to be told has a number that it was given.
fn appservices(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<Transactions>(&()) {
        let row = row?;
        let service = row.key()?;
        let cursor = checker.snapshot.get::<Cursors>(&service)?;
        // After a restore the next one leaves numbers out.
        let is_given = cursor.is_some_and(|cursor| cursor.transaction >= row.value.number);
        checker.expect("application services", is_given, || format!("{service} has a transaction that is yet to come"));
    }
    for row in checker.snapshot.list::<Invites>(&()) {
        let row = row?;
        let (service, _, room) = row.key()?;
        let is_there = checker.snapshot.contains::<Rooms>(&room)?;
        checker.expect("application services", is_there, || format!("an invite of {service} is to no room"));
    }
    for row in checker.snapshot.list::<ToDeviceRows>(&()) {
        let row = row?;
        let (service, ..) = row.key()?;
        let account = checker.snapshot.contains::<Accounts>(&&*row.value.user_id)?;
        checker.expect("application services", account, || format!("a message of {service} is for nobody"));
    }
    Ok(())
}
