//! Guests: accounts without a password, for those who only want to look in. A guest gets into the rooms that let guests in,
//! and out when they no longer do; which requests he may make, the extractors of `http` say.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#guest-access>

use std::{sync::Arc, time::Duration};

use ruma::{OwnedUserId, UserId, api::error::ErrorKind, events::StateEventType};
use serde::Deserialize;
use tracing::{info, warn};

use super::{
    account::{NewAccount, PreparedAccount},
    deactivate::deactivate,
    device::{self, Selection},
    keys,
    registration::Registered,
    session::{self, DeviceRequest, NewSession},
    tables::Accounts,
};
use crate::{
    Server,
    error::{Error, Result},
    log::{self, Entry},
    room::{View, membership},
    store::{Family, RoomNid, Snapshot, Table, Transaction},
};

/// How many guests there are at a time: anybody can become one.
const MAX_GUESTS: usize = 1_000;

/// A guest who was not here for so long is given up.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Letters of a guest's name, after `guest-`.
const NAME_LENGTH: usize = 12;

const READER: &str = "guests";
const AT_ONCE: usize = 200;

/// The accounts that are guests now, and when they were made, in milliseconds since the Unix epoch.
pub struct Guests;
impl Table for Guests {
    const NAME: &'static str = "guests";
    const FAMILY: Family = Family::User;
    const ID: u8 = 205;
    type Key<'a> = &'a UserId;
    type Value = u64;
}

/// What a guest is told who wants more than guests may.
pub fn forbidden() -> Error {
    Error::refused(ErrorKind::GuestAccessForbidden, "Guests can't do this")
}

/// `M_GUEST_ACCESS_FORBIDDEN` if this server has no guests.
pub fn check_allowed(server: &Server) -> Result<()> {
    if server.config.allow_guest_access {
        return Ok(());
    }
    Err(Error::refused(ErrorKind::GuestAccessForbidden, "This server has no guest accounts"))
}

/// Makes a guest, who is logged in.
pub async fn register(server: &Arc<Server>, device: DeviceRequest) -> Result<Registered> {
    check_allowed(server)?;
    let name = format!("guest-{}", server.random.text(NAME_LENGTH).to_lowercase());
    let user_id = super::account::new_user_id(server.name(), &name)?;
    server.appservices.check_user(&user_id, None)?;
    let session = NewSession::prepare(server, user_id.clone(), device)?;
    let account = PreparedAccount::guest(server, user_id.clone());
    let now = server.clock.now_ms();
    server
        .store
        .commit(move |tx| {
            if tx.before().list::<Guests>(&()).count() >= MAX_GUESTS {
                let message = "This server has as many guests as it takes";
                return Err(Error::refused(ErrorKind::GuestAccessForbidden, message));
            }
            account.write(tx)?;
            tx.put::<Guests>(&&*user_id, &now);
            Ok(Registered { session: Some(session.write(tx)?), user_id })
        })
        .await
}

/// The guest whose token this is; `M_FORBIDDEN` if it is none's.
pub fn with_token(server: &Server, token: &str) -> Result<OwnedUserId> {
    check_allowed(server)?;
    let owner = session::owner(server, token)?;
    let is_guest = |user: &OwnedUserId| -> Result<bool> { is_guest(&server.store.snapshot(), user) };
    match owner {
        Some(user) if is_guest(&user)? => Ok(user),
        _ => Err(Error::forbidden("`guest_access_token` is not the token of a guest")),
    }
}

/// Makes a guest's account one like others, and logs it in anew: as a guest he is logged in no longer.
pub async fn upgrade(
    server: &Arc<Server>,
    token: &str,
    account: NewAccount,
    device: Option<DeviceRequest>,
) -> Result<Registered> {
    let user_id = with_token(server, token)?;
    if user_id != account.user_id {
        return Err(not_his_name());
    }
    let session = device.map(|device| NewSession::prepare(server, user_id.clone(), device)).transpose()?;
    let account = account.prepare(server).await?;
    let write = move |tx: &mut Transaction<'_>| {
        if !tx.before().contains::<Guests>(&&*user_id)? {
            return Err(Error::forbidden("This guest has an account already"));
        }
        let kept = session.as_ref().map_or(Selection::All, |session| Selection::AllBut(session.device_id().to_owned()));
        device::delete(tx, &user_id, &kept)?;
        account.replace_guest(tx)?;
        tx.delete::<Guests>(&&*user_id);
        let session = session.map(|session| session.write(tx)).transpose()?;
        Ok(Registered { user_id, session })
    };
    let server = Arc::clone(server);
    // Who shares rooms with him must be woken even if he hangs up.
    Server::detached(async move {
        let upgraded = server.store.commit(write).await?;
        keys::announce(&server, &upgraded.user_id);
        Ok(upgraded)
    })
    .await
}

/// Why a name is not the one that a guest keeps.
pub fn not_his_name() -> Error {
    Error::invalid_param("`username` must be that of the guest")
}

pub fn is_guest(snapshot: &Snapshot<'_>, user: &UserId) -> Result<bool> {
    Ok(snapshot.get::<Accounts>(&user)?.is_some_and(|account| account.is_guest))
}

/// `M_GUEST_ACCESS_FORBIDDEN` if `user` is a guest, and the room lets none in.
pub fn check_may_join(view: &View<'_>, user: &UserId) -> Result<()> {
    if !is_guest(view.snapshot, user)? || lets_in(view)? {
        return Ok(());
    }
    Err(Error::refused(ErrorKind::GuestAccessForbidden, "Guests can't join this room"))
}

fn lets_in(view: &View<'_>) -> Result<bool> {
    #[derive(Deserialize)]
    struct Content {
        guest_access: String,
    }
    // What can't be read lets nobody in.
    let pdu = view.state_pdu(view.current_state(), &StateEventType::RoomGuestAccess, "")?;
    let content = pdu.and_then(|pdu| serde_json::from_str::<Content>(pdu.content.get()).ok());
    Ok(content.is_some_and(|content| content.guest_access == "can_join"))
}

/// Follows the log until the server ends: rooms that let no guests in any more are left by those who are in.
pub async fn run(server: Arc<Server>) {
    log::follow(server, READER, AT_ONCE, work).await;
}

async fn work(server: Arc<Server>, entries: Vec<Entry>) -> Result<()> {
    let Some(last) = entries.last().map(|entry| entry.pos) else { return Ok(()) };
    let leaving = server.blocking(move |server| leaving(server, &entries)).await?;
    for (room, guest) in leaving {
        let reason = Some("This room lets no guests in any more".to_owned());
        match membership::leave(&server, &guest, room, reason).await {
            Ok(()) => {}
            // One who can't leave must not keep the others in.
            Err(Error::Refused { message, .. }) => warn!(%guest, %room, %message, "a guest stays in a room"),
            Err(error) => return Err(error),
        }
    }
    let done = move |tx: &mut Transaction<'_>| {
        log::done(tx, READER, last);
        Ok::<_, Error>(())
    };
    server.store.commit(done).await
}

/// The guests in rooms that these entries may have closed to them.
fn leaving(server: &Server, entries: &[Entry]) -> Result<Vec<(RoomNid, OwnedUserId)>> {
    let snapshot = server.store.snapshot();
    let mut leaving = Vec::new();
    if snapshot.list::<Guests>(&()).next().is_none() {
        return Ok(leaving);
    }
    for entry in entries {
        let view = View::of(&server.rooms, &snapshot, entry.room)?;
        let event_type = view.event(entry.event)?.event_type;
        // A redaction may have taken back what let them in.
        if !matches!(event_type.as_str(), "m.room.guest_access" | "m.room.redaction") || lets_in(&view)? {
            continue;
        }
        for user in view.local_members()? {
            if is_guest(&snapshot, &user)? {
                leaving.push((entry.room, user));
            }
        }
    }
    Ok(leaving)
}

/// Gives up the guests who were not here for long; how many there were.
pub async fn sweep(server: &Arc<Server>) -> Result<usize> {
    let kept_ms = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
    let oldest = server.clock.now_ms().saturating_sub(kept_ms);
    let old = server
        .read(move |snapshot| {
            let mut old = Vec::new();
            for row in snapshot.list::<Guests>(&()) {
                let row = row?;
                let user = row.key()?;
                let devices = device::list(snapshot, user)?;
                let seen = devices.iter().filter_map(|(_, device)| Some(device.last_seen?.at_ms)).max();
                if seen.unwrap_or(row.value) < oldest {
                    old.push(user.to_owned());
                }
            }
            Ok(old)
        })
        .await?;
    let given_up = old.len();
    for guest in old {
        info!(%guest, "a guest who was not here for long is given up");
        deactivate(Arc::clone(server), guest, false).await?;
    }
    Ok(given_up)
}
