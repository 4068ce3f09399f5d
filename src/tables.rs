//! Every table of the database in one list. What a table holds is said where its owner is; ids are unique in a family
//! and never used again.

use serde::{Deserialize, Serialize};

use crate::{
    appservice::tables as appservices,
    federation::{
        inbox,
        keys::end_old_keys,
        queue::tables as queue,
        tables::{self as federation, VerifyKey},
    },
    log,
    media::tables as media,
    oauth::tables as oauth,
    push, reports,
    room::{
        delayed::tables as delayed, founding, partial::tables as partial, related_redactions, relationships,
        retention::purge, sticky, tables as room, typing,
    },
    sso::tables as sso,
    store::{Family, Migration, Record, Store, Table, TableInfo},
    sync::sliding::tables as sliding,
    user::{directory, keys::tables as keys, profile, tables as user, thread_subscriptions},
};

/// Changes of the layout on disk since the first release, oldest first.
pub const MIGRATIONS: &[Migration] = &[Migration { name: "end old keys", step: end_old_keys }];

/// All tables, those of the store itself included.
pub fn all() -> impl Iterator<Item = &'static TableInfo> {
    Store::own_tables()
        .iter()
        .chain(&OWN)
        .chain(&log::TABLES)
        .chain(&reports::TABLES)
        .chain(&inbox::TABLES)
        .chain(room::ALL)
        .chain(user::ALL)
        .chain(media::ALL)
        .chain(keys::ALL)
        .chain(oauth::ALL)
        .chain(sso::ALL)
        .chain(push::ALL)
        .chain(queue::ALL)
        .chain(appservices::ALL)
        .chain(sliding::ALL)
        .chain(federation::ALL)
        .chain(&directory::TABLES)
        .chain(delayed::ALL)
        .chain(&thread_subscriptions::TABLES)
        .chain(&profile::CHANGES)
        .chain(&sticky::TABLES)
        .chain(&relationships::TABLES)
        .chain(&related_redactions::TABLES)
        .chain(&purge::TABLES)
        .chain(partial::ALL)
        .chain(&founding::TABLES)
        .chain(&typing::TABLES)
}

const OWN: [TableInfo; 2] = [TableInfo::of::<SigningKey>(), TableInfo::of::<OldSigningKeys>()];

/// The key that signs our events.
pub struct SigningKey;
impl Table for SigningKey {
    const NAME: &'static str = "signing_key";
    const FAMILY: Family = Family::Meta;
    const ID: u8 = 16;
    type Key<'a> = ();
    type Value = KeptSigningKey;
}

#[derive(Clone, Serialize, Deserialize)]
pub struct KeptSigningKey {
    /// The part of the key id after `ed25519:`.
    pub version: String,
    /// PKCS #8, as ruma generates it.
    pub document: Vec<u8>,
}

impl Record for KeptSigningKey {}

/// Without the key itself: `chappe inspect` and logs print this.
impl std::fmt::Debug for KeptSigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptSigningKey").field("version", &self.version).finish_non_exhaustive()
    }
}

/// The keys that signed our events before; public parts only.
pub struct OldSigningKeys;
impl Table for OldSigningKeys {
    const NAME: &'static str = "old_signing_keys";
    const FAMILY: Family = Family::Meta;
    const ID: u8 = 220;
    /// The key's id, `ed25519:…`.
    type Key<'a> = &'a str;
    type Value = VerifyKey;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_tables_share_a_place_or_a_name() {
        let mut names = HashSet::new();
        let mut places = HashSet::new();
        for table in all() {
            assert!(names.insert(table.name), "two tables are called {}", table.name);
            assert!(places.insert((table.family, table.id)), "{} lies where another table does", table.name);
        }
    }
}
