//! Whose account an identity is.

use std::sync::Arc;

use ruma::{OwnedUserId, UserId};
use tracing::info;

use super::{
    Failure,
    identity::Identity,
    provider::Provider,
    tables::{self, Link, Links},
};
use crate::{
    Server,
    config::TakenName,
    error::Error,
    store::{Snapshot, Transaction},
    user::{
        account::{self, PreparedAccount},
        email::{self, Proven},
        registration, session,
    },
};

/// How many names are tried if the first is taken.
const MAX_NUMBER: u32 = 1_000;

/// Why somebody whom a provider knows has no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The provider's users get none.
    NoAccount,
    /// The provider names nothing of which a user name could be made.
    NoName,
    /// The name that he would have is another's, or reserved.
    NameTaken,
    /// New users must have an e-mail address that is proved.
    NoEmail,
    /// The account with his e-mail address is that of somebody else at the same provider: the address was given on.
    EmailOfAnother,
}

/// The user to whom an identity is tied, or by his e-mail address is tied now; `None` if there is none. Whether the account
/// can be used is looked at where he is logged in.
pub async fn find(server: &Server, provider: &Provider, identity: &Identity) -> Result<Option<OwnedUserId>, Failure> {
    if let Some(link) = get(&server.store.snapshot(), identity)? {
        return Ok(Some(link.user_id));
    }
    if !provider.config.link_by_email || identity.email.is_none() {
        return Ok(None);
    }
    let (identity, now_ms) = (identity.clone(), server.clock.now_ms());
    server.store.commit(move |tx| link_by_email(tx, &identity, now_ms)).await
}

fn get(snapshot: &Snapshot<'_>, identity: &Identity) -> Result<Option<Link>, Failure> {
    Ok(snapshot.get::<Links>(&(&identity.provider, &identity.subject))?)
}

fn link_by_email(tx: &mut Transaction<'_>, identity: &Identity, now_ms: u64) -> Result<Option<OwnedUserId>, Failure> {
    if let Some(link) = get(tx.before(), identity)? {
        return Ok(Some(link.user_id)); // by a log-in at the same time
    }
    let Some(email) = &identity.email else { return Ok(None) };
    let Some(user) = email::named(tx.before(), email)? else { return Ok(None) };
    session::check_in_use(tx.before(), &user)?;
    if tables::is_linked(tx.before(), &user, &identity.provider)? {
        return Err(Failure::Refused(Refusal::EmailOfAnother));
    }
    tables::put(tx, identity, &user, now_ms);
    info!(provider = identity.provider, %user, "an account was tied to a provider by its e-mail address");
    Ok(Some(user))
}

/// Makes an account for an identity that has none.
pub async fn register(server: &Arc<Server>, provider: &Provider, identity: Identity) -> Result<OwnedUserId, Failure> {
    let must_have_email = server.config.mail.as_ref().is_some_and(|mail| mail.required_to_register);
    if must_have_email && identity.email.is_none() {
        return Err(Failure::Refused(Refusal::NoEmail));
    }
    let numbers = match provider.config.taken_name {
        TakenName::Refuse => 0,
        TakenName::Number => MAX_NUMBER,
    };
    let server_ = Arc::clone(server);
    server.store.commit(move |tx| make(tx, &server_, &identity, numbers)).await
}

fn make(tx: &mut Transaction<'_>, server: &Server, identity: &Identity, numbers: u32) -> Result<OwnedUserId, Failure> {
    if let Some(link) = get(tx.before(), identity)? {
        return Ok(link.user_id); // by a log-in at the same time
    }
    let now_ms = server.clock.now_ms();
    let name = identity.localpart.as_deref().ok_or(Failure::Refused(Refusal::NoName))?;
    let user = free_name(tx.before(), server, name, numbers)?;
    // One that is another's by now is left to him.
    let email = match &identity.email {
        Some(address) if email::named(tx.before(), address)?.is_none() => {
            Some(Proven { address: address.clone(), validated_at_ms: now_ms })
        }
        _ => None,
    };
    let terms = registration::terms_in_effect(&server.config);
    PreparedAccount::by_provider(now_ms, user.clone(), identity.display_name.clone(), email, terms).write(tx)?;
    tables::put(tx, identity, &user, now_ms);
    info!(provider = identity.provider, %user, "an account was made for a provider's user");
    Ok(user)
}

/// The name, or the name with the lowest number that is free.
fn free_name(snapshot: &Snapshot<'_>, server: &Server, name: &str, numbers: u32) -> Result<OwnedUserId, Failure> {
    for number in 0..=numbers {
        let name = if number == 0 { name.to_owned() } else { format!("{name}{number}") };
        let Ok(user) = account::new_user_id(server.name(), &name) else {
            return Err(Failure::Refused(Refusal::NoName)); // it is too long
        };
        match check_free(snapshot, server, &user) {
            Ok(()) => return Ok(user),
            Err(Error::Refused { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(Failure::Refused(Refusal::NameTaken))
}

fn check_free(snapshot: &Snapshot<'_>, server: &Server, user: &UserId) -> Result<(), Error> {
    account::check_free(snapshot, user)?;
    server.appservices.check_user(user, None)
}
