//! The push rules that every user has unless he changes them: those of the specification, and a few more.

use std::{borrow::Cow, sync::LazyLock};

use ruma::{
    UserId,
    power_levels::NotificationPowerLevelsKey,
    push::{
        Action, ConditionalPushRule, EventMatchConditionData, HighlightTweakValue, PatternedPushRule, PushCondition,
        RoomMemberCountConditionData, RoomMemberCountIs, Ruleset, SenderNotificationPermissionConditionData,
        SoundTweakValue, Tweak,
    },
    uint,
};

use super::subject::BODY;

/// Rules by which a text mentions somebody.
///
/// NOTSPEC: the specification dropped these with v1.17. We keep them for events without `m.mentions`, since bots, bridges
/// and scripts that name a person in plain text do not write that, and people rely on being told; Complement's
/// `TestThreadedReceipts` does too. For all other events they do not apply: see [`super::evaluate`].
pub const OF_TEXTS: [&str; 3] = [DISPLAY_NAME, ROOM, USER_NAME];

const DISPLAY_NAME: &str = ".m.rule.contains_display_name";
const ROOM: &str = ".m.rule.roomnotif";
const USER_NAME: &str = ".m.rule.contains_user_name";

/// Stands for the user in [`OF_ANYBODY`].
const ANYBODY: &str = "@anybody:anywhere.invalid";
const ANYBODYS_LOCALPART: &str = "anybody";

/// The rules of everybody who changed nothing about them, in memory once for all: nearly ten kilobytes. What they say of the
/// user is to be read by [`meant`].
pub static OF_ANYBODY: LazyLock<Ruleset> = LazyLock::new(|| {
    let anybody = <&UserId>::try_from(ANYBODY).expect("this is a user's id");
    rules(anybody)
});

/// What a default rule says, of `user` where it says it of anybody.
pub fn meant<'t>(text: &'t str, user: &'t UserId) -> Cow<'t, str> {
    if text == ANYBODY {
        user.as_str().into()
    } else if text == ANYBODYS_LOCALPART {
        literal(user.localpart())
    } else {
        text.into()
    }
}

/// A name as a pattern. A pattern can't say that it means a `*` or `?`, so any character will do in their place.
pub fn literal(name: &str) -> Cow<'_, str> {
    if name.contains('*') { name.replace('*', "?").into() } else { name.into() }
}

/// <https://spec.matrix.org/v1.19/client-server-api/#predefined-rules>
pub fn rules(user: &UserId) -> Ruleset {
    let mut rules = Ruleset::server_default(user);
    for (rule, before) in [(display_name(), ".m.rule.is_room_mention"), (room(), ".m.rule.tombstone")] {
        let place = rules.override_.get_index_of(before).unwrap_or(rules.override_.len());
        rules.override_.shift_insert(place, rule);
    }
    rules.content.insert(user_name(user));
    // Polls (MSC3930). ruma has these rules too, with conditions that clients of this proposal do not know.
    rules.override_.insert(on("poll_response", "poll.response", vec![], false));
    for (rule_id, event_type) in [("poll_start", "poll.start"), ("poll_end", "poll.end")] {
        rules.underride.insert(on(&format!("{rule_id}_one_to_one"), event_type, vec![Action::Notify, sound()], true));
        rules.underride.insert(on(rule_id, event_type, vec![Action::Notify], false));
    }
    rules
}

fn display_name() -> ConditionalPushRule {
    #[expect(deprecated, reason = "this is the rule that it was made for")]
    let conditions = vec![PushCondition::ContainsDisplayName];
    rule(DISPLAY_NAME, vec![Action::Notify, sound(), highlight()], conditions)
}

fn room() -> ConditionalPushRule {
    let may_notify = SenderNotificationPermissionConditionData::new(NotificationPowerLevelsKey::Room);
    let conditions = vec![matches(BODY, "@room"), PushCondition::SenderNotificationPermission(may_notify)];
    rule(ROOM, vec![Action::Notify, highlight()], conditions)
}

fn user_name(user: &UserId) -> PatternedPushRule {
    PatternedPushRule::from(ruma::push::PatternedPushRuleInit {
        actions: vec![Action::Notify, sound(), highlight()],
        default: true,
        enabled: true,
        rule_id: USER_NAME.to_owned(),
        pattern: literal(user.localpart()).into_owned(),
    })
}

fn on(rule_id: &str, event_type: &str, actions: Vec<Action>, is_of_two: bool) -> ConditionalPushRule {
    let mut conditions = Vec::new();
    if is_of_two {
        let two = RoomMemberCountConditionData::new(RoomMemberCountIs::from(uint!(2)));
        conditions.push(PushCondition::RoomMemberCount(two));
    }
    conditions.push(matches("type", &format!("org.matrix.msc3381.{event_type}")));
    rule(&format!(".org.matrix.msc3930.rule.{rule_id}"), actions, conditions)
}

fn rule(rule_id: &str, actions: Vec<Action>, conditions: Vec<PushCondition>) -> ConditionalPushRule {
    ConditionalPushRule::from(ruma::push::ConditionalPushRuleInit {
        actions,
        default: true,
        enabled: true,
        rule_id: rule_id.to_owned(),
        conditions,
    })
}

fn matches(key: &str, pattern: &str) -> PushCondition {
    PushCondition::EventMatch(EventMatchConditionData::new(key.to_owned(), pattern.to_owned()))
}

fn sound() -> Action {
    Action::SetTweak(Tweak::Sound(SoundTweakValue::Default))
}

fn highlight() -> Action {
    Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes))
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::{Value, json};

    use super::*;

    fn said_of(user: &UserId, rules: Value) -> Value {
        match rules {
            Value::String(text) => meant(&text, user).into(),
            Value::Array(parts) => parts.into_iter().map(|part| said_of(user, part)).collect(),
            Value::Object(members) => members.into_iter().map(|(name, member)| (name, said_of(user, member))).collect(),
            other => other,
        }
    }

    #[test]
    fn the_rules_of_anybody_mean_those_of_each_user() {
        for user in [user_id!("@alice:example.org"), user_id!("@a*b:example.org"), user_id!("@anybody:example.org")] {
            assert_eq!(said_of(user, json!(*OF_ANYBODY)), json!(rules(user)), "{user}");
        }
    }
}
