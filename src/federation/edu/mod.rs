//! What servers tell each other that is not part of a room's history.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#edus>

pub mod device_lists;
mod presence;
pub mod receipts;
mod to_device;
mod typing;

use std::sync::Arc;

use ruma::{ID_MAX_BYTES, RoomId, ServerName, UserId, api::federation::transactions::edu::Edu, serde::Raw};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tracing::debug;

use crate::{
    Server,
    error::{Error, Result},
    room::{View, acl, partial::may_be_joined, visibility_of_server::is_in_room},
    store::{RoomNid, Snapshot},
};

/// The largest EDU that is looked at, in bytes. Source: our choice; other servers send 64 KB at most.
const MAX_BYTES: usize = 1 << 20;

/// Takes an EDU that `origin` sent. What is malformed, not `origin`'s to say, or not about what we know is passed over,
/// as the specification wants it; an error is one of ours, and the transaction should be sent again. What must not get
/// lost is durable when this returns.
pub async fn receive(server: &Arc<Server>, origin: &ServerName, edu: Raw<Edu>) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Whole {
        edu_type: String,
        content: Box<RawValue>,
    }
    let json = edu.json().get();
    let whole = if json.len() > MAX_BYTES { None } else { serde_json::from_str::<Whole>(json).ok() };
    let Some(Whole { edu_type, content }) = whole else {
        debug!(%origin, bytes = json.len(), "an EDU is passed over: malformed or too large");
        return Ok(());
    };
    match take(server, origin, &edu_type, &content).await {
        Err(Error::Refused { message, .. }) => {
            debug!(%origin, edu_type, "an EDU is passed over: {message}");
            Ok(())
        }
        other => other,
    }
}

async fn take(server: &Arc<Server>, origin: &ServerName, edu_type: &str, content: &RawValue) -> Result<()> {
    match edu_type {
        "m.device_list_update" => device_lists::receive(server, origin, read(content)?).await,
        "m.direct_to_device" => to_device::receive(server, origin, read(content)?).await,
        "m.presence" => presence::receive(server, origin, read(content)?).await,
        "m.receipt" => receipts::receive(server, origin, read(content)?).await,
        "m.signing_key_update" => device_lists::receive_signing_keys(server, origin, read(content)?).await,
        "m.typing" => typing::receive(server, origin, read(content)?).await,
        _ => Err(Error::unrecognized("this server knows no EDU of this type")),
    }
}

fn read<T: DeserializeOwned>(content: &RawValue) -> Result<T> {
    serde_json::from_str(content.get()).map_err(|e| Error::bad_json(e.to_string()))
}

/// `M_FORBIDDEN` if `user` is not one of `origin`'s, `M_INVALID_PARAM` if nobody can have such an id: ruma takes ids of any
/// length.
fn check_owner(origin: &ServerName, user: &UserId) -> Result<()> {
    if user.as_str().len() > ID_MAX_BYTES {
        Err(Error::invalid_param(format!("a user id has more than {ID_MAX_BYTES} bytes")))
    } else if user.server_name() == origin {
        Ok(())
    } else {
        Err(Error::forbidden(format!("{user} is not a user of the server that sends this")))
    }
}

/// A room of which `origin` may tell us something about `user`: he is in it, we are, and its ACL lets the server.
fn room_of(
    server: &Server,
    snapshot: &Snapshot<'_>,
    origin: &ServerName,
    user: &UserId,
    room_id: &RoomId,
) -> Result<RoomNid> {
    check_owner(origin, user)?;
    let view = View::open(&server.rooms, snapshot, room_id)?;
    let view = view.ok_or_else(|| Error::not_found("this server does not know the room"))?;
    acl::check(&view, origin)?;
    if !may_be_joined(server, snapshot, view.nid, user)? {
        return Err(Error::forbidden(format!("{user} is not in the room")));
    }
    if !is_in_room(&view, server.name())? {
        return Err(Error::not_found("this server is not in the room"));
    }
    Ok(view.nid)
}
