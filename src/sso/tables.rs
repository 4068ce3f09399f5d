//! Who is tied to which account.

use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::store::{Family, Record, Snapshot, Table, TableInfo, Transaction};

pub const ALL: &[TableInfo] = &[TableInfo::of::<Links>(), TableInfo::of::<LinksOfUser>()];

/// The account of each identity. A row stays when its account is given up: whoever it is can't come back as somebody new.
pub struct Links;
impl Table for Links {
    const NAME: &'static str = "sso_links";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 250;
    /// The provider's id in the configuration, and its name for the person (`sub`).
    type Key<'a> = (&'a str, &'a str);
    type Value = Link;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub user_id: OwnedUserId,
    /// Milliseconds since the Unix epoch.
    pub made_at_ms: u64,
}

impl Record for Link {}

/// The identities of each account: a row for each row of `Links`.
pub struct LinksOfUser;
impl Table for LinksOfUser {
    const NAME: &'static str = "sso_links_of_user";
    const FAMILY: Family = Family::User;
    const ID: u8 = 251;
    type Key<'a> = (&'a UserId, &'a str, &'a str);
    type Value = ();
}

pub fn put(tx: &mut Transaction<'_>, identity: &Identity, user: &UserId, now_ms: u64) {
    let (provider, subject) = (identity.provider.as_str(), identity.subject.as_str());
    tx.put::<Links>(&(provider, subject), &Link { user_id: user.to_owned(), made_at_ms: now_ms });
    tx.put::<LinksOfUser>(&(user, provider, subject), &());
}

/// Whether somebody whom this provider knows has the account.
pub fn is_linked(snapshot: &Snapshot<'_>, user: &UserId, provider: &str) -> crate::store::Result<bool> {
    snapshot.list::<LinksOfUser>(&(user, provider)).next().transpose().map(|row| row.is_some())
}
