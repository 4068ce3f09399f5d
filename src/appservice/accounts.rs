//! The users of services: each service's own, and those that it makes.

use std::sync::Arc;

use ruma::{
    OwnedUserId,
    api::error::{ErrorKind, UnknownTokenErrorData},
};

use super::{Appservice, exclusive};
use crate::{
    Server,
    error::{Error, Result},
    store::Store,
    user::{
        account::{self, PreparedAccount},
        directory,
        registration::Registered,
        session::{DeviceRequest, NewSession},
        tables::{Account, Accounts},
    },
};

/// Makes the accounts that services act for if they say nothing, where there are none yet.
pub fn make_bots(store: &Store, services: &super::Appservices, now_ms: u64) -> Result<()> {
    let missing: Vec<OwnedUserId> = {
        let snapshot = store.snapshot();
        let bots = services.iter().map(|service| service.registration.bot.clone());
        let is_there = |bot: &OwnedUserId| account::get(&snapshot, bot).map(|account| account.is_some());
        bots.filter_map(|bot| is_there(&bot).map(|is_there| (!is_there).then_some(bot)).transpose())
            .collect::<Result<_>>()?
    };
    if missing.is_empty() {
        return Ok(());
    }
    store.commit_blocking(move |tx| {
        for bot in &missing {
            tx.put::<Accounts>(&&**bot, &Account::without_password(now_ms));
            directory::add(tx, bot, None)?;
        }
        Ok(())
    })
}

/// The service that a request with `token` comes from. Errors: `M_MISSING_TOKEN`, `M_UNKNOWN_TOKEN`.
pub fn service(server: &Server, token: Option<&str>) -> Result<Arc<Appservice>> {
    let token = token.ok_or_else(Error::missing_token)?;
    let service = server.appservices.with_token(token).ok_or_else(|| {
        let data = UnknownTokenErrorData::new();
        Error::refused(ErrorKind::UnknownToken(data), "No application service has this token")
    })?;
    service.is_alive.notify_one();
    Ok(Arc::clone(&service.registration))
}

/// `M_FORBIDDEN` in place of `M_UNKNOWN_TOKEN`, as the specification has it for a log-in and a ping.
pub fn forbid_unknown_token(error: Error) -> Error {
    match error {
        Error::Refused { kind: ErrorKind::UnknownToken(_), message, .. } => Error::forbidden(message),
        other => other,
    }
}

/// Makes an account without a password, and logs it in if `device` is given.
///
/// Errors: `M_EXCLUSIVE` outside of the service's namespace, `M_USER_IN_USE`.
///
/// <https://spec.matrix.org/v1.19/application-service-api/#server-admin-style-permissions>
pub async fn register(
    server: &Arc<Server>,
    service: &Appservice,
    user_id: OwnedUserId,
    device: Option<DeviceRequest>,
) -> Result<Registered> {
    check_own(server, service, &user_id)?;
    let session = device.map(|device| NewSession::prepare(server, user_id.clone(), device)).transpose()?;
    let account = PreparedAccount::without_password(server, user_id.clone());
    server
        .store
        .commit(move |tx| {
            account.write(tx)?;
            let session = session.map(|session| session.write(tx)).transpose()?;
            Ok(Registered { user_id, session })
        })
        .await
}

/// `M_EXCLUSIVE` for a user who does not belong to the service, or to another one alone.
pub fn check_own(server: &Server, service: &Appservice, user_id: &ruma::UserId) -> Result<()> {
    if !service.has_user(user_id) {
        return Err(exclusive("This user is outside of the application service's namespace"));
    }
    server.appservices.check_user(user_id, Some(service))
}
