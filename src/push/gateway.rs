//! What a push gateway is told: <https://spec.matrix.org/v1.19/push-gateway-api/>

use ruma::{
    SecondsSinceUnixEpoch, UInt,
    api::push_gateway::send_event_notification::v1::{Device, Notification, NotificationCounts, NotificationPriority},
    push::{Action, PushFormat, Tweak},
};
use serde_json::{Map, Value, value::to_raw_value};

use super::{
    names::Names,
    pushers::{Pusher, PusherKey},
};
use crate::{
    error::{Error, Result},
    event::StoredEvent,
    room::View,
};

/// What is told of an event; no number if the app counts by itself.
pub fn of_event(
    view: &View<'_>,
    event: &StoredEvent,
    key: &PusherKey,
    pusher: &Pusher,
    actions: &[Action],
    unread: Option<u64>,
) -> Result<Notification> {
    let tweaks: Vec<Tweak> = actions.iter().filter_map(as_tweak).map(with_value).collect::<Result<_>>()?;
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
    notification.counts = unread.map(counts).unwrap_or_default();
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

/// As a gateway gets it.
///
/// NOTSPEC: the number of unread messages is there also if it is 0. The specification would have counts of zero left out,
/// but Sygnal, which Synapse always tells it, then leaves the number at an app's icon as it was. For an app that counts by
/// itself it must do so.
pub fn to_json(pusher: &Pusher, notification: &Notification) -> Result<Value> {
    let mut json = serde_json::to_value(notification).map_err(Error::internal)?;
    if pusher.is_badge_count_disabled {
        return Ok(json);
    }
    let counts = json.as_object_mut().map(|json| json.entry("counts").or_insert_with(|| Value::Object(Map::new())));
    if let Some(Value::Object(counts)) = counts {
        counts.entry("unread").or_insert_with(|| 0.into());
    }
    Ok(json)
}

fn as_tweak(action: &Action) -> Option<&Tweak> {
    match action {
        Action::SetTweak(tweak) => Some(tweak),
        _ => None,
    }
}

/// The tweak with the value `true` if it has none, as `highlight` has it: ruma can't tell a gateway of one without.
fn with_value(tweak: &Tweak) -> Result<Tweak> {
    if tweak.value().is_some() {
        return Ok(tweak.clone());
    }
    let value = to_raw_value(&true).map_err(Error::internal)?;
    Tweak::new(tweak.set_tweak().to_owned(), Some(value)).map_err(Error::internal)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::push::pushers::tests::pusher;

    #[test]
    fn the_number_of_unread_messages_is_told_if_it_is_0_too() {
        let of = |unread| {
            let mut notification = Notification::new(Vec::new());
            notification.counts = counts(unread);
            to_json(&pusher(), &notification).unwrap()["counts"].clone()
        };
        assert_eq!(of(0), json!({ "unread": 0 }));
        assert_eq!(of(3), json!({ "unread": 3 }));
    }
}
