//! Questions to services, before something of their namespaces is said not to exist: they may make it then.
//!
//! <https://spec.matrix.org/v1.19/application-service-api/#querying>

use std::sync::Arc;

use http::{Method, StatusCode};
use ruma::{RoomAliasId, UserId};
use tracing::debug;

use super::{Interest, Running, call};
use crate::{Server, error::Result, room::aliases, user::account};

/// Whether there is such a user of ours, after the services to which he would belong were asked for him.
pub async fn user_exists(server: &Arc<Server>, user: &UserId) -> Result<bool> {
    let is_there = || account::get(&server.store.snapshot(), user).map(|account| account.is_some());
    if is_there()? {
        return Ok(true);
    }
    for service in server.appservices.iter().filter(|service| service.registration.has_user(user)) {
        if ask(server, service, &["users", user.as_str()]).await && is_there()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Asks for an alias that we do not know the services to which it would belong. What they made is there then.
pub async fn alias(server: &Arc<Server>, alias: &RoomAliasId) -> Result<()> {
    if alias.server_name() != server.name() || aliases::resolve(&server.store.snapshot(), alias)?.is_some() {
        return Ok(());
    }
    let of_alias = |service: &&Arc<Running>| service.registration.alias(alias) > Interest::None;
    for service in server.appservices.iter().filter(of_alias) {
        if ask(server, service, &["rooms", alias.as_str()]).await {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether the service says that it is there. One that can't be asked says no.
async fn ask(server: &Server, service: &Running, path: &[&str]) -> bool {
    let client = &server.appservices.client;
    match call::request(client, &service.registration, Method::GET, path, &[], None).await {
        Ok(_) => true,
        Err(call::Failure::Status(StatusCode::NOT_FOUND, _)) => false,
        Err(error) => {
            debug!(service = service.registration.id, %error, "an application service can't be asked");
            false
        }
    }
}
