//! Finding what was uploaded.

use std::{fs::File, sync::Arc, time::Duration};

use ruma::{ServerName, UserId, api::error::ErrorKind};

use super::{
    check_id, check_ours, disk_failed, remote,
    tables::{Media, PendingUploads, Stored},
};
use crate::{
    Server,
    error::{Error, Result},
};

/// The longest that a request waits for content that is not there yet, whatever its client asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What that URI names, for one of our users: media of other servers are fetched. Nobody else makes this server do that.
///
/// Errors: those of [`find_ours`] and [`remote::find`].
pub async fn find(
    server: &Arc<Server>,
    user: Option<&UserId>,
    (server_name, media_id): (&ServerName, &str),
    patience: Duration,
) -> Result<Stored> {
    check_id(server_name, media_id)?;
    match user {
        // However our name is written, nobody is asked for what is ours.
        Some(user) if !server_name.as_str().eq_ignore_ascii_case(server.name().as_str()) => {
            remote::find(server, user, server_name, media_id, patience.min(LONGEST_WAIT)).await
        }
        _ => find_ours(server, server_name, media_id, patience).await,
    }
}

/// What that URI of ours names. Waits for `patience` if its content is still to come.
///
/// Errors: `M_NOT_FOUND`, `M_NOT_YET_UPLOADED`.
pub async fn find_ours(
    server: &Server,
    server_name: &ServerName,
    media_id: &str,
    patience: Duration,
) -> Result<Stored> {
    check_ours(server, server_name, media_id)?;
    let deadline = tokio::time::Instant::now() + patience.min(LONGEST_WAIT);
    loop {
        let mut arrival = std::pin::pin!(server.media.arrivals.notified());
        arrival.as_mut().enable(); // before looking, so that what arrives meanwhile is not missed
        if let Some(item) = look(server, media_id)? {
            return Ok(item);
        }
        tokio::select! {
            () = arrival => {}
            () = tokio::time::sleep_until(deadline) => return Err(not_yet()),
            () = server.shutdown.cancelled() => return Err(not_yet()),
        }
    }
}

/// `None` if the content is still to come.
fn look(server: &Server, media_id: &str) -> Result<Option<Stored>> {
    let snapshot = server.store.snapshot();
    if let Some(item) = snapshot.get::<Media>(&media_id)? {
        return Ok(Some(item.into()));
    }
    match snapshot.get::<PendingUploads>(&media_id)? {
        Some(pending) if pending.expires_at_ms > server.clock.now_ms() => Ok(None),
        _ => Err(Error::not_found("There is no such media")),
    }
}

fn not_yet() -> Error {
    Error::refused(ErrorKind::NotYetUploaded, "The content was not yet uploaded")
}

/// The bytes of an upload.
pub async fn open(server: &Arc<Server>, item: &Stored) -> Result<File> {
    let file = item.file;
    server.blocking(move |server| server.media.files.open_content(file).map_err(|e| disk_failed(server, e))).await
}
