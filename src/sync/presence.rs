//! Who came, went or said something of himself.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#presence>

use std::collections::BTreeMap;

use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};

use super::{
    answer::Context,
    changes::Changes,
    company,
    json::{self, put},
    plain_filter,
};
use crate::{
    error::{Error, Result},
    room::member_profile,
    store::Snapshot,
    user::presence::{Shown, State},
};

const EVENT_TYPE: &str = "m.presence";

/// At how many users one answer looks for those who went and are not remembered. Source: our choice.
const MAX_FORGOTTEN: usize = 500;

/// Writes the presence that changed of those who share a room with the user, and that of who came to share one; `false`
/// if there is none.
pub fn write(context: &Context<'_>, changes: &Changes, out: &mut Vec<u8>) -> Result<bool> {
    let filter = &context.request.filter.presence;
    let presence = &context.server.presence;
    let mut news: BTreeMap<OwnedUserId, Shown> = presence.news(context.ephemeral_since).into_iter().collect();
    let is_wanted = |user: &UserId| plain_filter::allows(filter, EVENT_TYPE, user) && !context.ignored.contains(user);
    news.retain(|user, _| is_wanted(user));
    let mut visible = company::sharing(context, changes, &news.keys().cloned().collect())?;
    if context.since.is_some() && presence.is_enabled() {
        let mut met = company::met(context, &changes.joined)?;
        met.remove(context.user_id());
        for user in met.into_iter().filter(|user| is_wanted(user)) {
            let shown = presence.get(&user);
            if shown.state > State::Offline {
                news.entry(user.clone()).or_insert(shown);
                visible.insert(user);
            }
        }
    }
    if context.ephemeral_since.is_some_and(|since| presence.has_forgotten(since)) {
        // Not of those of other servers, who tell again of who is present each half hour.
        let some = company::some_of_ours(context, changes, MAX_FORGOTTEN)?;
        for user in some.into_iter().filter(|user| is_wanted(user) && presence.is_forgotten(user)) {
            news.insert(user.clone(), presence.get(&user));
            visible.insert(user);
        }
    }
    let told = news.iter().filter(|(user, _)| visible.contains(*user));
    let mut has_news = false;
    json::events(out, told, |out, (user, shown)| {
        has_news = true;
        put(out, &event(context, user, shown)?);
        Ok::<_, Error>(())
    })?;
    Ok(has_news)
}

fn event(context: &Context<'_>, user: &UserId, shown: &Shown) -> Result<Value> {
    shape(context.snapshot, user, shown, context.server.clock.now_ms())
}

/// The event, with the user's name and avatar, whose changes are told in this way too.
pub fn shape(snapshot: &Snapshot<'_>, user: &UserId, shown: &Shown, now_ms: u64) -> Result<Value> {
    let mut content = Value::Object(member_profile::shown_fields(snapshot, user)?);
    content["presence"] = json!(shown.state.to_ruma());
    content["currently_active"] = json!(shown.currently_active);
    if let Some(status) = &shown.status_msg {
        content["status_msg"] = json!(status);
    }
    if let Some(at_ms) = shown.last_active_ms {
        content["last_active_ago"] = json!(now_ms.saturating_sub(at_ms));
    }
    Ok(json!({ "type": EVENT_TYPE, "sender": user, "content": content }))
}
