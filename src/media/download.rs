//! Finding what was uploaded.

use std::{fs::File, sync::Arc, time::Duration};

use ruma::{ServerName, api::error::ErrorKind};

use super::{
    Asker, check_id, check_ours, disk_failed, remote,
    tables::{Media, MediaItem, PendingUploads, Stored},
};
use crate::{
    Server,
    error::{Error, Result},
};

/// The longest that a request waits for content that is not there yet, whatever its client asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What that URI names. For one of our users media of other servers are fetched. Nobody else makes this server do that.
///
/// Errors: those of [`find_ours`] and [`remote::find`].
pub async fn find(
    server: &Arc<Server>,
    asker: Asker<'_>,
    (server_name, media_id): (&ServerName, &str),
    patience: Duration,
) -> Result<Stored> {
    check_id(server_name, media_id)?;
    match asker {
        // However our name is written, nobody is asked for what is ours.
        Asker::User(caller) if !server_name.as_str().eq_ignore_ascii_case(server.name().as_str()) => {
            remote::find(server, caller, server_name, media_id, patience.min(LONGEST_WAIT)).await
        }
        _ => find_ours(server, server_name, media_id, patience).await,
    }
}

/// What that URI of ours names. Waits for `patience` if its content is still to come.
///
/// Errors: `M_NOT_FOUND`, `M_NOT_YET_UPLOADED`.
pub async fn find_ours(
    server: &Arc<Server>,
    server_name: &ServerName,
    media_id: &str,
    patience: Duration,
) -> Result<Stored> {
    check_ours(server, server_name, media_id)?;
    let deadline = tokio::time::Instant::now() + patience.min(LONGEST_WAIT);
    loop {
        let mut arrival = std::pin::pin!(server.media.arrivals.notified());
        arrival.as_mut().enable(); // before looking, so that what arrives meanwhile is not missed
        let (item, is_announced) = look(server, media_id)?;
        if let Some(item) = item {
            return Ok(item.into());
        }
        if !is_announced {
            let of_page = remote::cached(server, server.name(), media_id).await?;
            return of_page.ok_or_else(|| Error::not_found("There is no such media"));
        }
        tokio::select! {
            () = arrival => {}
            () = tokio::time::sleep_until(deadline) => return Err(not_yet()),
            () = server.shutdown.cancelled() => return Err(not_yet()),
        }
    }
}

/// What was uploaded, and whether it is still to come.
fn look(server: &Server, media_id: &str) -> Result<(Option<MediaItem>, bool)> {
    let snapshot = server.store.snapshot();
    let pending = snapshot.get::<PendingUploads>(&media_id)?;
    let is_announced = pending.is_some_and(|pending| pending.expires_at_ms > server.clock.now_ms());
    Ok((snapshot.get::<Media>(&media_id)?, is_announced))
}

fn not_yet() -> Error {
    Error::refused(ErrorKind::NotYetUploaded, "The content was not yet uploaded")
}

/// The bytes of an upload.
pub async fn open(server: &Arc<Server>, item: &Stored) -> Result<File> {
    let file = item.file;
    server.blocking(move |server| server.media.files.open_content(file).map_err(|e| disk_failed(server, e))).await
}
