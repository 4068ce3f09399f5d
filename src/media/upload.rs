//! Receiving files.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::StatusCode;
use ruma::{
    OwnedMxcUri, OwnedUserId, ServerName, UserId,
    api::error::{ErrorKind, UserLimitExceededErrorData},
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{
    ID_LENGTH, check_ours, disk_failed,
    files::{FileId, NewFile},
    pending,
    tables::{Media, MediaFiles, MediaItem, MediaUsage, Usage},
    under_way::Coming,
    uri,
};
use crate::{
    Server,
    config::ByteSize,
    error::{Error, Result},
    store::{self, Snapshot, Transaction},
};

/// What is served for a missing content type, and for one that can't be kept.
const UNKNOWN_TYPE: &str = "application/octet-stream";
/// Longer ones say nothing that a client could use. Bytes.
const MAX_CONTENT_TYPE: usize = 255;
/// More than file systems allow, so nobody's file is refused. Bytes.
pub(super) const MAX_FILE_NAME: usize = 1_024;
/// How often, in bytes, it is looked whether the disk still has room.
const SPACE_CHECKED_EVERY: u64 = 4 << 20;

/// What an uploader says about a file.
#[derive(Clone, Debug)]
pub struct Description {
    pub(super) content_type: String,
    pub(super) file_name: Option<String>,
}

impl Description {
    /// Both from the client. Error: `M_INVALID_PARAM` for a file name that is too long.
    pub fn new(content_type: Option<String>, file_name: Option<String>) -> Result<Self> {
        let file_name = file_name.filter(|name| !name.is_empty());
        if file_name.as_ref().is_some_and(|name| name.len() > MAX_FILE_NAME) {
            return Err(Error::invalid_param("The file name is too long"));
        }
        let content_type = content_type.map(|text| text.trim().to_owned());
        let content_type = content_type.filter(|text| !text.is_empty() && text.len() <= MAX_CONTENT_TYPE);
        Ok(Self { content_type: content_type.unwrap_or_else(|| UNKNOWN_TYPE.to_owned()), file_name })
    }
}

/// Keeps a file under a new URI. When this returns, neither a crash nor a power cut can lose it.
///
/// Errors: `M_TOO_LARGE`, `M_USER_LIMIT_EXCEEDED` or `M_FORBIDDEN` for whoever has used up his storage, `M_LIMIT_EXCEEDED` if
/// too many uploads are under way, and those of `content`.
pub async fn upload(
    server: Arc<Server>,
    user: OwnedUserId,
    description: Description,
    content: impl Stream<Item = Result<Bytes>>,
) -> Result<OwnedMxcUri> {
    let received = receive_from(&server, &user, content).await?;
    let media_id = server.random.text(ID_LENGTH);
    let uri = uri(&server, &media_id);
    // Even if the client hangs up now: file and row go together.
    Server::detached(keep(server, user, media_id, description, received, Origin::New)).await?;
    Ok(uri)
}

/// Brings the content of a media id that `user` created before.
///
/// Errors: `M_NOT_FOUND` for an id that was not created or has expired, `M_FORBIDDEN` for somebody else's,
/// `M_CANNOT_OVERWRITE_MEDIA`, and those of [`upload`].
pub async fn upload_to(
    server: Arc<Server>,
    user: OwnedUserId,
    (server_name, media_id): (&ServerName, String),
    description: Description,
    content: impl Stream<Item = Result<Bytes>>,
) -> Result<()> {
    check_ours(&server, server_name, &media_id)?;
    pending::check(&server.store.snapshot(), &user, &media_id, server.clock.now_ms())?;
    let received = receive_from(&server, &user, content).await?;
    Server::detached(keep(server, user, media_id, description, received, Origin::Pending)).await
}

/// Where a media id comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    New,
    Pending,
}

/// A file that has no row yet.
pub(super) struct Received {
    pub file: NewFile,
    pub size: u64,
    pub sha256: [u8; 32],
}

/// Receives what `user` uploads, and counts it for his storage as it comes.
async fn receive_from(
    server: &Arc<Server>,
    user: &UserId,
    content: impl Stream<Item = Result<Bytes>>,
) -> Result<(Received, Coming)> {
    check_quota(server, &server.store.snapshot(), user, 0)?;
    let mut coming = server.media.under_way.begin(user).await?;
    let content = content.map(|bytes| {
        let bytes = bytes?;
        let size = coming.add(bytes.len() as u64);
        check_quota(server, &server.store.snapshot(), user, size)?;
        Ok::<_, Error>(bytes)
    });
    let received = receive(server, content, server.config.media.max_upload_size).await?;
    Ok((received, coming))
}

/// Writes what comes to a new file of at most `max` bytes.
pub(super) async fn receive(
    server: &Arc<Server>,
    content: impl Stream<Item = Result<Bytes>>,
    max: ByteSize,
) -> Result<Received> {
    server.store.check_writable()?;
    let id = FileId::from_bytes(server.random.bytes());
    let create = move |server: &Server| server.media.files.create(id).map_err(|error| disk_failed(server, error));
    let file = server.blocking(create).await?;
    let failed = |error| disk_failed(server, error);
    let mut writer = tokio::fs::File::from_std(file.file.try_clone().map_err(failed)?);
    let (mut size, mut hash, mut checked_at) = (0_u64, Sha256::new(), 0);
    let mut content = std::pin::pin!(content);
    while let Some(bytes) = content.next().await {
        let bytes = bytes?;
        size += bytes.len() as u64;
        check_limit(size, max)?;
        if size - checked_at > SPACE_CHECKED_EVERY {
            server.store.check_writable()?;
            checked_at = size;
        }
        hash.update(&bytes);
        writer.write_all(&bytes).await.map_err(failed)?;
    }
    writer.flush().await.map_err(failed)?;
    Ok(Received { file, size, sha256: hash.finalize().into() })
}

/// `M_TOO_LARGE` if an upload of `size` bytes is not accepted.
pub fn check_size(server: &Server, size: u64) -> Result<()> {
    check_limit(size, server.config.media.max_upload_size)
}

fn check_limit(size: u64, limit: ByteSize) -> Result<()> {
    if size <= limit.bytes() { Ok(()) } else { Err(Error::too_large(format!("Files may be as large as {limit}"))) }
}

/// `M_USER_LIMIT_EXCEEDED` if `user` may not add `size` bytes to what he has uploaded; `M_FORBIDDEN` where there is no page
/// about it, which that errcode must name.
fn check_quota(server: &Server, snapshot: &Snapshot<'_>, user: &UserId, size: u64) -> Result<()> {
    let Some(quota) = server.config.media.max_storage_per_user else { return Ok(()) };
    let used = snapshot.get::<MediaUsage>(&user)?.unwrap_or_default().bytes;
    if used.saturating_add(size) <= quota.bytes() && used < quota.bytes() {
        return Ok(());
    }
    let message = format!("You have used up your storage: it is {quota}");
    let support_page = server.config.well_known.support.as_ref().and_then(|support| support.support_page.as_ref());
    let Some(page) = server.config.media.storage_info_page.as_ref().or(support_page) else {
        return Err(Error::forbidden(message));
    };
    let mut limit = UserLimitExceededErrorData::new(page.clone());
    limit.can_upgrade = server.config.media.storage_can_be_raised;
    Err(Error::refused(ErrorKind::UserLimitExceeded(limit), message).with_status(StatusCode::FORBIDDEN))
}

/// Makes the file durable, then writes its row.
async fn keep(
    server: Arc<Server>,
    user: OwnedUserId,
    media_id: String,
    description: Description,
    (received, coming): (Received, Coming),
    origin: Origin,
) -> Result<()> {
    let Received { file, size, sha256 } = received;
    let now = server.clock.now_ms();
    let Description { content_type, file_name } = description;
    let item = MediaItem { uploader: user, created_at_ms: now, file: file.id, size, sha256, content_type, file_name };
    let settle = move |server: &Server| file.settle().map_err(|error| disk_failed(server, error));
    let file = server.blocking(settle).await?;
    drop(coming); // it is open no more, and its row is about to count
    let for_write = Arc::clone(&server);
    let write = move |tx: &mut Transaction<'_>| {
        if origin == Origin::Pending {
            pending::check(tx.before(), &item.uploader, &media_id, now)?;
            pending::delete(tx, &item.uploader, &media_id);
        }
        check_quota(&for_write, tx.before(), &item.uploader, size)?;
        put(tx, &media_id, &item)
    };
    if let Err(error) = server.store.commit(write).await {
        if !may_be_written(&error) {
            server.blocking(move |server| file.discard().map_err(|e| disk_failed(server, e))).await?;
        }
        return Err(error);
    }
    if origin == Origin::Pending {
        server.media.arrivals.notify_waiters();
    }
    Ok(())
}

/// After these errors nobody knows whether the row will be there after a restart, so the file must stay.
pub(super) fn may_be_written(error: &Error) -> bool {
    let Error::Internal(cause) = error else { return false };
    matches!(cause.downcast_ref(), Some(store::Error::Stopped(_) | store::Error::Closed))
}

fn put(tx: &mut Transaction<'_>, media_id: &str, item: &MediaItem) -> Result<()> {
    let mut usage: Usage = tx.get::<MediaUsage>(&&*item.uploader)?.unwrap_or_default();
    usage.files += 1;
    usage.bytes += item.size;
    tx.put::<MediaUsage>(&&*item.uploader, &usage);
    tx.put::<MediaFiles>(&item.file.to_bytes(), &media_id.to_owned());
    tx.put::<Media>(&media_id, item);
    Ok(())
}
