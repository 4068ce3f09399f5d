//! What a push gateway is told: <https://spec.matrix.org/v1.19/push-gateway-api/>

use ruma::{
    SecondsSinceUnixEpoch, UInt,
    api::push_gateway::send_event_notification::v1::{Device, Notification, NotificationCounts, NotificationPriority},
    push::{Action, PushFormat, Tweak},
};
use serde_json::Value;

use super::{
    names::Names,
    pushers::{Pusher, PusherKey},
};
use crate::{
    error::{Error, Result},
    event::StoredEvent,
    room::View,
};

/// What is told of an event.
pub fn of_event(
    view: &View<'_>,
    event: &StoredEvent,
    key: &PusherKey,
    pusher: &Pusher,
    actions: &[Action],
    unread: u64,
) -> Result<Notification> {
    let tweaks: Vec<Tweak> = actions.iter().filter_map(|action| as_tweak(action).cloned()).collect();
    let mut device = device(key, pusher)?;
    let is_short = device.data.format == Some(PushFormat::EventIdOnly);
    let is_urgent = actions.iter().any(|action| action.is_highlight() || action.sound().is_some())
        || event.event_type == "m.room.encrypted"; // nobody here can know
    if !is_short {
        device.tweaks = tweaks;
    }
    let mut notification = Notification::new(vec![device]);
    notification.event_id = Some(event.event_id.clone());
    notification.room_id = Some(view.room_id().to_owned());
    notification.counts = counts(unread);
    notification.prio = if is_urgent { NotificationPriority::High } else { NotificationPriority::Low };
    if is_short {
        return Ok(notification);
    }
    let content = event.view().content().map_err(|e| Error::internal(e.to_string()))?;
    notification.event_type = Some(event.event_type.clone().into());
    notification.sender = Some(event.sender.clone());
    let names = Names::of(view, &key.user)?;
    notification.sender_display_name = names.display_name(&event.sender)?;
    notification.room_name = names.room_name()?;
    notification.room_alias = names.room_alias()?;
    notification.user_is_target = event.state_key.as_deref() == Some(key.user.as_str());
    notification.content = Some(content.to_owned());
    Ok(notification)
}

/// What is told where only the number of unread messages changed.
pub fn of_count(key: &PusherKey, pusher: &Pusher, unread: u64) -> Result<Notification> {
    let mut notification = Notification::new(vec![device(key, pusher)?]);
    notification.counts = counts(unread);
    notification.prio = NotificationPriority::Low;
    Ok(notification)
}

fn as_tweak(action: &Action) -> Option<&Tweak> {
    match action {
        Action::SetTweak(tweak) => Some(tweak),
        _ => None,
    }
}

fn counts(unread: u64) -> NotificationCounts {
    NotificationCounts::new(UInt::new_saturating(unread), UInt::default())
}

fn device(key: &PusherKey, pusher: &Pusher) -> Result<Device> {
    let mut device = Device::new(key.app_id.clone(), key.pushkey.clone());
    device.pushkey_ts = Some(SecondsSinceUnixEpoch(UInt::new_saturating(pusher.set_at_ms / 1_000)));
    let mut data = pusher.data()?;
    data.remove("url");
    device.data.format = data.remove("format").as_ref().and_then(Value::as_str).map(PushFormat::from);
    device.data.data = serde_json::from_value(Value::Object(data)).map_err(Error::internal)?;
    Ok(device)
}
