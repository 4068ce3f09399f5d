//! Application services: programs of the administrator that act for many users, such as bridges to other networks.
//!
//! <https://spec.matrix.org/v1.19/application-service-api/>

pub mod accounts;
pub mod call;
pub mod ephemeral;
mod interest;
pub mod query;
pub mod registration;
pub mod sender;
pub mod tables;
pub mod third_party;
mod transaction;

use std::{collections::HashMap, sync::Arc};

use quick_cache::sync::Cache;
use ruma::{OwnedUserId, RoomAliasId, UserId, api::error::ErrorKind};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use self::{ephemeral::Mailbox, tables::Invites};
pub use self::{
    interest::any_member,
    registration::{Appservice, Interest},
};
use crate::{
    Server,
    config::{Config, ConfigError},
    error::{Error, Result},
    room::{Membership, tables::UserRooms},
    store::{RoomNid, Transaction},
    user::{account, device, session::Caller, tables::Account},
};

/// Of how many rooms it is kept whether they concern a service: some 2 MB.
const KNOWN_ROOMS: usize = 20_000;

/// Those that the configuration registers, and what is known of them while the server runs.
pub struct Appservices {
    /// For requests to them.
    pub client: call::Client,
    services: Vec<Arc<Running>>,
    /// By the hash of the token: looking it up takes as long whatever of it is right.
    by_token: HashMap<[u8; 32], usize>,
}

/// One service.
pub struct Running {
    pub registration: Arc<Appservice>,
    /// Typing, receipts and presence that it is still to be told.
    mailbox: Mailbox,
    /// It called us, so it can be called.
    is_alive: Notify,
    /// Which rooms concern it, of those where something happened of late.
    rooms: Cache<RoomNid, interest::Known>,
}

impl Running {
    fn new(registration: Appservice) -> Self {
        Self {
            registration: Arc::new(registration),
            mailbox: Mailbox::default(),
            is_alive: Notify::new(),
            rooms: Cache::new(KNOWN_ROOMS),
        }
    }
}

impl Appservices {
    /// Reads the registration files that the configuration names.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let services = registration::read(&config.appservice_registrations, &config.server_name).map_err(|error| {
            let problem = format!("cannot be used ({error:#})");
            ConfigError::one("appservice_registrations", problem, "correct the file, or leave it out")
        })?;
        let hash = |(index, service): (usize, &Appservice)| (hash_of(service.as_token.expose()), index);
        let by_token = services.iter().enumerate().map(hash).collect();
        let running = |registration| Arc::new(Running::new(registration));
        Ok(Self { client: call::Client::new(config), services: services.into_iter().map(running).collect(), by_token })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Running>> {
        self.services.iter()
    }

    pub fn with_token(&self, token: &str) -> Option<&Arc<Running>> {
        let index = *self.by_token.get(&hash_of(token))?;
        self.services.get(index)
    }

    /// Those that are told of their users' to-device messages.
    pub fn told_to_device(&self) -> impl Iterator<Item = &Arc<Appservice>> {
        let registrations = self.iter().map(|service| &service.registration);
        registrations.filter(|service| service.wants_ephemeral && service.url.is_some())
    }

    /// Whether no limit holds for what a service does as this user, where nobody knows any more who asked for it: so not
    /// for users whom others may act as too.
    pub fn is_unlimited(&self, user: &UserId) -> bool {
        let mut registrations = self.iter().map(|service| &service.registration);
        registrations.any(|service| {
            service.is_unlimited_as(user) && service.user(user) == Interest::Exclusive // the sender is so too
        })
    }

    /// `M_EXCLUSIVE` for the name of a new user that belongs to a service, other than `by`.
    pub fn check_user(&self, user: &UserId, by: Option<&Appservice>) -> Result<()> {
        let taken = |service: &Appservice| service.user(user) == Interest::Exclusive;
        self.check(taken, by, "This name is reserved by an application service")
    }

    /// `M_EXCLUSIVE` for an alias that belongs to a service, other than `by`, which must be one of its own.
    pub fn check_alias(&self, alias: &RoomAliasId, by: Option<&Appservice>) -> Result<()> {
        if by.is_some_and(|by| by.alias(alias) == Interest::None) {
            return Err(exclusive("This alias is outside of the application service's namespace"));
        }
        let taken = |service: &Appservice| service.alias(alias) == Interest::Exclusive;
        self.check(taken, by, "This alias is reserved by an application service")
    }

    fn check(
        &self,
        is_taken: impl Fn(&Appservice) -> bool,
        by: Option<&Appservice>,
        message: &'static str,
    ) -> Result<()> {
        let others = self.iter().map(|service| &*service.registration).filter(|service| Some(*service) != by);
        match others.into_iter().any(is_taken) {
            true => Err(exclusive(message)),
            false => Ok(()),
        }
    }
}

/// As whom a service acts, in the query of its request.
#[derive(Default, Deserialize)]
pub struct Assertion {
    user_id: Option<String>,
    device_id: Option<String>,
    #[serde(rename = "org.matrix.msc3202.device_id")]
    unstable_device_id: Option<String>,
}

/// As whom the owner of `token` acts, and the account, which may be locked; `None` if it is no token of a service.
///
/// Errors: `M_FORBIDDEN` for users that are not the service's or do not exist, `M_UNKNOWN_DEVICE`.
///
/// <https://spec.matrix.org/v1.19/application-service-api/#identity-assertion>
pub fn caller(server: &Server, token: &str, assertion: Assertion) -> Result<Option<(Caller, Account)>> {
    let Some(service) = server.appservices.with_token(token) else { return Ok(None) };
    service.is_alive.notify_one();
    let registration = &service.registration;
    let user_id = match assertion.user_id {
        None => registration.bot.clone(),
        Some(text) => OwnedUserId::try_from(text).map_err(|_| Error::invalid_param("`user_id` is no user id"))?,
    };
    if !registration.has_user(&user_id) {
        return Err(Error::forbidden("This user does not belong to the application service"));
    }
    let snapshot = server.store.snapshot();
    let account = match account::get(&snapshot, &user_id)? {
        None => return Err(Error::forbidden("The application service has not registered this user")),
        Some(account) if !account.is_active() => {
            return Err(Error::refused(ErrorKind::UserDeactivated, "This account has been deactivated"));
        }
        Some(account) => account,
    };
    let device_id = assertion.device_id.or(assertion.unstable_device_id).unwrap_or_default().into();
    let appservice = Some(Arc::clone(registration));
    let caller = Caller { appservice, ..Caller::on_device(user_id, device_id) };
    if caller.has_device() && device::get(&snapshot, &caller.user_id, &caller.device_id)?.is_none() {
        return Err(Error::refused(custom("M_UNKNOWN_DEVICE"), "The user has no such device"));
    }
    Ok(Some((caller, account)))
}

/// Notes for the services of `user` that he was invited to a room that we are not in: such an event is not in the log.
pub async fn invited(server: &Server, user: &UserId, room: RoomNid) -> Result<()> {
    let told = |service: &&Arc<Running>| service.registration.url.is_some() && service.registration.has_user(user);
    let services: Vec<String> =
        server.appservices.iter().filter(told).map(|service| service.registration.id.clone()).collect();
    if services.is_empty() {
        return Ok(());
    }
    let user = user.to_owned();
    let write = move |tx: &mut Transaction<'_>| {
        let row = tx.get::<UserRooms>(&(&user, room))?.filter(|row| row.membership == Membership::Invite);
        if let Some(row) = row {
            for service in &services {
                tx.put::<Invites>(&(service, row.since, room), &row.event);
            }
        }
        Ok(())
    };
    server.store.commit(write).await
}

pub fn exclusive(message: &'static str) -> Error {
    Error::refused(ErrorKind::Exclusive, message)
}

/// An errcode that ruma has no name for.
pub fn custom(errcode: &str) -> ErrorKind {
    let json = serde_json::json!({ "errcode": errcode });
    serde_json::from_value(json).expect("ruma reads any errcode")
}

fn hash_of(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
