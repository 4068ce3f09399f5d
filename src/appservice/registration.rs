//! Registration files: <https://spec.matrix.org/v1.19/application-service-api/#registration>

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use regex::Regex;
use reqwest::Url;
use ruma::{OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};
use serde::Deserialize;

use crate::config::Secret;

/// An application service, as its file registers it.
#[derive(Clone, Debug)]
pub struct Appservice {
    pub id: String,
    /// Where it listens; `None` if it wants to be told nothing.
    pub url: Option<Url>,
    /// By which it calls us.
    pub as_token: Secret,
    /// By which we call it.
    pub hs_token: Secret,
    /// The user who it is if it does not say otherwise.
    pub bot: OwnedUserId,
    pub is_rate_limited: bool,
    /// It wants typing, receipts, presence and the to-device messages of its users.
    pub wants_ephemeral: bool,
    /// It wants what encryption needs: device lists, and how many one-time keys are left (MSC3202).
    pub wants_encryption: bool,
    pub protocols: Vec<String>,
    users: Vec<Namespace>,
    aliases: Vec<Namespace>,
    rooms: Vec<Namespace>,
    server_name: String,
}

/// Two are the same if their ids are.
impl PartialEq for Appservice {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Appservice {}

#[derive(Clone, Debug)]
struct Namespace {
    regex: Regex,
    is_exclusive: bool,
}

/// How much of something belongs to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    None,
    Shared,
    /// Nobody else may make one.
    Exclusive,
}

#[derive(Deserialize)]
struct File {
    id: String,
    url: Option<String>,
    as_token: String,
    hs_token: String,
    sender_localpart: String,
    #[serde(default)]
    namespaces: Namespaces,
    rate_limited: Option<bool>,
    protocols: Option<Vec<String>>,
    receive_ephemeral: Option<bool>,
    /// What it was called before.
    push_ephemeral: Option<bool>,
    #[serde(rename = "de.sorunome.msc2409.push_ephemeral")]
    msc2409: Option<bool>,
    #[serde(rename = "org.matrix.msc3202")]
    msc3202: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Namespaces {
    users: Option<Vec<FileNamespace>>,
    aliases: Option<Vec<FileNamespace>>,
    rooms: Option<Vec<FileNamespace>>,
}

#[derive(Deserialize)]
struct FileNamespace {
    #[serde(default)]
    exclusive: bool,
    regex: String,
}

impl Appservice {
    /// From the text of a registration file.
    pub fn parse(text: &str, server_name: &ServerName) -> anyhow::Result<Self> {
        // Tokens are in the lines that a snippet would show.
        let file: File = serde_saphyr::from_str_with_options(text, serde_saphyr::options! { with_snippet: false })?;
        let url = file.url.filter(|url| !url.is_empty() && url != "null");
        let url = url.map(|url| Url::parse(&url).with_context(|| format!("`url` ({url}) is no URL"))).transpose()?;
        if url.as_ref().is_some_and(|url| !matches!(url.scheme(), "http" | "https")) {
            bail!("`url` must begin with http:// or https://");
        }
        for (key, secret) in [("id", &file.id), ("as_token", &file.as_token), ("hs_token", &file.hs_token)] {
            if secret.is_empty() {
                bail!("`{key}` is empty");
            }
        }
        let bot = UserId::parse_with_server_name(&*file.sender_localpart, server_name);
        let is = |flag: Option<bool>| flag.unwrap_or_default();
        Ok(Self {
            url,
            bot: bot.context("`sender_localpart` is no local part of a user id")?,
            is_rate_limited: file.rate_limited.unwrap_or(true),
            wants_ephemeral: is(file.receive_ephemeral) || is(file.push_ephemeral) || is(file.msc2409),
            wants_encryption: is(file.msc3202),
            protocols: file.protocols.unwrap_or_default(),
            users: compile("users", file.namespaces.users)?,
            aliases: compile("aliases", file.namespaces.aliases)?,
            rooms: compile("rooms", file.namespaces.rooms)?,
            server_name: server_name.to_string(),
            id: file.id,
            as_token: Secret::new(file.as_token),
            hs_token: Secret::new(file.hs_token),
        })
    }

    /// How a user of this server stands to the service. Users of other servers never are its own.
    pub fn user(&self, user: &UserId) -> Interest {
        if user == self.bot {
            return Interest::Exclusive;
        }
        match user.server_name().as_str() == self.server_name {
            true => interest(&self.users, user.as_str()),
            false => Interest::None,
        }
    }

    /// Whether no rate limit holds for its requests as `user`. "The sender is excluded."
    /// <https://spec.matrix.org/v1.19/application-service-api/#registration>
    pub fn is_unlimited_as(&self, user: &UserId) -> bool {
        !self.is_rate_limited || user == self.bot
    }

    pub fn has_user(&self, user: &UserId) -> bool {
        self.user(user) > Interest::None
    }

    pub fn alias(&self, alias: &RoomAliasId) -> Interest {
        interest(&self.aliases, alias.as_str())
    }

    pub fn has_room(&self, room: &RoomId) -> bool {
        interest(&self.rooms, room.as_str()) > Interest::None
    }

    pub fn has_aliases(&self) -> bool {
        !self.aliases.is_empty()
    }
}

fn compile(name: &str, namespaces: Option<Vec<FileNamespace>>) -> anyhow::Result<Vec<Namespace>> {
    let compile = |namespace: FileNamespace| {
        // As Synapse has it, a pattern need not reach the end of what it matches.
        let regex = Regex::new(&format!("^(?:{})", namespace.regex));
        let regex = regex.with_context(|| format!("`namespaces.{name}` has a wrong `regex`"))?;
        Ok(Namespace { regex, is_exclusive: namespace.exclusive })
    };
    namespaces.unwrap_or_default().into_iter().map(compile).collect()
}

fn interest(namespaces: &[Namespace], id: &str) -> Interest {
    let of = |namespace: &Namespace| match namespace.is_exclusive {
        true => Interest::Exclusive,
        false => Interest::Shared,
    };
    #[cfg(test)]
    TRIED.with(|tried| tried.set(tried.get() + 1));
    namespaces.iter().filter(|namespace| namespace.regex.is_match(id)).map(of).max().unwrap_or(Interest::None)
}

#[cfg(test)]
thread_local! {
    /// How many ids were tried with the namespaces of services.
    pub static TRIED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Reads files, and all `*.yaml` and `*.yml` of folders, in the order of their names.
pub fn read(paths: &[PathBuf], server_name: &ServerName) -> anyhow::Result<Vec<Appservice>> {
    let mut files = Vec::new();
    for path in paths {
        match path.is_dir() {
            true => files.extend(yaml_files(path).with_context(|| format!("{} can't be read", path.display()))?),
            false => files.push(path.clone()),
        }
    }
    let mut services: Vec<Appservice> = Vec::new();
    for file in files {
        let named = || format!("{} registers no application service", file.display());
        let text = fs::read_to_string(&file).with_context(named)?;
        let service = Appservice::parse(&text, server_name).with_context(named)?;
        let same = |other: &Appservice| other.id == service.id || other.as_token == service.as_token;
        if services.iter().any(same) {
            bail!("{}: another application service has the same `id` or `as_token`", file.display());
        }
        services.push(service);
    }
    Ok(services)
}

fn yaml_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use ruma::{room_alias_id, server_name, user_id};

    use super::*;

    const IRC: &str = r##"
id: "IRC Bridge"
url: "http://127.0.0.1:1234"
as_token: a
hs_token: h
sender_localpart: _irc_bot
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_bridge_.*"
  aliases:
    - exclusive: false
      regex: "#_irc_bridge_.*"
  rooms: []
"##;

    #[test]
    fn the_specifications_example_is_understood() {
        let service = Appservice::parse(IRC, server_name!("example.org")).unwrap();
        assert_eq!(service.bot, "@_irc_bot:example.org");
        assert!(service.is_rate_limited && !service.wants_ephemeral);
        assert_eq!(service.user(user_id!("@_irc_bridge_x:example.org")), Interest::Exclusive);
        assert_eq!(service.user(user_id!("@_irc_bot:example.org")), Interest::Exclusive);
        assert_eq!(service.user(user_id!("@_irc_bridge_x:other.org")), Interest::None, "only local users");
        assert_eq!(service.user(user_id!("@a_irc_bridge_x:example.org")), Interest::None);
        assert_eq!(service.alias(room_alias_id!("#_irc_bridge_a:example.org")), Interest::Shared);
    }

    #[test]
    fn wrong_files_are_refused() {
        let parse = |text: &str| Appservice::parse(text, server_name!("example.org"));
        for (from, to) in [
            ("as_token: a", ""),
            ("hs_token: h", "hs_token: ''"),
            ("sender_localpart: _irc_bot", "sender_localpart: 'a:b'"),
            ("\"@_irc_bridge_.*\"", "'('"),
            ("\"http://127.0.0.1:1234\"", "127.0.0.1"),
            ("id: \"IRC Bridge\"", "- x"),
        ] {
            assert!(IRC.contains(from), "{from}");
            assert!(parse(&IRC.replace(from, to)).is_err(), "{to}");
        }
        let silent = parse(&IRC.replace("\"http://127.0.0.1:1234\"", "null")).unwrap();
        assert!(silent.url.is_none());
    }

    #[test]
    fn what_is_wrong_is_said_without_the_tokens() {
        let unclosed = IRC.replace("as_token: a", "as_token: \"s3cret");
        let said = format!("{:#}", Appservice::parse(&unclosed, server_name!("example.org")).unwrap_err());
        assert!(said.contains("line") && !said.contains("s3cret"), "{said}");
    }

    #[test]
    fn old_names_of_keys_count() {
        for key in ["receive_ephemeral", "push_ephemeral", "de.sorunome.msc2409.push_ephemeral"] {
            let service = Appservice::parse(&format!("{IRC}{key}: true\n"), server_name!("example.org")).unwrap();
            assert!(service.wants_ephemeral, "{key}");
        }
    }
}
