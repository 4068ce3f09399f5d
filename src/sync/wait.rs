//! Waiting for news.

use std::sync::Arc;

use tokio::time::Instant;

use super::{answer::Answer, request::Request, to_device};
use crate::{
    Server,
    error::Result,
    user::{presence, session},
};

/// The next answer for a client: at once if there is news, else when there is, or when its patience ends. What is in it
/// is durable.
pub async fn sync(server: &Arc<Server>, mut request: Request) -> Result<Answer> {
    if let Some(since) = request.since {
        to_device::acknowledge(server, &request.user_id, &request.device_id, since.to_device).await?;
    }
    let _here = presence::sync(server, &request.user_id, &request.device_id, request.set_presence);
    let deadline = Instant::now() + request.patience();
    let mut news = server.wakers.subscribe(&request.user_id); // before looking: what comes meanwhile must wake us
    loop {
        let asked = request.clone();
        let work = move |server: &Server| Answer::assemble(server, &asked, &mut |_| Ok(()));
        let answer = server.blocking(work).await?;
        if answer.has_news || Instant::now() >= deadline || server.shutdown.is_cancelled() {
            server.store.until_durable(answer.next.pos).await?;
            let Request { user_id, device_id, token, .. } = &request;
            let may_be_told = session::may_be_told(&server.store.snapshot(), user_id, device_id, token.as_ref())?;
            return Ok(match request.since {
                Some(since) if !may_be_told => Answer::nothing(since),
                _ => answer,
            });
        }
        request.since = Some(answer.next); // up to there nothing is left to tell
        tokio::select! {
            _ = news.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = server.shutdown.cancelled() => {}
        }
        session::check_logged_in(&server.store.snapshot(), &request.user_id, &request.device_id)?;
    }
}
