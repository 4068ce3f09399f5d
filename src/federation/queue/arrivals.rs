//! Users of ours who come to have rooms with servers that know nothing of their devices.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#device-management>

use std::collections::BTreeSet;

use ruma::{OwnedServerName, OwnedUserId, UserId};

use super::{may_tell, others_in};
use crate::{
    Server,
    error::Result,
    room::{
        Membership, View, partial,
        servers::servers_in,
        tables::{Members, Origin, UserRooms},
    },
    store::{RoomNid, Snapshot, StreamPos},
};

/// A user of ours who came into a room where there are servers that he had no room with before.
#[derive(Clone)]
pub struct Arrival {
    pub user: OwnedUserId,
    pub servers: Vec<OwnedServerName>,
}

impl Arrival {
    /// `user` came into a room of these servers at some time. Those that he has another room with get the updates of his
    /// devices already; `None` if that is so of all.
    pub fn find(
        server: &Server,
        snapshot: &Snapshot<'_>,
        user: &UserId,
        (room, at): (RoomNid, StreamPos),
        servers: Vec<OwnedServerName>,
    ) -> Result<Option<Self>> {
        let mut servers: BTreeSet<_> = servers.into_iter().filter(|name| may_tell(server, name)).collect();
        for row in snapshot.list::<UserRooms>(&user) {
            let row = row?;
            let other = row.key()?.1;
            // Of rooms that he came into since, the entries of the log that follow tell.
            let was_there = row.value.joined_at.is_some_and(|joined_at| joined_at < at);
            if row.value.membership == Membership::Join
                && was_there
                && other != room
                && !partial::has_strangers(snapshot, other)?
            {
                let known = servers_in(snapshot, other)?;
                servers.retain(|name| !known.contains(name));
            }
        }
        let servers: Vec<_> = servers.into_iter().collect();
        Ok((!servers.is_empty()).then(|| Self { user: user.to_owned(), servers }))
    }

    /// The same for servers that came into a room of users of ours who are here, for [`super::greet`].
    pub fn of_newcomers(
        server: &Server,
        snapshot: &Snapshot<'_>,
        room: RoomNid,
        newcomers: &[OwnedServerName],
    ) -> Result<Vec<Self>> {
        let servers: Vec<_> = newcomers.iter().filter(|name| may_tell(server, name)).cloned().collect();
        let mut present = Vec::new();
        if !servers.is_empty() {
            for user in server.presence.here() {
                if server.is_ours(&user)
                    && snapshot.contains::<Members>(&(room, Membership::Join, Origin::Local, &*user))?
                {
                    present.push(Self { user, servers: servers.clone() });
                }
            }
        }
        Ok(present)
    }

    /// The arrivals of those of our users in a room who came into it up to `until`.
    pub fn list(server: &Server, view: &View<'_>, until: StreamPos) -> Result<Vec<Self>> {
        let (snapshot, room) = (view.snapshot, view.nid);
        let servers = others_in(server, snapshot, room)?;
        let mut arrivals = Vec::new();
        for user in view.local_members()? {
            let row = snapshot.get::<UserRooms>(&(&user, room))?;
            let Some(at) = row.and_then(|row| row.joined_at).filter(|at| *at <= until) else { continue };
            arrivals.extend(Self::find(server, snapshot, &user, (room, at), servers.clone())?);
        }
        Ok(arrivals)
    }
}
