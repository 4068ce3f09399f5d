//! From a request to its answer: at once if there is news, else when there is, or when the client's patience ends.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    answer::Answer,
    connection, extensions,
    pos::{self, Pos},
    request::Asked,
};
use crate::{
    Server,
    error::Result,
    sync::{to_device, wait},
    user::presence,
};

/// The body of the next answer on a connection. What is in it is durable.
///
/// Errors: `M_UNKNOWN_POS` if the client must begin anew, or has sent another request on the connection meanwhile;
/// `M_UNKNOWN_TOKEN` if it was logged out meanwhile.
pub async fn sync(server: &Arc<Server>, asked: Asked) -> Result<Vec<u8>> {
    let asked = Arc::new(asked);
    let (user, device) = (&asked.base.user_id, &asked.base.device_id);
    acknowledge(server, &asked).await?;
    let turn = server.sliding_turns.begin(asked.connection_key());
    let _here = presence::sync(server, user, device, asked.base.set_presence);
    let deadline = Instant::now() + asked.base.patience();
    let mut news = server.wakers.subscribe(server, user); // before looking: what comes meanwhile must wake us
    let mut is_first_look = true; // which may find rooms that the client did not want before
    loop {
        let work = Arc::clone(&asked);
        let look = move |server: &Server| Answer::assemble(server, &work);
        let is_little = !std::mem::take(&mut is_first_look) && wait::is_little(server, &asked.base);
        let answer = if is_little { server.quick(look).await? } else { server.blocking(look).await? };
        if answer.has_news || Instant::now() >= deadline || server.shutdown.is_cancelled() {
            return finish(server, &asked, answer, turn.ended.clone()).await;
        }
        tokio::select! {
            () = news.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = server.shutdown.cancelled() => {}
            () = turn.ended.cancelled() => return Err(pos::unknown()),
        }
        server.logins.check(&server.store, user, device)?;
    }
}

async fn finish(
    server: &Arc<Server>,
    asked: &Arc<Asked>,
    mut answer: Answer,
    ended: tokio_util::sync::CancellationToken,
) -> Result<Vec<u8>> {
    let (known, change) = (std::mem::take(&mut answer.known), std::mem::take(&mut answer.change));
    let at = connection::write(server, asked, known, change, ended).await?;
    server.store.until_durable(answer.moment.pos).await?;
    let base = &asked.base;
    let may_be_told = server.logins.may_be_told(&server.store, &base.user_id, &base.device_id, base.token.as_ref())?;
    if let Some(pos) = asked.pos.filter(|_| !may_be_told) {
        return Ok(Answer::nothing(pos));
    }
    let pos = Pos { moment: answer.moment, at };
    Ok(answer.into_body(&pos.to_string()))
}

/// By the token of the to-device messages the client says that it has got those before.
async fn acknowledge(server: &Arc<Server>, asked: &Asked) -> Result<()> {
    let config = &asked.extensions.to_device;
    let Some(since) = extensions::since_of(config.since.as_deref())?.filter(|_| config.enabled == Some(true)) else {
        return Ok(());
    };
    to_device::acknowledge(server, &asked.base.user_id, &asked.base.device_id, since).await
}
