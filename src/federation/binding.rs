//! An identity server tells that an address is that of one of our users, and which invites wait for it there. Whoever
//! invited is asked to invite the user himself.
//!
//! Anybody can say so: nothing is believed but what the inviter's server and the room check themselves, by the identity
//! server's signature.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#third-party-invites>

use std::sync::Arc;

use ruma::{OwnedRoomId, OwnedUserId};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::{debug, error};
use url::Url;

use super::{
    check_allowed,
    request::request_json,
    resident::third_party::{self, Exchange, Signed},
};
use crate::{
    Server,
    error::{Error, Result},
    user::account,
};

/// How many invites of one address are taken to their rooms. Source: our choice.
const MAX_INVITES: usize = 20;

/// For how many addresses that is done at a time. Source: our choice.
const AT_A_TIME: usize = 4;

/// How long a signature with its names and keys may be, in bytes. Source: our choice; it has some 300.
const MAX_SIGNED_BYTES: usize = 4 << 10;

/// The bindings that are worked on.
pub struct Bindings(Arc<Semaphore>);

impl Default for Bindings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

/// An invite that waits for an address.
#[derive(Clone, Debug)]
pub struct Invite {
    pub room_id: OwnedRoomId,
    pub sender: OwnedUserId,
    pub signed: Signed,
}

/// Has the invites made in the background: who asks is a stranger, and learns nothing of rooms, users and servers.
///
/// Errors: `M_FORBIDDEN` if the user is not one of this server's, `M_TOO_LARGE`, `M_LIMIT_EXCEEDED`.
pub fn receive(server: &Arc<Server>, user: OwnedUserId, invites: Vec<Invite>) -> Result<()> {
    if !server.is_ours(&user) {
        return Err(Error::forbidden("That is not a user of this server"));
    }
    let is_large = |invite: &Invite| invite.signed.to_json().get().len() > MAX_SIGNED_BYTES;
    if invites.len() > MAX_INVITES || invites.iter().any(is_large) {
        return Err(Error::too_large("These are too many invites, or one is too large"));
    }
    let Ok(permit) = Arc::clone(&server.federation.bindings.0).try_acquire_owned() else {
        return Err(Error::limit_exceeded(std::time::Duration::from_secs(30)));
    };
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let _permit = permit;
        for invite in invites {
            let (room_id, sender) = (invite.room_id.clone(), invite.sender.clone());
            match make_true(&server, &user, invite).await {
                Ok(()) => debug!(%room_id, %sender, "an invite of an address became one of its user"),
                Err(cause @ Error::Internal(_)) => error!(%room_id, "an invite of an address was lost: {cause:?}"),
                Err(cause) => debug!(%room_id, %sender, "an invite of an address comes to nothing: {cause:?}"),
            }
        }
    });
    Ok(())
}

async fn make_true(server: &Arc<Server>, user: &OwnedUserId, invite: Invite) -> Result<()> {
    if invite.signed.mxid != *user {
        return Err(Error::forbidden("The identity server signed that for another user"));
    }
    let invited = user.clone();
    let is_active = move |server: &Server| {
        let account = account::get(&server.store.snapshot(), &invited)?;
        Ok(account.is_some_and(|account| account.is_active()))
    };
    if !server.blocking(is_active).await? {
        return Err(Error::not_found("There is no such user here"));
    }
    let Invite { room_id, sender, signed } = invite;
    if server.is_ours(&sender) {
        let exchange = Exchange { origin: server.owned_name(), room_id, sender, invited: user.clone(), signed };
        return third_party::exchange(server, exchange).await;
    }
    check_allowed(server, sender.server_name())?;
    let content = json!({
        "membership": "invite",
        // Whoever makes the invite takes what the room's own event says.
        "third_party_invite": { "display_name": user.localpart(), "signed": signed },
    });
    // ruma's request leaves `room_id` out of the body, where the specification requires it and Synapse reads it.
    let event = json!({
        "type": "m.room.member", "room_id": room_id, "sender": sender, "state_key": user, "content": content,
    });
    let mut url = Url::parse("https://destination.invalid/_matrix/federation/v1/exchange_third_party_invite")
        .map_err(Error::internal)?;
    url.path_segments_mut().map_err(|()| Error::internal("an address has no path"))?.push(room_id.as_str());
    request_json::<IgnoredAny>(server, sender.server_name(), http::Method::PUT, url.path(), &event).await?;
    Ok(())
}
