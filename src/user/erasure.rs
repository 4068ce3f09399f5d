//! Users who had their account erased: what they sent is shown only to those who were there when they sent it.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>

use ruma::UserId;

use super::tables::ErasedUsers;
use crate::store::{Result, Snapshot};

pub fn is_erased(snapshot: &Snapshot<'_>, user: &UserId) -> Result<bool> {
    snapshot.contains::<ErasedUsers>(&user)
}
