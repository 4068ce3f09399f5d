//! Users who had their account erased: what they sent is shown only to those who were there when they sent it.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>

use ruma::UserId;

use super::account;
use crate::{error::Result, store::Snapshot};

pub fn is_erased(snapshot: &Snapshot<'_>, user: &UserId) -> Result<bool> {
    let deactivated = account::get(snapshot, user)?.and_then(|account| account.deactivated);
    Ok(deactivated.is_some_and(|deactivated| deactivated.is_erased))
}
