use std::sync::Arc;

use super::{
    disk_failed,
    files::{FileId, Files},
    remote::tables::RemoteFiles,
    tables::MediaFiles,
};
use crate::{
    Server,
    error::{Error, Result},
    store::Store,
};

/// Uploads that no row names: a crash came between file and row.
pub fn list_orphans(files: &Files, store: &Store) -> anyhow::Result<Vec<FileId>> {
    let mut orphans = Vec::new();
    files.for_each_folder(|ids| {
        let snapshot = store.snapshot(); // after the folder was read: a file that got its row meanwhile has one here
        for id in ids {
            let file = id.to_bytes();
            if !snapshot.contains::<MediaFiles>(&file)? && !snapshot.contains::<RemoteFiles>(&file)? {
                orphans.push(id);
            }
        }
        anyhow::Ok(())
    })?;
    Ok(orphans)
}

/// Removes them; how many there were. A running server makes none, so once after the start is enough.
pub async fn remove_orphans(server: &Arc<Server>) -> Result<usize> {
    let remove = |server: &Server| {
        let orphans = list_orphans(&server.media.files, &server.store).map_err(Error::Internal)?;
        for id in &orphans {
            server.media.files.remove_content(*id).map_err(|error| disk_failed(server, error))?;
        }
        Ok(orphans.len())
    };
    server.blocking(remove).await
}
