//! Numbered migrations of the layout on disk. Each goes on where it was when the process ended.

use std::path::Path;

use tracing::info;

use super::{Error, Family, Result, Snapshot, Store, Table, Transaction};

/// The number of the newest migration that is complete.
pub(super) struct LayoutVersion;
impl Table for LayoutVersion {
    const NAME: &'static str = "layout_version";
    const FAMILY: Family = Family::Meta;
    const ID: u8 = 2;
    type Key<'a> = ();
    type Value = u64;
}

/// Where the unfinished migration goes on.
pub(super) struct MigrationCursor;
impl Table for MigrationCursor {
    const NAME: &'static str = "migration_cursor";
    const FAMILY: Family = Family::Meta;
    const ID: u8 = 3;
    type Key<'a> = ();
    type Value = Vec<u8>;
}

/// What one step of a migration leaves to do.
pub enum Step {
    /// More, from this cursor on.
    Next(Vec<u8>),
    Done,
}

/// One change of the layout. `step` is given the cursor that its last step returned (empty at first); what it writes
/// and the cursor become durable together.
pub struct Migration {
    pub name: &'static str,
    pub step: fn(&mut Transaction<'_>, &[u8]) -> Result<Step>,
}

/// Brings an opened database to the newest layout, that is the number of `migrations`.
pub(super) fn migrate(store: &Store, migrations: &'static [Migration]) -> Result<()> {
    let newest = migrations.len() as u64;
    let Some(found) = store.snapshot().get::<LayoutVersion>(&())? else {
        return store.commit_blocking(move |tx| {
            tx.put::<LayoutVersion>(&(), &newest); // a new database has the newest layout
            Ok(())
        });
    };
    check_not_newer(found, newest, store.path())?;
    for (number, migration) in (found + 1..).zip(migrations.iter().skip(usize::try_from(found).unwrap_or(usize::MAX))) {
        info!(number, migration.name, "migrating the database");
        while !store.commit_blocking(move |tx| step(tx, number, migration))? {}
    }
    Ok(())
}

/// An error if a database that is only looked at has not the newest layout.
pub(super) fn check_layout(snapshot: &Snapshot<'_>, path: &Path, migrations: &'static [Migration]) -> Result<()> {
    let newest = migrations.len() as u64;
    let found = snapshot.get::<LayoutVersion>(&())?.unwrap_or_default();
    check_not_newer(found, newest, path)?;
    if found == newest {
        return Ok(());
    }
    let reason = "was written by an older chappe: start the server once, which brings it up to date".to_owned();
    Err(Error::Directory { path: path.to_owned(), reason })
}

fn check_not_newer(found: u64, newest: u64, path: &Path) -> Result<()> {
    if found <= newest {
        return Ok(());
    }
    let reason =
        format!("was written by a newer chappe (layout {found}; this one knows {newest}): install that version again");
    Err(Error::Directory { path: path.to_owned(), reason })
}

/// Whether the migration is complete.
fn step(tx: &mut Transaction<'_>, number: u64, migration: &Migration) -> Result<bool> {
    let cursor = tx.get::<MigrationCursor>(&())?.unwrap_or_default();
    match (migration.step)(tx, &cursor)? {
        Step::Next(cursor) => {
            tx.put::<MigrationCursor>(&(), &cursor);
            Ok(false)
        }
        Step::Done => {
            tx.delete::<MigrationCursor>(&());
            tx.put::<LayoutVersion>(&(), &number);
            Ok(true)
        }
    }
}
