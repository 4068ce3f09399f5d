//! Which events a user wants to be told of, and how.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#push-rules>

use std::sync::Arc;

use indexmap::{Equivalent, IndexSet};
use ruma::{
    RoomId, UserId,
    api::error::ErrorKind,
    push::{
        Action, ConditionalPushRule, InsertPushRuleError, NewPushRule, NewSimplePushRule, PushCondition,
        RemovePushRuleError, RuleKind, Ruleset,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    account_data::{self, GLOBAL},
    tables::AccountData,
};
use crate::{
    Server,
    error::{Error, Result},
    plain_json,
    push::{defaults, glob},
    store::{self, Snapshot, Table, Transaction},
};

/// The account data that holds the rules.
pub const EVENT_TYPE: &str = "m.push_rules";

/// Bounds on what one user's rules may cost whenever an event is matched with them. Source: our choice.
const MAX_RULES: usize = 1_000;
const MAX_BYTES: usize = 128 << 10;
const MAX_RULE_ID_BYTES: usize = 255;
const MAX_PATTERN_BYTES: usize = 256;
/// Patterns with `*` or `?`: these take the longest.
const MAX_GLOBS: usize = 100;

#[derive(Serialize, Deserialize)]
struct Content {
    global: Ruleset,
}

/// Where a new or changed rule goes among the user's own of its kind. By default a new one goes to the top and a known
/// one stays.
#[derive(Clone, Debug, Default)]
pub struct Position {
    /// Right above this rule; counts if both are given.
    pub before: Option<String>,
    /// Right below this rule.
    pub after: Option<String>,
}

/// All rules of a user, in the order in which they are tried: his own, and the server's defaults of today with what he
/// changed about them.
pub fn get(snapshot: &Snapshot<'_>, user: &UserId) -> store::Result<Ruleset> {
    Ok(changed(snapshot, user)?.unwrap_or_else(|| defaults::rules(user)))
}

/// As [`get`]; `None` for who never changed anything about the defaults.
pub fn changed(snapshot: &Snapshot<'_>, user: &UserId) -> store::Result<Option<Ruleset>> {
    let Some(datum) = snapshot.get::<AccountData>(&(user, GLOBAL, EVENT_TYPE))? else { return Ok(None) };
    let rules = decode(&datum.content, defaults::rules(user));
    rules
        .map(Some)
        .map_err(|e| store::Error::corrupt(AccountData::NAME, user.as_bytes(), format!("not push rules: {e}")))
}

/// The rules as they are kept, with the defaults of today in place of those of the time when they were written.
fn decode(content: &str, mut defaults: Ruleset) -> serde_json::Result<Ruleset> {
    let mut rules = serde_json::from_str::<Content>(content)?.global;
    update_postcontent(&mut rules, std::mem::take(&mut defaults.postcontent));
    rules.update_with_server_default(defaults);
    Ok(rules)
}

/// What ruma does for all other kinds: what the user changed of a default stays, and his own rules come first.
fn update_postcontent(rules: &mut Ruleset, defaults: IndexSet<ConditionalPushRule>) {
    let mut kept = std::mem::take(&mut rules.postcontent);
    let mut of_today: IndexSet<_> = defaults
        .into_iter()
        .map(|mut rule| {
            if let Some(changed) = kept.shift_take(rule.rule_id.as_str()) {
                (rule.enabled, rule.actions) = (changed.enabled, changed.actions);
            }
            rule
        })
        .collect();
    kept.retain(|rule| !rule.default);
    kept.append(&mut of_today);
    rules.postcontent = kept;
}

/// The content of the event by which clients learn of the rules, also of those that were never changed.
pub fn content(snapshot: &Snapshot<'_>, user: &UserId) -> Result<String> {
    encode(get(snapshot, user)?)
}

/// Adds a rule of the user, or replaces the one of its kind and id.
///
/// Errors: `M_INVALID_PARAM` for an id that the user may not give, `M_UNKNOWN` if there is no rule to go before or
/// after, `M_TOO_LARGE`.
pub async fn put(server: &Arc<Server>, user: &UserId, rule: NewPushRule, position: Position) -> Result<()> {
    check_size(&rule)?;
    change(server, user, move |rules| insert(rules, rule, &position)).await
}

/// Removes one of the user's own rules. `M_NOT_FOUND` if there is none.
pub async fn delete(server: &Arc<Server>, user: &UserId, kind: RuleKind, rule_id: String) -> Result<()> {
    change(server, user, move |rules| rules.remove(kind, rule_id).map_err(not_removed)).await
}

/// `M_NOT_FOUND` if there is no such rule.
pub async fn set_enabled(
    server: &Arc<Server>,
    user: &UserId,
    kind: RuleKind,
    rule_id: String,
    enabled: bool,
) -> Result<()> {
    change(server, user, move |rules| rules.set_enabled(kind, rule_id, enabled).map_err(|_| unknown_rule())).await
}

/// `M_NOT_FOUND` if there is no such rule.
pub async fn set_actions(
    server: &Arc<Server>,
    user: &UserId,
    kind: RuleKind,
    rule_id: String,
    actions: Vec<Action>,
) -> Result<()> {
    change(server, user, move |rules| rules.set_actions(kind, rule_id, actions).map_err(|_| unknown_rule())).await
}

/// Gives a room the rule that the user made for another one, if he has none for it yet.
pub async fn copy_of_room(server: &Arc<Server>, user: &UserId, from: &RoomId, to: &RoomId) -> Result<()> {
    let snapshot_has = |room: &RoomId| -> Result<bool> {
        Ok(get(&server.store.snapshot(), user)?.get(RuleKind::Room, room).is_some())
    };
    if !snapshot_has(from)? || snapshot_has(to)? {
        return Ok(());
    }
    let (from, to) = (from.to_owned(), to.to_owned());
    change(server, user, move |rules| {
        let Some(rule) = rules.room.get(from.as_str()).cloned() else { return Ok(()) };
        if rules.room.get(to.as_str()).is_none() {
            let copy = NewPushRule::Room(NewSimplePushRule::new(to.clone(), rule.actions));
            insert(rules, copy, &Position::default())?;
            rules.set_enabled(RuleKind::Room, &to, rule.enabled).map_err(|_| unknown_rule())?;
        }
        Ok(())
    })
    .await
}

/// What an endpoint answers about a rule that is not there.
pub fn unknown_rule() -> Error {
    Error::not_found("The push rule was not found")
}

/// Runs `work` on the rules of a user, keeps what it makes of them, and tells his clients.
async fn change(
    server: &Arc<Server>,
    user: &UserId,
    work: impl FnOnce(&mut Ruleset) -> Result<()> + Send + 'static,
) -> Result<()> {
    let owner = user.to_owned();
    let write = move |tx: &mut Transaction<'_>| {
        let mut rules = get(tx.before(), &owner)?;
        work(&mut rules)?;
        if rules.iter().count() > MAX_RULES {
            return Err(Error::too_large(format!("At most {MAX_RULES} push rules are kept")));
        }
        if globs(&rules) > MAX_GLOBS {
            return Err(Error::too_large(format!("At most {MAX_GLOBS} patterns with * or ? are kept")));
        }
        let content = encode(rules)?;
        if content.len() > MAX_BYTES {
            return Err(Error::too_large(format!("At most {MAX_BYTES} bytes of push rules are kept")));
        }
        // Actions and conditions may be of any form. Rules that we can't read back would be the end of every sync.
        plain_json::object(content.as_bytes())?;
        decode(&content, Ruleset::new()).map_err(|e| Error::bad_json(format!("The rule can't be kept: {e}")))?;
        account_data::put(tx, &owner, GLOBAL, EVENT_TYPE, content)
    };
    server.commit_and_wake(user, write).await
}

fn encode(rules: Ruleset) -> Result<String> {
    serde_json::to_string(&Content { global: rules }).map_err(Error::internal)
}

fn check_size(rule: &NewPushRule) -> Result<()> {
    if rule.rule_id().len() > MAX_RULE_ID_BYTES {
        return Err(Error::invalid_param(format!("The rule's id is longer than {MAX_RULE_ID_BYTES} bytes")));
    }
    let longest = match rule {
        NewPushRule::Override(rule) | NewPushRule::Underride(rule) => rule.conditions.iter().map(pattern_bytes).max(),
        NewPushRule::Content(rule) => Some(rule.pattern.len()),
        _ => None,
    };
    if longest.is_some_and(|longest| longest > MAX_PATTERN_BYTES) {
        return Err(Error::too_large(format!("A pattern is longer than {MAX_PATTERN_BYTES} bytes")));
    }
    Ok(())
}

fn globs(rules: &Ruleset) -> usize {
    let conditions = rules.override_.iter().chain(&rules.underride).flat_map(|rule| &rule.conditions);
    let of_conditions = conditions.filter_map(|condition| match condition {
        PushCondition::EventMatch(condition) => Some(&condition.pattern),
        _ => None,
    });
    let patterns = of_conditions.chain(rules.content.iter().map(|rule| &rule.pattern));
    patterns.filter(|pattern| glob::has_wildcards(pattern)).count()
}

fn pattern_bytes(condition: &PushCondition) -> usize {
    match condition {
        PushCondition::EventMatch(condition) => condition.pattern.len(),
        _ => 0,
    }
}

/// ruma inserts; placing is ours, because ruma's panics where a known rule goes after the last one.
fn insert(rules: &mut Ruleset, rule: NewPushRule, position: &Position) -> Result<()> {
    let (kind, rule_id) = (rule.kind(), rule.rule_id().to_owned());
    for other in [&position.before, &position.after].into_iter().flatten() {
        let found = rules.get(kind.clone(), other).ok_or_else(|| not_relative(other))?;
        if found.is_server_default() {
            return Err(Error::invalid_param("A rule can't be placed relative to a default rule of the server"));
        }
    }
    rules.insert(rule, None, None).map_err(not_inserted)?;
    match kind {
        RuleKind::Override => place(&mut rules.override_, &rule_id, position),
        RuleKind::Content => place(&mut rules.content, &rule_id, position),
        RuleKind::Room => place(&mut rules.room, &rule_id, position),
        RuleKind::Sender => place(&mut rules.sender, &rule_id, position),
        RuleKind::Underride => place(&mut rules.underride, &rule_id, position),
        _ => {}
    }
    Ok(())
}

/// Moves the rule `rule_id` to where it was asked to be. Does nothing for a rule relative to itself.
fn place<T>(rules: &mut IndexSet<T>, rule_id: &str, position: &Position)
where
    T: std::hash::Hash + Eq,
    str: Equivalent<T>,
{
    let (other, is_after) = match (&position.before, &position.after) {
        (Some(before), _) => (before, false),
        (None, Some(after)) => (after, true),
        (None, None) => return,
    };
    let (Some(from), Some(other)) = (rules.get_index_of(rule_id), rules.get_index_of(other.as_str())) else { return };
    // The rules below the one that leaves its place move up by one.
    let to = if from < other { other - 1 } else { other } + usize::from(is_after);
    if from != other {
        rules.move_index(from, to);
    }
}

fn not_relative(rule_id: &str) -> Error {
    Error::refused(ErrorKind::Unknown, format!("before/after rule not found: {rule_id}"))
}

fn not_inserted(error: InsertPushRuleError) -> Error {
    Error::invalid_param(error.to_string())
}

fn not_removed(error: RemovePushRuleError) -> Error {
    match error {
        RemovePushRuleError::NotFound => unknown_rule(),
        other => Error::invalid_param(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{
        push::{NewConditionalPushRule, NewPatternedPushRule},
        user_id,
    };

    use super::*;

    fn content_rule(rule_id: &str) -> NewPushRule {
        NewPushRule::Content(NewPatternedPushRule::new(rule_id.to_owned(), "x".to_owned(), vec![Action::Notify]))
    }

    fn order(rules: &Ruleset) -> Vec<&str> {
        rules.content.iter().map(|rule| rule.rule_id.as_str()).collect()
    }

    fn position(before: Option<&str>, after: Option<&str>) -> Position {
        Position { before: before.map(str::to_owned), after: after.map(str::to_owned) }
    }

    fn rules(ids: &[&str]) -> Ruleset {
        let mut rules = Ruleset::server_default(user_id!("@a:domain"));
        for id in ids.iter().rev() {
            insert(&mut rules, content_rule(id), &Position::default()).unwrap();
        }
        rules
    }

    #[test]
    fn a_new_rule_is_the_most_important_unless_placed() {
        let mut rules = rules(&["a", "b", "c"]);
        assert_eq!(order(&rules), ["a", "b", "c"]);
        insert(&mut rules, content_rule("d"), &position(Some("b"), None)).unwrap();
        assert_eq!(order(&rules), ["a", "d", "b", "c"]);
        insert(&mut rules, content_rule("e"), &position(None, Some("c"))).unwrap();
        assert_eq!(order(&rules), ["a", "d", "b", "c", "e"]);
        insert(&mut rules, content_rule("f"), &position(Some("a"), Some("e"))).unwrap();
        assert_eq!(order(&rules), ["f", "a", "d", "b", "c", "e"], "before counts");
    }

    #[test]
    fn a_known_rule_moves_only_if_asked_to() {
        let mut rules = rules(&["a", "b", "c"]);
        insert(&mut rules, content_rule("b"), &Position::default()).unwrap();
        assert_eq!(order(&rules), ["a", "b", "c"]);
        insert(&mut rules, content_rule("a"), &position(None, Some("c"))).unwrap();
        assert_eq!(order(&rules), ["b", "c", "a"]);
        insert(&mut rules, content_rule("a"), &position(None, Some("a"))).unwrap();
        insert(&mut rules, content_rule("a"), &position(Some("a"), None)).unwrap();
        assert_eq!(order(&rules), ["b", "c", "a"]);
        insert(&mut rules, content_rule("a"), &position(Some("b"), None)).unwrap();
        assert_eq!(order(&rules), ["a", "b", "c"]);
        insert(&mut rules, content_rule("c"), &position(None, Some("a"))).unwrap();
        assert_eq!(order(&rules), ["a", "c", "b"]);
    }

    #[test]
    fn defaults_are_neither_moved_nor_replaced_nor_removed() {
        let mut rules = rules(&[]);
        let own = || NewPushRule::Override(NewConditionalPushRule::new("own".to_owned(), vec![], vec![]));
        insert(&mut rules, own(), &position(Some(".m.rule.master"), None)).unwrap_err();
        insert(&mut rules, own(), &position(None, Some(".m.rule.tombstone"))).unwrap_err();
        insert(&mut rules, own(), &position(None, Some("nothing"))).unwrap_err();
        assert!(rules.get(RuleKind::Override, "own").is_none());
        insert(&mut rules, own(), &Position::default()).unwrap();
        let ids: Vec<_> = rules.override_.iter().take(3).map(|rule| rule.rule_id.as_str()).collect();
        assert_eq!(ids, [".m.rule.master", "own", ".m.rule.suppress_notices"]);
        for bad in [".m.rule.new", "a/b", "a\\b"] {
            insert(&mut rules, content_rule(bad), &Position::default()).unwrap_err();
        }
    }

    #[test]
    fn what_a_user_changed_outlives_a_change_of_the_defaults() {
        let kept = serde_json::json!({ "global": {
            "override": [
                { "rule_id": ".m.rule.master", "default": true, "enabled": true, "actions": [], "conditions": [] },
                { "rule_id": "own", "default": false, "enabled": false, "actions": ["notify"], "conditions": [] },
                { "rule_id": ".m.rule.gone", "default": true, "enabled": true, "actions": [], "conditions": [] },
            ],
            "underride": [
                { "rule_id": ".m.rule.message", "default": true, "enabled": true, "actions": [], "conditions": [] },
            ],
            "postcontent": [
                {
                    "rule_id": ".io.element.msc4306.rule.subscribed_thread",
                    "default": true, "enabled": false, "actions": ["notify"], "conditions": [],
                },
            ],
        }});
        let defaults = defaults::rules(user_id!("@a:domain"));
        let rules = decode(&kept.to_string(), defaults.clone()).unwrap();
        assert!(rules.get(RuleKind::Override, ".m.rule.master").unwrap().enabled());
        assert!(!rules.get(RuleKind::Override, "own").unwrap().enabled());
        assert!(rules.get(RuleKind::Override, ".m.rule.gone").is_none());
        let message = rules.underride.get(".m.rule.message").unwrap();
        assert!(message.actions.is_empty(), "the user's");
        assert_eq!(message.conditions.len(), 1, "the server's");
        let subscribed = rules.postcontent.get(".io.element.msc4306.rule.subscribed_thread").unwrap();
        assert!(!subscribed.enabled && !subscribed.conditions.is_empty());
        assert_eq!(rules.iter().count(), defaults.iter().count() + 1);
    }

    proptest! {
        #[test]
        fn no_order_of_changes_panics(changes in prop::collection::vec((0..5_u8, 0..6_u8, 0..6_u8), 0..40)) {
            let mut rules = rules(&["0", "1"]);
            let name = |number: u8| (number < 5).then(|| number.to_string());
            for (rule, before, after) in changes {
                let count = rules.content.len();
                let is_known = rules.content.contains(rule.to_string().as_str());
                let position = Position { before: name(before), after: name(after) };
                let done = insert(&mut rules, content_rule(&rule.to_string()), &position).is_ok();
                prop_assert_eq!(rules.content.len(), count + usize::from(done && !is_known));
            }
        }
    }
}
