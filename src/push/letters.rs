//! Pushers that tell by e-mail: one letter for all that was not read a while after it came.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use super::{
    deliver::Step,
    names::Names,
    pushers::{self, Pusher, PusherKey, Pushers},
    queue::{self, Badge, Badges, PushQueue, Waiting},
    reader,
};
use crate::{
    Server,
    config::Language,
    error::Result,
    event::StoredEvent,
    log,
    mail::{
        Letter, address,
        letter::{self, Unread},
    },
    room::{View, tables::Events},
    store::{Snapshot, Transaction},
};

/// How many messages a letter shows, and how much of each.
const MAX_MESSAGES: usize = 20;
const MAX_CHARS: usize = 200;

/// Sends the letter that is due, if one is.
pub async fn step(server: &Arc<Server>, key: &PusherKey, pusher: Pusher) -> Result<Step> {
    let (Some(mail), Some(config)) = (&server.mail, &server.config.mail) else {
        // Since this server sends no letters any more, nothing else bounds what waits for one.
        let (key, now_ms) = (key.clone(), server.clock.now_ms());
        server.store.write(move |tx| queue::trim(tx, &key, now_ms)).await?;
        return Ok(Step::Idle);
    };
    let asked = key.clone();
    let waiting = server.read(move |snapshot| waiting(snapshot, &asked)).await?;
    let Some(oldest) = waiting.first() else { return Ok(Step::Idle) };
    let waited_ms = server.clock.now_ms().saturating_sub(oldest.push.at_ms);
    let left = config.notification_delay.saturating_sub(Duration::from_millis(waited_ms));
    if !left.is_zero() {
        return Ok(Step::Later(left));
    }
    let (asked, shown) = (key.clone(), pusher.clone());
    let (waiting, letter) = server
        .blocking(move |server| {
            let letter = write(server, &asked, &shown, &waiting)?;
            Ok((waiting, letter))
        })
        .await?;
    if let (Some(letter), Some(to)) = (letter, address(&key.pushkey))
        && let Err(error) = mail.send(&to, letter).await
    {
        return Ok(Step::Failed(format!("{error:#}")));
    }
    let key = key.clone();
    let told = move |tx: &mut Transaction<'_>| {
        let (user, app_id, pushkey) = key.parts();
        for Waiting { pos, room, .. } in &waiting {
            tx.delete::<PushQueue>(&(user, app_id, pushkey, *pos, *room));
        }
        if tx.before().contains::<Pushers>(&key.parts())? {
            tx.put::<Badges>(&key.parts(), &Badge::default());
        }
        Ok::<_, crate::error::Error>(())
    };
    server.store.write(told).await?;
    Ok(Step::Told)
}

fn waiting(snapshot: &Snapshot<'_>, key: &PusherKey) -> Result<Vec<Waiting>> {
    let mut waiting = Vec::new();
    for row in snapshot.list::<PushQueue>(&key.parts()) {
        let row = row?;
        let (.., pos, room) = row.key()?;
        waiting.push(Waiting { pos, room, push: row.value });
    }
    Ok(waiting)
}

/// What is left to tell; `None` if all was read meanwhile.
fn write(server: &Server, key: &PusherKey, pusher: &Pusher, waiting: &[Waiting]) -> Result<Option<Letter>> {
    let snapshot = server.store.snapshot();
    let language = if pusher.lang.to_lowercase().starts_with("fr") { Language::French } else { Language::English };
    let may_tell = pushers::may_tell(&snapshot, key, pusher)?;
    let (mut unread, mut count) = (Vec::new(), 0);
    for Waiting { pos, room, push } in waiting.iter().filter(|_| may_tell) {
        if !snapshot.contains::<Events>(&(*room, push.event))? {
            continue;
        }
        let view = View::of(&server.rooms, &snapshot, *room)?;
        let event = view.event(push.event)?;
        let entry = log::Entry { pos: *pos, room: *room, event: push.event };
        if reader::tell(server, &view, &key.user, &entry, &event)?.is_none_or(|told| told.has_read) {
            continue;
        }
        count += 1;
        if unread.len() < MAX_MESSAGES {
            let names = Names::of(&view, &key.user)?;
            let sender = names.display_name(&event.sender)?.unwrap_or_else(|| event.sender.to_string());
            let room = names.room_name()?.unwrap_or_else(|| view.room_id().to_string());
            unread.push(Unread { room, sender, text: text_of(&event) });
        }
    }
    Ok((count > 0).then(|| letter::unread(language, server.name(), &unread, count)))
}

/// What a message says; `None` if it can't be read here, or is none.
fn text_of(event: &StoredEvent) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        body: String,
    }
    let content = event.view().content().ok()?;
    let Content { body } = serde_json::from_str(content.get()).ok()?;
    let line: String = body.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(line.chars().take(MAX_CHARS).collect())
}
