//! The push rules that every user has unless he changes them: those of the specification, and a few more.

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
        pattern: user.localpart().replace('*', "?"), // a pattern can't say that it means a `*`
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
