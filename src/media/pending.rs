//! Media ids that are given out before their content comes.

use std::{sync::Arc, time::Duration};

use ruma::{OwnedMxcUri, OwnedUserId, UserId, api::error::ErrorKind};

use super::{
    ID_LENGTH,
    tables::{Media, PendingOfUser, PendingUpload, PendingUploads},
    uri,
};
use crate::{
    Server,
    error::{Error, Result},
    store::{Snapshot, Transaction},
};

/// How many rows one transaction removes: others wait for it.
const BATCH: usize = 500;

/// A new media id, without content, and when it expires: milliseconds since the Unix epoch.
///
/// Errors: `M_LIMIT_EXCEEDED` for whoever has too many that wait for their content, `M_FORBIDDEN` if nobody may.
pub async fn create(server: &Server, user: OwnedUserId) -> Result<(OwnedMxcUri, u64)> {
    let now = server.clock.now_ms();
    let lifetime = server.config.media.pending_upload_lifetime.as_millis();
    let expires_at_ms = now.saturating_add(u64::try_from(lifetime).unwrap_or(u64::MAX));
    let allowed = server.config.media.max_pending_uploads;
    if allowed == 0 {
        return Err(Error::forbidden("This server takes no announced uploads"));
    }
    let id = server.random.text(ID_LENGTH);
    let uri = uri(server, &id);
    let create = move |tx: &mut Transaction<'_>| {
        check_count(tx, &user, now, allowed)?;
        tx.put::<PendingOfUser>(&(&user, &id), &expires_at_ms);
        tx.put::<PendingUploads>(&id.as_str(), &PendingUpload { user, expires_at_ms });
        Ok::<_, Error>(())
    };
    server.store.commit(create).await?;
    Ok((uri, expires_at_ms))
}

fn check_count(tx: &Transaction<'_>, user: &UserId, now: u64, allowed: usize) -> Result<()> {
    let mut waiting = 0;
    let mut next_end = u64::MAX;
    for row in tx.before().list::<PendingOfUser>(&user) {
        let expires_at_ms = row?.value;
        if expires_at_ms > now {
            waiting += 1;
            next_end = next_end.min(expires_at_ms);
        }
    }
    if waiting < allowed { Ok(()) } else { Err(Error::limit_exceeded(Duration::from_millis(next_end - now))) }
}

/// The pending upload of `user` with that id, as the database has it `now`.
///
/// Errors: `M_NOT_FOUND` if there is none or its time is over, `M_FORBIDDEN` if it is somebody else's,
/// `M_CANNOT_OVERWRITE_MEDIA` if it already has content.
pub(super) fn check(snapshot: &Snapshot<'_>, user: &UserId, media_id: &str, now: u64) -> Result<()> {
    let not_yours = || Error::forbidden("Somebody else created this media ID");
    if let Some(item) = snapshot.get::<Media>(&media_id)? {
        let overwrite = || Error::refused(ErrorKind::CannotOverwriteMedia, "Media already uploaded");
        return Err(if item.uploader == user { overwrite() } else { not_yours() });
    }
    match snapshot.get::<PendingUploads>(&media_id)? {
        Some(pending) if pending.expires_at_ms <= now => Err(Error::not_found("This media ID has expired")),
        Some(pending) if pending.user != user => Err(not_yours()),
        Some(_) => Ok(()),
        None => Err(Error::not_found("Unknown media ID")),
    }
}

pub(super) fn delete(tx: &mut Transaction<'_>, user: &UserId, media_id: &str) {
    tx.delete::<PendingUploads>(&media_id);
    tx.delete::<PendingOfUser>(&(user, media_id));
}

/// Removes what has expired; how many rows there were.
pub async fn remove_expired(server: &Arc<Server>) -> Result<usize> {
    let now = server.clock.now_ms();
    let find = move |snapshot: &Snapshot<'_>| {
        let mut expired = Vec::new();
        for row in snapshot.list::<PendingUploads>(&()) {
            let row = row?;
            if row.value.expires_at_ms <= now {
                expired.push((row.value.user.clone(), row.key()?.to_owned()));
            }
        }
        Ok(expired)
    };
    let expired = server.read(find).await?;
    for batch in expired.chunks(BATCH) {
        let batch = batch.to_vec();
        let remove = move |tx: &mut Transaction<'_>| {
            batch.iter().for_each(|(user, media_id)| delete(tx, user, media_id));
            Ok::<_, Error>(())
        };
        server.store.commit_when_full(remove).await?;
    }
    Ok(expired.len())
}
