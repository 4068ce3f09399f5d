//! Tokens: how clients get them, renew them and give them back.
//! <https://spec.matrix.org/v1.19/client-server-api/#grant-types>

use std::sync::Arc;

use ruma::api::error::ErrorKind;
use tracing::warn;

use super::{
    authorization::{self, Granted, Redeemed},
    client::{self, GrantType},
    device_grant,
    failure::{Code, Failure},
    tables::{Owner, RefreshFamilies, Sessions},
};
use crate::{
    Server,
    error::{Error, Result},
    user::{
        device::{self, Selection},
        session::{self, Api, NewSession, Tokens},
    },
};

/// What a client gets.
pub struct Issued {
    pub tokens: Tokens,
    pub scope: String,
}

/// For a code.
pub async fn by_code(
    server: &Arc<Server>,
    client_id: &str,
    code: &str,
    redirect_uri: &str,
    verifier: &str,
) -> Result<Issued, Failure> {
    let wrong = || Code::InvalidGrant.because("This code is unknown, has ended or was used, or is not for this client");
    let granted = match authorization::redeem(server, code, client_id, redirect_uri, verifier) {
        Redeemed::First(granted) => granted,
        Redeemed::Wrong => return Err(wrong()),
        Redeemed::Again(session) => {
            if let Some(session) = session {
                warn!(user_id = %session.user_id, "a code of OAuth was used twice: its session ends");
                log_out(server, session).await?;
            }
            return Err(wrong());
        }
    };
    let owner = Owner { user_id: granted.user_id.clone(), device_id: granted.scope.device_id.clone() };
    let issued = begin(server, granted).await?;
    if !authorization::note_session(server, code, owner.clone()) {
        log_out(server, owner).await?;
        return Err(wrong());
    }
    Ok(issued)
}

/// For a device code, once its user has agreed.
pub async fn by_device_code(server: &Arc<Server>, client_id: &str, device_code: &str) -> Result<Issued, Failure> {
    begin(server, device_grant::redeem(server, client_id, device_code)?).await
}

async fn begin(server: &Arc<Server>, granted: Granted) -> Result<Issued, Failure> {
    let Granted { user_id, client_id, client, scope } = granted;
    let text = scope.text.clone();
    let session = NewSession::by_oauth(server, user_id, scope, client_id, client)?;
    let session = session::begin(server, session, None).await?;
    Ok(Issued { tokens: session.tokens, scope: text })
}

/// For a refresh token. One that was replaced, and whose successor was used, has been stolen, or its successor has: the
/// session ends.
pub async fn by_refresh_token(server: &Arc<Server>, client_id: &str, token: &str) -> Result<Issued, Failure> {
    client::find(server, client_id)?.check_grant(GrantType::RefreshToken)?;
    match session::refresh(server, token, Api::OAuth { client_id: client_id.to_owned() }).await {
        Ok((tokens, owner)) => {
            let session = server.store.snapshot().get::<Sessions>(&(&owner.user_id, &owner.device_id))?;
            // Logged out at this very moment: the tokens are good no more, and the client will learn that.
            let scope = session.map(|session| session.scope).unwrap_or_default();
            Ok(Issued { tokens, scope })
        }
        Err(error) => {
            let is_unknown = matches!(&error, Error::Refused { kind: ErrorKind::UnknownToken(_), .. });
            if is_unknown && let Some(owner) = session_of_spent(server, token)? {
                warn!(user_id = %owner.user_id, "an old refresh token was used again: its session ends");
                log_out(server, owner).await?;
            }
            Err(error.into())
        }
    }
}

/// The session to which a refresh token belonged that is good no more.
fn session_of_spent(server: &Server, token: &str) -> Result<Option<Owner>> {
    let snapshot = server.store.snapshot();
    if session::owner_of(&snapshot, token)?.is_some() {
        return Ok(None);
    }
    let Some(family) = session::family_of(token) else { return Ok(None) };
    Ok(snapshot.get::<RefreshFamilies>(&session::hash_of(family))?)
}

/// Ends the session of an access or refresh token, whoever sends it: who has it could use it as well.
pub async fn revoke(server: &Arc<Server>, token: &str) -> Result<()> {
    let owner = session::owner_of(&server.store.snapshot(), token)?;
    match owner {
        Some(owner) => log_out(server, owner).await,
        None => Ok(()),
    }
}

async fn log_out(server: &Arc<Server>, owner: Owner) -> Result<()> {
    device::log_out(Arc::clone(server), owner.user_id, Selection::These([owner.device_id].into())).await
}
