//! Clients, which register themselves before each log-in.
//! <https://spec.matrix.org/v1.19/client-server-api/#client-registration>
//!
//! The id of a client is made of what it says of itself: however many phones have an app, it is one client. Until
//! somebody has logged in with it, it is in memory only, so that strangers can't fill the disk.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    failure::{Code, Failure},
    redirect::{self, ApplicationType},
    tables::{Clients, Sessions},
};
use crate::{
    Server,
    error::Result,
    store::{Record, Snapshot, Transaction},
};

/// How much a client can say of itself, as JSON.
const MAX_BYTES: usize = 4 << 10;
const MAX_NAME_CHARS: usize = 100;
const MAX_REDIRECT_URIS: usize = 10;

/// How long a client is kept after the last of its sessions: somebody may be logging in with it.
const KEPT_MS: u64 = 60 * 60 * 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GrantType {
    #[serde(rename = "authorization_code")]
    AuthorizationCode,
    #[serde(rename = "refresh_token")]
    RefreshToken,
    #[serde(rename = "urn:ietf:params:oauth:grant-type:device_code")]
    DeviceCode,
}

impl GrantType {
    pub const ALL: [(&'static str, Self); 3] = [
        ("authorization_code", Self::AuthorizationCode),
        ("refresh_token", Self::RefreshToken),
        ("urn:ietf:params:oauth:grant-type:device_code", Self::DeviceCode),
    ];

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, grant)| *grant)
    }
}

/// A client, as it describes itself; its addresses were checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub name: Option<String>,
    /// A page about it, on whose host or below which all its addresses are.
    pub uri: String,
    /// `logo_uri`, `tos_uri`, `policy_uri`, as far as they are given.
    pub pages: BTreeMap<String, String>,
    pub redirect_uris: Vec<String>,
    pub application_type: ApplicationType,
    pub grant_types: Vec<GrantType>,
    /// When the row was last written, in milliseconds since the Unix epoch.
    pub used_at_ms: u64,
}

impl Record for Client {}

/// What is sent to register a client. What we do not know is passed over, as RFC 7591 has it.
#[derive(Deserialize)]
struct Wish {
    client_uri: Option<String>,
    client_name: Option<String>,
    logo_uri: Option<String>,
    tos_uri: Option<String>,
    policy_uri: Option<String>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    response_types: Option<Vec<String>>,
    grant_types: Option<Vec<String>>,
    token_endpoint_auth_method: Option<String>,
    application_type: Option<String>,
}

impl Client {
    /// From the body of a registration.
    pub fn parse(body: &[u8]) -> Result<Self, Failure> {
        let wrong = |what: &'static str| Code::InvalidClientMetadata.because(what);
        let wish: Wish = match body.len() {
            0..=MAX_BYTES => serde_json::from_slice(body).map_err(|_| wrong("The body is not metadata of a client"))?,
            _ => return Err(wrong("The metadata is too long")),
        };
        let uri = wish.client_uri.ok_or_else(|| wrong("`client_uri` is missing"))?;
        let base = redirect::base_of(&uri).ok_or_else(|| wrong("`client_uri` must be the https URL of a web page"))?;
        let pages = [("logo_uri", wish.logo_uri), ("tos_uri", wish.tos_uri), ("policy_uri", wish.policy_uri)];
        let pages: BTreeMap<_, _> = pages.into_iter().filter_map(|(key, uri)| Some((key.to_owned(), uri?))).collect();
        if !pages.values().all(|page| redirect::is_page_of(&base, page)) {
            return Err(wrong("`logo_uri`, `tos_uri` and `policy_uri` must be https URLs on the host of `client_uri`"));
        }
        if wish.client_name.as_deref().is_some_and(|name| name.chars().count() > MAX_NAME_CHARS) {
            return Err(wrong("`client_name` is too long"));
        }
        if wish.token_endpoint_auth_method.is_some_and(|method| method != "none") {
            return Err(wrong("The only `token_endpoint_auth_method` is `none`"));
        }
        let application_type = match wish.application_type.as_deref() {
            None | Some("web") => ApplicationType::Web,
            Some("native") => ApplicationType::Native,
            Some(_) => return Err(wrong("`application_type` is `web` or `native`")),
        };
        let grant_types = grant_types(wish.grant_types);
        if grant_types.contains(&GrantType::AuthorizationCode) {
            let has_code = wish.response_types.is_none_or(|types| types.iter().any(|kind| kind == "code"));
            if !has_code || wish.redirect_uris.is_empty() {
                return Err(wrong("`authorization_code` needs the response type `code` and `redirect_uris`"));
            }
        } else if !grant_types.contains(&GrantType::DeviceCode) {
            return Err(wrong("None of the `grant_types` begins a session"));
        }
        let is_allowed = |uri: &String| redirect::is_allowed(&base, application_type, uri);
        if wish.redirect_uris.len() > MAX_REDIRECT_URIS || !wish.redirect_uris.iter().all(is_allowed) {
            return Err(Code::InvalidRedirectUri.because("One of the `redirect_uris` is not allowed for this client"));
        }
        let Wish { client_name: name, redirect_uris, .. } = wish;
        Ok(Self { name, uri, pages, redirect_uris, application_type, grant_types, used_at_ms: 0 })
    }

    /// The same for the same client.
    fn id(&self) -> String {
        let described = serde_json::to_vec(&self.metadata()).expect("JSON values can be written");
        URL_SAFE_NO_PAD.encode(Sha256::digest(described))
    }

    /// What was registered, in the words of the standard.
    pub fn metadata(&self) -> Map<String, Value> {
        let mut all = Map::new();
        all.extend(self.name.clone().map(|name| ("client_name".to_owned(), name.into())));
        all.insert("client_uri".to_owned(), self.uri.clone().into());
        all.extend(self.pages.iter().map(|(key, uri)| (key.clone(), uri.clone().into())));
        all.insert("redirect_uris".to_owned(), self.redirect_uris.clone().into());
        all.insert("application_type".to_owned(), json!(self.application_type));
        all.insert("grant_types".to_owned(), json!(self.grant_types));
        let has_code = self.grant_types.contains(&GrantType::AuthorizationCode);
        all.insert("response_types".to_owned(), if has_code { json!(["code"]) } else { json!([]) });
        all.insert("token_endpoint_auth_method".to_owned(), "none".into());
        all
    }

    /// `unauthorized_client` if it did not say that it would ask so.
    pub fn check_grant(&self, grant: GrantType) -> Result<(), Failure> {
        match self.grant_types.contains(&grant) {
            true => Ok(()),
            false => Err(Code::UnauthorizedClient.because("The client is not registered for this grant type")),
        }
    }

    /// What people call it, as far as it says so.
    pub fn shown_name(&self) -> &str {
        self.name.as_deref().filter(|name| !name.trim().is_empty()).unwrap_or(&self.uri)
    }
}

/// Those that we know, each once; what the standard says if none are given.
fn grant_types(wanted: Option<Vec<String>>) -> Vec<GrantType> {
    let Some(wanted) = wanted else { return vec![GrantType::AuthorizationCode] };
    let mut known: Vec<_> = wanted.iter().filter_map(|name| GrantType::named(name)).collect();
    known.sort_unstable();
    known.dedup();
    known
}

/// Registers a client: its id.
pub fn register(server: &Server, client: Client) -> String {
    let id = client.id();
    let now_ms = server.clock.now_ms();
    // It lives from its last registration, also if it is on disk: the last of its sessions may end before the log-in.
    server.oauth.clients.take(now_ms, &id);
    server.oauth.clients.insert(now_ms, &id, client);
    id
}

/// `invalid_client` if there is none of this id.
pub fn find(server: &Server, id: &str) -> Result<Client, Failure> {
    if let Some(client) = server.store.snapshot().get::<Clients>(&id)? {
        return Ok(client);
    }
    let client = server.oauth.clients.with(server.clock.now_ms(), id, |client| client.clone());
    client.ok_or_else(|| Code::InvalidClient.because("This client is unknown: it has to register again"))
}

/// Keeps a client with which somebody logs in now.
pub fn keep(tx: &mut Transaction<'_>, id: &str, client: &Client, now_ms: u64) {
    tx.put::<Clients>(&id, &Client { used_at_ms: now_ms, ..client.clone() });
}

/// Removes clients with which nobody is logged in any more; how many.
pub async fn sweep(server: &Arc<Server>) -> Result<usize> {
    let now_ms = server.clock.now_ms();
    let unused = server.read(move |snapshot| unused(snapshot, now_ms)).await?;
    if unused.is_empty() {
        return Ok(0);
    }
    server
        .store
        .commit_when_full(move |tx| {
            // Somebody may have logged in meanwhile.
            let unused = self::unused(tx.before(), now_ms)?;
            unused.iter().for_each(|id| tx.delete::<Clients>(&id.as_str()));
            Ok(unused.len())
        })
        .await
}

fn unused(snapshot: &Snapshot<'_>, now_ms: u64) -> Result<Vec<String>> {
    let mut used = HashSet::new();
    for row in snapshot.list::<Sessions>(&()) {
        used.insert(row?.value.client_id);
    }
    let mut unused = Vec::new();
    for row in snapshot.list::<Clients>(&()) {
        let row = row?;
        let id = row.key()?;
        if !used.contains(id) && row.value.used_at_ms.saturating_add(KEPT_MS) <= now_ms {
            unused.push(id.to_owned());
        }
    }
    Ok(unused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Value {
        json!({
            "client_name": "My App",
            "client_name#fr": "Mon application",
            "client_uri": "https://example.com/",
            "logo_uri": "https://example.com/logo.png",
            "redirect_uris": ["https://app.example.com/callback"],
            "token_endpoint_auth_method": "none",
            "response_types": ["code", "fragment"],
            "grant_types": ["refresh_token", "authorization_code", "urn:ietf:params:oauth:grant-type:token-exchange"],
            "application_type": "web"
        })
    }

    fn parse(change: impl FnOnce(&mut Value)) -> Result<Client, Code> {
        let mut metadata = client();
        change(&mut metadata);
        Client::parse(metadata.to_string().as_bytes()).map_err(|failure| match failure {
            Failure::Refused { code, .. } => code,
            Failure::Server(error) => panic!("{error:?}"),
        })
    }

    #[test]
    fn what_is_unknown_is_left_out_and_does_not_count() {
        let first = parse(|_| {}).unwrap();
        assert_eq!(first.metadata()["grant_types"], json!(["authorization_code", "refresh_token"]));
        assert_eq!(first.metadata()["response_types"], json!(["code"]));
        assert_eq!(first.metadata().get("client_name#fr"), None);
        assert_eq!(first.id(), parse(|wish| wish["x"] = 1.into()).unwrap().id());
        assert_ne!(first.id(), parse(|wish| wish["client_name"] = "Another".into()).unwrap().id());
    }

    #[test]
    fn wrong_metadata_is_refused() {
        let refused = |change: &dyn Fn(&mut Value)| parse(change).unwrap_err();
        let metadata: [&dyn Fn(&mut Value); 9] = [
            &|wish| wish["client_uri"] = "http://example.com/".into(),
            &|wish| drop(wish.as_object_mut().unwrap().remove("client_uri")),
            &|wish| wish["logo_uri"] = "https://other.example/logo.png".into(),
            &|wish| wish["tos_uri"] = "javascript:alert(1)".into(),
            &|wish| wish["token_endpoint_auth_method"] = "client_secret_basic".into(),
            &|wish| wish["application_type"] = "other".into(),
            &|wish| wish["grant_types"] = json!(["refresh_token"]),
            &|wish| wish["redirect_uris"] = json!([]),
            &|wish| wish["client_name"] = "x".repeat(101).into(),
        ];
        for change in metadata {
            assert_eq!(refused(change), Code::InvalidClientMetadata);
        }
        for uri in ["https://other.example/callback", "com.example:/", "http://localhost/"] {
            assert_eq!(refused(&|wish| wish["redirect_uris"] = json!([uri])), Code::InvalidRedirectUri, "{uri}");
        }
        let many: Vec<_> = (0..11).map(|n| format!("https://example.com/{n}")).collect();
        assert_eq!(refused(&|wish| wish["redirect_uris"] = json!(many)), Code::InvalidRedirectUri);
        assert!(Client::parse(b"[]").is_err() && Client::parse(&[b' '; 5_000]).is_err());
    }

    #[test]
    fn a_client_for_devices_needs_no_address() {
        let grants = json!(["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"]);
        let client = parse(|wish| {
            wish["grant_types"] = grants;
            wish["redirect_uris"] = json!([]);
        });
        assert!(client.unwrap().check_grant(GrantType::AuthorizationCode).is_err());
    }
}
