//! From whom a user accepts invites.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#invite-permission>

use ruma::{
    UserId,
    api::error::ErrorKind,
    events::invite_permission_config::{InvitePermissionAction, InvitePermissionConfigEventContent},
};
use serde::Deserialize;

use super::account_data::{self, GLOBAL};
use crate::{
    error::{Error, Result},
    push::glob,
    store::{self, Snapshot},
};

/// The rules for single users and servers: <https://github.com/matrix-org/matrix-spec-proposals/pull/4155>
const RULES: &str = "org.matrix.msc4155.invite_permission_config";
const CONFIG: &str = "m.invite_permission_config";

/// How many patterns of a list count. Source: our choice.
const MAX_PATTERNS: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Allowed,
    /// The user is not to see it; who sent it is not to know.
    Ignored,
    Blocked,
}

/// What becomes of an invite of `user` by `sender`. What the user's account data has of another form counts as missing.
pub fn of(snapshot: &Snapshot<'_>, user: &UserId, sender: &UserId) -> store::Result<Permission> {
    if let Some(rules) = account_data::get(snapshot, user, GLOBAL, RULES)?
        && let Ok(rules) = serde_json::from_str::<Rules>(&rules)
        && let Some(permission) = rules.permission(sender)
    {
        return Ok(permission);
    }
    let config = account_data::get(snapshot, user, GLOBAL, CONFIG)?;
    let config = config.and_then(|config| serde_json::from_str::<InvitePermissionConfigEventContent>(&config).ok());
    Ok(match config.and_then(|config| config.default_action) {
        Some(InvitePermissionAction::Block) => Permission::Blocked,
        _ => Permission::Allowed,
    })
}

/// `M_INVITE_BLOCKED` if the user does not accept an invite of `sender`, and says so.
pub fn check(snapshot: &Snapshot<'_>, user: &UserId, sender: &UserId) -> Result<()> {
    match of(snapshot, user, sender)? {
        Permission::Allowed | Permission::Ignored => Ok(()),
        Permission::Blocked => Err(Error::refused(ErrorKind::InviteBlocked, format!("{user} does not accept invites"))
            .with_status(http::StatusCode::FORBIDDEN)),
    }
}

/// Lists of patterns.
#[derive(Default, Deserialize)]
struct Rules {
    /// False while the lists are kept, but not for use.
    enabled: Option<bool>,
    allowed_users: Option<Vec<String>>,
    ignored_users: Option<Vec<String>>,
    blocked_users: Option<Vec<String>>,
    allowed_servers: Option<Vec<String>>,
    ignored_servers: Option<Vec<String>>,
    blocked_servers: Option<Vec<String>>,
}

impl Rules {
    /// By the first list that has the user, or his server without its port; `None` if none has.
    fn permission(&self, sender: &UserId) -> Option<Permission> {
        if self.enabled == Some(false) {
            return None;
        }
        let (user, server) = (sender.as_str(), sender.server_name().host());
        let lists = [
            (&self.allowed_users, user, Permission::Allowed),
            (&self.ignored_users, user, Permission::Ignored),
            (&self.blocked_users, user, Permission::Blocked),
            (&self.allowed_servers, server, Permission::Allowed),
            (&self.ignored_servers, server, Permission::Ignored),
            (&self.blocked_servers, server, Permission::Blocked),
        ];
        let has = |list: &Option<Vec<String>>, name: &str| {
            list.iter().flatten().take(MAX_PATTERNS).any(|pattern| glob::matches(pattern, name))
        };
        lists.into_iter().find(|(list, name, _)| has(list, name)).map(|(_, _, permission)| permission)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn the_first_list_that_has_the_user_decides() {
        let rules = |json: &str| serde_json::from_str::<Rules>(json).unwrap();
        let of = |json: &str| rules(json).permission(user_id!("@bob:evil.org"));
        let with_port = |json: &str| rules(json).permission(user_id!("@bob:evil.org:8448"));
        assert_eq!(of("{}"), None);
        assert_eq!(of(r#"{ "blocked_servers": ["*.org"] }"#), Some(Permission::Blocked));
        assert_eq!(of(r#"{ "blocked_servers": ["evil.or"] }"#), None);
        assert_eq!(of(r#"{ "ignored_users": ["@b?b:*"], "allowed_servers": ["*"] }"#), Some(Permission::Ignored));
        assert_eq!(of(r#"{ "allowed_users": ["@bob:evil.org"], "blocked_users": ["@*"] }"#), Some(Permission::Allowed));
        assert_eq!(of(r#"{ "blocked_users": null, "ignored_servers": ["evil.org"] }"#), Some(Permission::Ignored));
        assert_eq!(of(r#"{ "enabled": false, "blocked_users": ["*"] }"#), None);
        assert_eq!(of(r#"{ "enabled": true, "blocked_users": ["*"] }"#), Some(Permission::Blocked));
        assert_eq!(with_port(r#"{ "blocked_servers": ["evil.org"] }"#), Some(Permission::Blocked));
        assert_eq!(with_port(r#"{ "blocked_users": ["@bob:evil.org"] }"#), None);
    }
}
