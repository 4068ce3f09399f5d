//! Accounts that an administrator of the server has stopped, for a while: a locked one can't be used at all, a suspended
//! one only to read and to tidy up.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#account-moderation>

use std::sync::Arc;

use ruma::{UserId, api::error::ErrorKind};

use super::{
    account,
    tables::{Account, Accounts},
};
use crate::{
    Server,
    error::{Error, Result},
    event::Draft,
    room::{Membership, View, server_notices, view::membership_in},
    store::{Snapshot, Transaction},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Lock,
    Suspend,
}

impl Measure {
    fn of(self, account: &mut Account) -> &mut bool {
        match self {
            Self::Lock => &mut account.is_locked,
            Self::Suspend => &mut account.is_suspended,
        }
    }
}

/// Whether a measure is taken against an account. Errors: as [`set`].
pub fn is_set(server: &Server, admin: &UserId, target: &UserId, measure: Measure) -> Result<bool> {
    let mut account = checked(server, &server.store.snapshot(), admin, target)?;
    Ok(*measure.of(&mut account))
}

/// Takes a measure, or takes it back.
///
/// Errors: `M_FORBIDDEN` unless `admin` administers the server and `target` does not; `M_INVALID_PARAM` for users of
/// other servers; `M_NOT_FOUND`.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv1adminlockuserid>
pub async fn set(server: &Arc<Server>, admin: &UserId, target: &UserId, measure: Measure, is_set: bool) -> Result<()> {
    checked(server, &server.store.snapshot(), admin, target)?;
    let user = target.to_owned();
    let write = move |tx: &mut Transaction<'_>| account::update(tx, &user, |account| *measure.of(account) = is_set);
    server.commit_and_wake(target, write).await // a sync that waits must end
}

/// Who asks is looked at first: nobody else learns which accounts there are.
fn checked(server: &Server, snapshot: &Snapshot<'_>, admin: &UserId, target: &UserId) -> Result<Account> {
    if !account::is_admin(snapshot, admin)? {
        return Err(Error::forbidden("You do not administer this server"));
    }
    if !server.is_ours(target) {
        return Err(Error::invalid_param("That user is not one of this server"));
    }
    let account = account::get(snapshot, target)?.filter(|account| account.is_active());
    let account = account.ok_or_else(|| Error::not_found("There is no such user"))?;
    if account.is_admin {
        return Err(Error::forbidden("That user administers this server"));
    }
    Ok(account)
}

/// `M_USER_LOCKED` if it is so.
pub fn check_unlocked(account: &Account) -> Result<()> {
    match account.is_locked {
        true => Err(Error::refused(ErrorKind::UserLocked, "This account has been locked")),
        false => Ok(()),
    }
}

/// `M_USER_SUSPENDED` if it is so.
pub fn check_not_suspended(snapshot: &Snapshot<'_>, user: &UserId) -> Result<()> {
    if is_suspended(snapshot, user)? { Err(suspended()) } else { Ok(()) }
}

pub fn is_suspended(snapshot: &Snapshot<'_>, user: &UserId) -> Result<bool> {
    Ok(snapshot.get::<Accounts>(&user)?.is_some_and(|account| account.is_suspended))
}

/// Whether `sender` may send this while his account is as it is. Who is suspended may leave rooms, take back what he
/// said, and answer the administrators in the room where they write to him.
pub fn check_draft(view: &View<'_>, sender: &UserId, draft: &Draft) -> Result<()> {
    if !is_suspended(view.snapshot, sender)? {
        return Ok(());
    }
    let is_own_leave = draft.event_type == "m.room.member"
        && draft.state_key.as_deref() == Some(sender.as_str())
        && membership_in(draft.content.get()) == Some(Membership::Leave);
    let is_allowed = is_own_leave
        || redacts_own(view, sender, draft)?
        || server_notices::room_of(view.snapshot, sender)? == Some(view.nid);
    if is_allowed { Ok(()) } else { Err(suspended()) }
}

fn redacts_own(view: &View<'_>, sender: &UserId, draft: &Draft) -> Result<bool> {
    if draft.event_type != "m.room.redaction" {
        return Ok(false);
    }
    let target = match &draft.redacts {
        Some(target) => target.clone(),
        None => crate::room::redact::target_in(&draft.content)?,
    };
    Ok(view.event_by_id(&target)?.is_some_and(|event| event.sender == sender))
}

fn suspended() -> Error {
    Error::refused(ErrorKind::UserSuspended, "You cannot perform this action while suspended")
}
