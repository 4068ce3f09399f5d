//! Updates of our users' devices and cross-signing keys, for the servers of the rooms that they are in.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use ruma::{OwnedServerName, OwnedUserId, UserId};
use tracing::error;

use super::{
    additions::Additions,
    others_of,
    tables::{DeviceStreams, DeviceUpdates, Item},
    wake,
};
use crate::{
    Server,
    error::{Error, Result},
    store::{self, Group, Row, Table, Transaction},
    user::{
        device,
        keys::{self, Changed},
        tables::Devices,
    },
};

/// How many updates one transaction queues.
const UPDATES: usize = 100;

/// How long the reader waits after its work failed.
const RETRY: Duration = Duration::from_secs(5);

/// Notes that a device of one of our users changed, or went; his cross-signing keys if `device` is empty.
pub fn note(tx: &mut Transaction<'_>, user: &UserId, device: &str) {
    tx.put::<DeviceUpdates>(&(tx.pos(), user, device), &());
}

/// Tells of all our users again, after a future was lost in which their devices were others. One update of each is enough:
/// it follows on one that nobody has seen, so that other servers ask for all of his devices. That gets the number of a
/// position, which is beyond all times that the lost future had.
pub fn tell_again(tx: &mut Transaction<'_>) -> store::Result<()> {
    let mut last_user: Option<OwnedUserId> = None;
    let devices: Vec<Row<Devices>> = tx.before().list::<Devices>(&()).collect::<store::Result<_>>()?;
    for row in devices {
        let (user, device) = row.key()?;
        if last_user.as_deref() == Some(user) {
            continue;
        }
        let unseen = tx.get::<DeviceStreams>(&user)?.map_or(0, |last| last.saturating_add(1)).max(tx.pos().0);
        tx.put::<DeviceStreams>(&user, &unseen);
        keys::changed(tx, user, Changed::Device(device))?;
        last_user = Some(user.to_owned());
    }
    Ok(())
}

/// Puts what was noted into the queues, until the server ends.
pub async fn follow(server: Arc<Server>) {
    while !server.shutdown.is_cancelled() {
        let failed = tokio::select! {
            () = server.shutdown.cancelled() => return,
            Err(error) = read_on(&server) => error,
        };
        error!(error = ?failed, "changes of devices could not be queued for other servers; trying again");
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn read_on(server: &Arc<Server>) -> Result<Infallible> {
    let mut looked_at = store::StreamPos::default();
    loop {
        let durable = server.store.durable_pos();
        if server.store.recent().may_have_changed::<DeviceUpdates>(Group::of(DeviceUpdates::NAME), looked_at) {
            while queue_some(server).await? == UPDATES {}
            looked_at = durable;
        }
        server.store.until_durable(durable.next()).await?;
    }
}

/// The number of updates that were queued.
pub async fn queue_some(server: &Arc<Server>) -> Result<usize> {
    let for_write = Arc::clone(server);
    let write = move |tx: &mut Transaction<'_>| {
        let rows: Vec<Row<DeviceUpdates>> =
            tx.before().list::<DeviceUpdates>(&()).take(UPDATES).collect::<store::Result<_>>()?;
        let mut additions = Additions::default();
        let mut users = BTreeMap::new();
        for row in &rows {
            let (_, user, device) = row.key()?;
            let of_user = match users.entry(user.to_owned()) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => new.insert(OfUser::read(&for_write, tx, user)?),
            };
            let item = of_user.item(&for_write, user, device);
            for destination in &of_user.destinations {
                additions.add(destination.clone(), item.clone());
            }
            tx.delete::<DeviceUpdates>(&row.key()?);
        }
        for (user, of_user) in &users {
            if let Some(stream_id) = of_user.last {
                tx.put::<DeviceStreams>(&&**user, &stream_id);
            }
        }
        Ok::<_, Error>((rows.len(), additions.write(tx)?))
    };
    let (queued, destinations) = server.store.write(write).await?.value;
    for destination in destinations {
        wake(server, destination);
    }
    Ok(queued)
}

/// Queues all devices of a user for servers that know nothing of them. They count as told with the last update, so that
/// the others, which were told of it, miss none.
pub(super) fn introduce(
    tx: &mut Transaction<'_>,
    additions: &mut Additions,
    user: &UserId,
    servers: &[OwnedServerName],
    now_ms: u64,
) -> Result<()> {
    let devices = device::list(tx.before(), user)?;
    let stream_id = tx.get::<DeviceStreams>(&user)?.unwrap_or(now_ms);
    if !devices.is_empty() {
        tx.put::<DeviceStreams>(&user, &stream_id);
    }
    for (device, _) in devices {
        let item = Item::Device { user: user.to_owned(), device, stream_id, prev_id: None };
        servers.iter().for_each(|server| additions.add(server.clone(), item.clone()));
    }
    Ok(())
}

struct OfUser {
    /// The last `stream_id`.
    last: Option<u64>,
    destinations: Vec<OwnedServerName>,
}

impl OfUser {
    fn read(server: &Server, tx: &Transaction<'_>, user: &UserId) -> store::Result<Self> {
        let destinations = others_of(server, tx.before(), user)?.into_iter().collect();
        Ok(Self { last: tx.get::<DeviceStreams>(&user)?, destinations })
    }

    fn item(&mut self, server: &Server, user: &UserId, device: &str) -> Item {
        let user: OwnedUserId = user.to_owned();
        if device.is_empty() {
            return Item::SigningKeys { user };
        }
        // By the clock, so that a database that was restored from a backup does not use a number twice.
        let stream_id = server.clock.now_ms().max(self.last.map_or(0, |last| last.saturating_add(1)));
        let prev_id = self.last.replace(stream_id);
        Item::Device { user, device: device.into(), stream_id, prev_id }
    }
}
