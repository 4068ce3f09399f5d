//! Waiting for news.

use std::{any::TypeId, sync::Arc};

use tokio::time::Instant;

use super::{
    answer::Answer,
    request::Request,
    stream::{self, Made, Reply},
    to_device,
};
use crate::{
    Server,
    error::Result,
    room::{partial::tables::Completions, tables::UserRooms},
    store::Group,
    user::presence,
};

/// So many changes may have happened since, on the whole server, that the answer is short.
const FEW_CHANGES: usize = 64;

/// The next answer for a client: at once if it wants everything, or if there is news, else when there is, or when its patience
/// ends.
pub async fn sync(server: &Arc<Server>, mut request: Request) -> Result<Reply> {
    if let Some(since) = request.since {
        to_device::acknowledge(server, &request.user_id, &request.device_id, since.to_device).await?;
    }
    let _here = presence::sync(server, &request.user_id, &request.device_id, request.set_presence);
    let deadline = Instant::now() + request.patience();
    let is_over = || Instant::now() >= deadline || server.shutdown.is_cancelled();
    let mut news = server.wakers.subscribe(server, &request.user_id); // before looking: what comes meanwhile must wake us
    loop {
        if is_over() || request.since.is_none_or(|since| news.may_be_after(server, since)) {
            match make(server, &request).await? {
                Made::Whole(answer) if !answer.has_news && !is_over() => {
                    server.logins.check(&server.store, &request.user_id, &request.device_id)?;
                    request.since = Some(answer.next); // up to there nothing is left to tell
                }
                made => return tell(server, &request, made).await,
            }
        }
        tokio::select! {
            () = news.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = server.shutdown.cancelled() => {}
        }
    }
}

async fn make(server: &Arc<Server>, request: &Request) -> Result<Made> {
    let asked = request.clone();
    if is_little(server, request) {
        let work = move |server: &Server| Answer::assemble(server, &asked, &mut |_| Ok(()));
        return server.quick(work).await.map(Made::Whole);
    }
    stream::make(server, move |server, hand_on| Answer::assemble(server, &asked, hand_on)).await
}

/// Whether there is only little that is new, if anything: only a few things happened since then, no room became visible to the
/// user, which would be told as a whole, and those with whom he shares rooms need not be looked through for who is gone.
pub(super) fn is_little(server: &Server, request: &Request) -> bool {
    let Some(since) = request.since.filter(|_| !request.full_state) else { return false };
    let recent = server.store.recent();
    let completed = recent.changed_after(&[TypeId::of::<Completions>()], since.pos, FEW_CHANGES);
    completed.is_some_and(|completed| completed.is_empty())
        && !recent.may_have_changed::<UserRooms>(Group::of(&*request.user_id), since.pos)
        && !server.presence.has_forgotten(since.ephemeral)
}

async fn tell(server: &Server, request: &Request, made: Made) -> Result<Reply> {
    let reply = made.reply(server).await?;
    let Request { user_id, device_id, token, .. } = request;
    let may_be_told = server.logins.may_be_told(&server.store, user_id, device_id, token.as_ref())?;
    Ok(match request.since {
        Some(since) if !may_be_told => Reply::Whole(Answer::nothing(since).body.into()),
        _ => reply,
    })
}
