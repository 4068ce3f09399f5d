//! What a user's rules say about an event.
//!
//! ruma has the types of the rules, and can try them as well. We do not use that: it looks for words by recursion, once
//! for each occurrence in the text, so that a message from anybody could use up the stack; and it compiles a regular
//! expression for each pattern and event, and panics where that becomes too large.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#push-rules>

use std::{borrow::Cow, cell::OnceCell, sync::Arc};

use ruma::{
    UserId,
    events::StateEventType,
    power_levels::NotificationPowerLevelsKey,
    push::{Action, AnyPushRuleRef, PushCondition, PushConditionPowerLevelsCtx, Ruleset, ScalarJsonValue},
};
use serde::Deserialize;

use super::{
    defaults, glob,
    subject::{BODY, Subject},
};
use crate::{
    error::Result,
    event::StoredEvent,
    room::{View, power_levels, visibility::Sight},
    store::EventNid,
    user::thread_subscriptions,
};

/// What a user is called in a room; `None` if he has no name there.
#[derive(Clone, Debug)]
pub struct Name(Option<Arc<str>>);

impl Name {
    /// How many bytes it takes beside itself.
    pub fn bytes(&self) -> usize {
        self.0.as_deref().map_or(0, str::len)
    }
}

/// A room now, and a user in it: what conditions ask about. Looked up when one does.
pub struct Situation<'v, 's> {
    view: &'v View<'s>,
    user: &'v UserId,
    name: OnceCell<Name>,
    power_levels: OnceCell<PushConditionPowerLevelsCtx>,
    sight: OnceCell<Sight<'v, 's>>,
}

impl<'v, 's> Situation<'v, 's> {
    pub fn of(view: &'v View<'s>, user: &'v UserId) -> Self {
        Self { view, user, name: OnceCell::new(), power_levels: OnceCell::new(), sight: OnceCell::new() }
    }

    /// Whether the user sent the event himself.
    pub fn is_own(&self, subject: &Subject) -> bool {
        subject.sender == self.user
    }

    /// Whether the user is shown an event, if it has not expired.
    pub fn shows(&self, nid: EventNid, event: &StoredEvent) -> Result<bool> {
        let sight = match self.sight.get() {
            Some(known) => known,
            None => {
                let sight = Sight::of(self.view, self.user)?;
                self.sight.get_or_init(|| sight)
            }
        };
        sight.could_see(nid, event)
    }

    /// As [`Self::of`], if the user's name in the room is known.
    pub fn with_name(view: &'v View<'s>, user: &'v UserId, name: Option<Name>) -> Self {
        Self { name: name.map_or_else(OnceCell::new, OnceCell::from), ..Self::of(view, user) }
    }

    /// The user's name in the room, if that was looked up.
    pub fn known_name(&self) -> Option<&Name> {
        self.name.get()
    }

    fn name(&self) -> Result<Option<&str>> {
        #[derive(Deserialize)]
        struct Content {
            displayname: Option<String>,
        }
        if self.name.get().is_none() {
            let state = self.view.current_state();
            let content = self.view.state_content(state, &StateEventType::RoomMember, self.user.as_str())?;
            let name = content.and_then(|content: Content| content.displayname);
            let _ = self.name.set(Name(name.map(Arc::from)));
        }
        Ok(self.name.get().and_then(|name| name.0.as_deref()))
    }

    /// Whether the user is subscribed to a thread; `None` outside of threads.
    ///
    /// NOTSPEC: also `None` if none of his clients ever subscribed him to, or unsubscribed him from, any thread. Clients
    /// that do not know subscriptions can't make any, and their users would hear of no thread again.
    fn is_subscribed(&self, thread: Option<EventNid>) -> Result<Option<bool>> {
        let subscribed = thread.map(|root| thread_subscriptions::is_subscribed(self.view, self.user, root));
        Ok(subscribed.transpose()?.flatten())
    }

    /// Whether `sender` may notify the room by what `key` stands for.
    fn may_notify(&self, sender: &UserId, key: &NotificationPowerLevelsKey) -> Result<bool> {
        if self.power_levels.get().is_none() {
            let _ = self.power_levels.set(power_levels(self.view)?.into());
        }
        Ok(self.power_levels.get().is_some_and(|levels| levels.has_sender_notification_permission(sender, key)))
    }
}

/// The actions of the first rule that applies; none if no rule does, or if the event is the user's own.
pub fn actions<'r>(rules: &'r Ruleset, subject: &Subject, situation: &Situation<'_, '_>) -> Result<&'r [Action]> {
    if situation.is_own(subject) {
        return Ok(&[]);
    }
    for rule in rules {
        if rule.enabled() && applies(rule, subject, situation)? {
            return Ok(rule.actions());
        }
    }
    Ok(&[])
}

fn applies(rule: AnyPushRuleRef<'_>, subject: &Subject, situation: &Situation<'_, '_>) -> Result<bool> {
    if subject.has_mentions && defaults::OF_TEXTS.contains(&rule.rule_id()) {
        return Ok(false);
    }
    let is_default = rule.is_server_default();
    let conditions = match rule {
        AnyPushRuleRef::Override(rule) | AnyPushRuleRef::PostContent(rule) | AnyPushRuleRef::Underride(rule) => {
            &rule.conditions
        }
        AnyPushRuleRef::Content(rule) => {
            return Ok(matches_event(subject, situation, BODY, &meant(&rule.pattern, rule.default, situation.user)));
        }
        AnyPushRuleRef::Room(rule) => return Ok(rule.rule_id == situation.view.room_id()),
        AnyPushRuleRef::Sender(rule) => return Ok(rule.rule_id == subject.sender),
        _ => return Ok(false),
    };
    for condition in conditions {
        if !holds(condition, is_default, subject, situation)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a rule says: by its default the same for all, who may be meant.
fn meant<'t>(text: &'t str, is_default: bool, user: &'t UserId) -> Cow<'t, str> {
    if is_default { defaults::meant(text, user) } else { text.into() }
}

/// A condition that we do not know never holds.
fn holds(
    condition: &PushCondition,
    is_default: bool,
    subject: &Subject,
    situation: &Situation<'_, '_>,
) -> Result<bool> {
    Ok(match condition {
        PushCondition::EventMatch(wanted) => {
            let pattern = meant(&wanted.pattern, is_default, situation.user);
            matches_event(subject, situation, &wanted.key, &pattern)
        }
        PushCondition::EventPropertyIs(wanted) => {
            subject.json.get(&wanted.key).is_some_and(|value| *value == wanted.value)
        }
        PushCondition::EventPropertyContains(wanted) => {
            let array = subject.json.get(&wanted.key).and_then(|value| value.as_array());
            array.is_some_and(|array| match &wanted.value {
                ScalarJsonValue::String(text) => {
                    let text = meant(text, is_default, situation.user);
                    array.iter().any(|value| value.as_str() == Some(&*text))
                }
                other => array.contains(other),
            })
        }
        PushCondition::RoomMemberCount(wanted) => {
            use std::ops::RangeBounds;
            let joined = ruma::UInt::try_from(situation.view.room.joined).unwrap_or(ruma::UInt::MAX);
            wanted.is.contains(&joined)
        }
        PushCondition::SenderNotificationPermission(wanted) => situation.may_notify(&subject.sender, &wanted.key)?,
        PushCondition::ThreadSubscription(wanted) => {
            situation.is_subscribed(subject.thread)? == Some(wanted.subscribed)
        }
        #[expect(deprecated, reason = "rules of users who made them long ago still have it")]
        PushCondition::ContainsDisplayName => match (situation.name()?, &subject.body) {
            (Some(name), Some(body)) => glob::finds_words(&defaults::literal(name), body),
            _ => false,
        },
        _ => false,
    })
}

/// Whether a text of the event matches a pattern: a body in any of its words, everything else as a whole.
fn matches_event(subject: &Subject, situation: &Situation<'_, '_>, key: &str, pattern: &str) -> bool {
    if key == BODY {
        return subject.body.as_ref().is_some_and(|body| glob::finds_words(pattern, body));
    }
    let value = if key == "room_id" { Some(situation.view.room_id().as_str()) } else { subject.json.get_str(key) };
    value.is_some_and(|value| glob::matches(pattern, value))
}
