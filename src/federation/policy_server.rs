//! Asking the policy server of a room whether it recommends an event.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#asking-for-a-policy-server-signature-on-an-event>

use std::{sync::Arc, time::Duration};

use ruma::{
    api::{error::ErrorBody, federation::policy::sign_event},
    room_version_rules::RoomVersionRules,
};
use tracing::info;

use super::{handshake::raw, request::request_within};
use crate::{
    Server,
    error::{Error, RemoteError, Result},
    event::{Verified, policy},
    outgoing::Limits,
    room::{
        View,
        policy_server::{self, PolicyServer},
    },
    store::RoomNid,
};

/// How long it may think about an event: somebody waits to see what he said.
const TIME: Duration = Duration::from_secs(10);
/// Its answer is a signature.
const MAX_ANSWER: usize = 64 << 10;

/// `event` with the signature of the policy server.
///
/// Errors: what the policy server says to it, as the client of whoever sent the event is to be told;
/// [`Error::Remote`] if it can't be reached or its signature is not valid.
pub async fn sign(
    server: &Arc<Server>,
    rules: &'static RoomVersionRules,
    event: Verified,
    asked: &PolicyServer,
) -> Result<Verified> {
    let PolicyServer { via, key } = asked;
    let limits = Limits { time: TIME, bytes: MAX_ANSWER, redirects: false };
    let ask = sign_event::v1::Request::new(raw(&event));
    let answer = request_within(server, via, ask, limits).await.map_err(as_its_own)?;
    let is_wrong = || Error::remote(via, RemoteError::Malformed("its signature is not valid".to_owned()));
    let signature = answer.ed25519_signature(via).ok_or_else(is_wrong)?;
    let signed = policy::with_signature(event, rules, via, key, signature);
    signed.map_err(|error| Error::too_large(error.to_string()))?.ok_or_else(is_wrong)
}

/// An event of another server with the signature of the room's policy server, if that one gives it. Without, it will be
/// soft-failed.
pub async fn complete(server: &Arc<Server>, room: RoomNid, event: Verified) -> Result<Verified> {
    let read = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        Ok((policy_server::lacking(&view, &event)?, view.rules, event))
    };
    let (lacking, rules, event) = server.blocking(read).await?;
    match lacking {
        Some(asked) => sign_if_it_will(server, rules, event, &asked).await,
        None => Ok(event),
    }
}

/// As [`complete`], where the event lacks the signature of `asked`.
pub async fn sign_if_it_will(
    server: &Arc<Server>,
    rules: &'static RoomVersionRules,
    event: Verified,
    asked: &PolicyServer,
) -> Result<Verified> {
    match sign(server, rules, event.clone(), asked).await {
        Ok(signed) => Ok(signed),
        Err(error @ Error::Internal(_)) => Err(error),
        Err(error) => {
            let (event_id, room_id) = (&event.pdu().event_id, &event.pdu().room_id);
            info!(%room_id, %event_id, policy_server = %asked.via, "an event is not recommended: {error:?}");
            Ok(event)
        }
    }
}

/// A refusal of the policy server is for whoever sent the event, word for word. Errcodes that say something of the
/// client's own session are not its to give.
fn as_its_own(error: Error) -> Error {
    let Error::Remote { source: RemoteError::Refused(answer), server } = error else { return error };
    match &answer.body {
        ErrorBody::Standard(body) if answer.status_code.is_client_error() && answer.status_code != 401 => {
            Error::refused(body.kind.clone(), body.message.clone()).with_status(answer.status_code)
        }
        _ => Error::Remote { source: RemoteError::Refused(answer), server },
    }
}
