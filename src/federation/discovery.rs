//! Where a server is, by its name.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names>

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use quick_cache::sync::Cache;
use ruma::{
    OwnedServerName, ServerName,
    api::{IncomingResponseExt, federation::discovery::discover_homeserver},
};

use crate::{
    Server,
    error::{Error, RemoteError, Result},
    metrics::CacheUse,
    outgoing::{self, Failure, Limits},
};

const DEFAULT_PORT: u16 = 8448;

/// How long `/.well-known` is believed: if it says nothing of it, and at least and at most; and if there is none.
///
/// Source: the specification, but for the least, which is our choice.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
const KEPT_LEAST: Duration = Duration::from_secs(5 * 60);
const KEPT_MOST: Duration = Duration::from_secs(48 * 60 * 60);
const KEPT_FAILURE: Duration = Duration::from_secs(60 * 60);
/// When it is asked for again if nobody answered, which may be because of our own network; and for how long after its time
/// what it said before is believed meanwhile. Source: our choice.
const UNANSWERED: Duration = Duration::from_secs(10 * 60);
const GRACE: Duration = Duration::from_secs(48 * 60 * 60);
/// Of how many servers it is remembered.
const KEPT_SERVERS: usize = 10_000;

const WELL_KNOWN: Limits = Limits { time: Duration::from_secs(15), bytes: 64 << 10, redirects: true };

/// Where requests for a server go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Host and port for the connection, whose certificate must be for the host. A host that ends with a dot is the one
    /// whose service records say where to connect, see [`outgoing`].
    pub authority: String,
    /// The header `Host`.
    pub host: String,
}

/// What servers say of themselves at `/.well-known/matrix/server`.
pub struct WellKnownCache(Cache<OwnedServerName, Said>);

/// What a server says of itself. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    /// To which name it delegates; `None` if it does not, or if what it says can't be used.
    delegated: Option<OwnedServerName>,
    /// From when on it is asked again.
    until_ms: u64,
    /// Until when it is believed if nobody answers.
    grace_until_ms: u64,
}

impl Default for WellKnownCache {
    fn default() -> Self {
        Self(Cache::new(KEPT_SERVERS))
    }
}

impl WellKnownCache {
    pub fn cache_use(&self) -> CacheUse {
        CacheUse::of(&self.0)
    }
}

/// Finds out where `name` is.
pub async fn find(server: &Server, name: &ServerName) -> Result<Place> {
    if !server.outgoing.has_network() {
        return Ok(Place { authority: name.to_string(), host: name.to_string() });
    }
    // A final dot is ours, see `Place`; as part of a name it would be the same server under a second name.
    if name.host().ends_with('.') {
        return Err(Error::remote(name, RemoteError::Unreachable("a server name does not end with a dot".to_owned())));
    }
    if let Some(place) = written_out(name) {
        return Ok(place);
    }
    match well_known(server, name).await {
        Some(delegated) => match written_out(&delegated) {
            Some(place) => Ok(place),
            None => Ok(by_service(server, delegated.host()).await),
        },
        None => Ok(by_service(server, name.host()).await),
    }
}

/// The place that a name says itself: an address, or a host with a port.
fn written_out(name: &ServerName) -> Option<Place> {
    let port = name.port();
    if port.is_none() && !name.is_ip_literal() {
        return None;
    }
    let port = port.unwrap_or(DEFAULT_PORT);
    Some(Place { authority: format!("{}:{port}", name.host()), host: name.to_string() })
}

async fn by_service(server: &Server, host: &str) -> Place {
    let has_service = server.outgoing.has_service(host).await.unwrap_or_default();
    let authority = if has_service { format!("{host}.") } else { format!("{host}:{DEFAULT_PORT}") };
    Place { authority, host: host.to_owned() }
}

/// To which name a server delegates; `None` if it does not, or if what it says can't be used.
async fn well_known(server: &Server, name: &ServerName) -> Option<OwnedServerName> {
    let WellKnownCache(cache) = &server.federation.well_known;
    let now = server.clock.now_ms();
    let before = cache.get(name);
    if let Some(said) = before.as_ref().filter(|said| said.until_ms > now) {
        return said.delegated.clone();
    }
    let said = Said::after(before, fetch_well_known(server, name).await, now);
    cache.insert(name.to_owned(), said.clone());
    said.delegated
}

/// What was found at `/.well-known`: where to go, and for how long.
enum Found {
    Delegation(OwnedServerName, Duration),
    Nothing,
    /// Nobody answered, or not as one who could know.
    NoAnswer,
}

impl Said {
    /// What is known of a server now, after what was known `before`.
    fn after(before: Option<Self>, found: Found, now_ms: u64) -> Self {
        let later =
            |from_ms: u64, time: Duration| from_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        match found {
            Found::Delegation(name, kept) => {
                let until_ms = later(now_ms, kept);
                Self { delegated: Some(name), until_ms, grace_until_ms: later(until_ms, GRACE) }
            }
            Found::Nothing => Self { delegated: None, until_ms: later(now_ms, KEPT_FAILURE), grace_until_ms: 0 },
            Found::NoAnswer => {
                let before = before.filter(|before| before.grace_until_ms > now_ms);
                let grace_until_ms = before.as_ref().map_or(0, |before| before.grace_until_ms);
                let delegated = before.and_then(|before| before.delegated);
                Self { delegated, until_ms: later(now_ms, UNANSWERED), grace_until_ms }
            }
        }
    }
}

async fn fetch_well_known(server: &Server, name: &ServerName) -> Found {
    let request = http::Request::get(format!("https://{}/.well-known/matrix/server", name.host()));
    let Ok(request) = request.body(Bytes::new()) else { return Found::Nothing };
    let Ok(response) = server.outgoing.send(request, WELL_KNOWN).await else { return Found::NoAnswer };
    if response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS {
        return Found::NoAnswer;
    }
    if response.status() != StatusCode::OK {
        return Found::Nothing;
    }
    let (parts, body) = response.into_parts();
    let body = match outgoing::read(body).await {
        Ok(body) => body,
        Err(Failure::TooLarge(_)) => return Found::Nothing,
        Err(_) => return Found::NoAnswer,
    };
    delegation(&parts.headers, &body)
}

/// What an answer says.
fn delegation(headers: &HeaderMap, body: &[u8]) -> Found {
    let said = discover_homeserver::Response::try_from_http_response(http::Response::new(body));
    match said {
        Ok(said) if !said.server.host().ends_with('.') => Found::Delegation(said.server, kept_for(headers)),
        _ => Found::Nothing,
    }
}

/// How long an answer may be kept, by its `Cache-Control`.
fn kept_for(headers: &HeaderMap) -> Duration {
    let texts = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<_> = texts.flat_map(|text| text.split(',')).map(|text| text.trim().to_lowercase()).collect();
    if directives.iter().any(|directive| directive == "no-store" || directive == "no-cache") {
        return KEPT_LEAST;
    }
    let max_age = directives.iter().find_map(|directive| directive.strip_prefix("max-age=")?.parse().ok());
    max_age.map_or(KEPT, Duration::from_secs).clamp(KEPT_LEAST, KEPT_MOST)
}

#[cfg(test)]
mod tests {
    use ruma::api::federation::query::get_profile_information;

    use super::*;
    use crate::{
        federation::{backoff, request},
        room::testing::TestRoom,
    };

    fn place(name: &str) -> Option<(String, String)> {
        written_out(name.try_into().unwrap()).map(|place| (place.authority, place.host))
    }

    #[test]
    fn addresses_and_ports_are_taken_as_they_are() {
        let of = |authority: &str, host: &str| Some((authority.to_owned(), host.to_owned()));
        assert_eq!(place("1.2.3.4"), of("1.2.3.4:8448", "1.2.3.4"));
        assert_eq!(place("1.2.3.4:99"), of("1.2.3.4:99", "1.2.3.4:99"));
        assert_eq!(place("[1234:5678::abcd]"), of("[1234:5678::abcd]:8448", "[1234:5678::abcd]"));
        assert_eq!(place("[::1]:99"), of("[::1]:99", "[::1]:99"));
        assert_eq!(place("example.org:443"), of("example.org:443", "example.org:443"));
        assert_eq!(place("example.org"), None);
    }

    #[test]
    fn a_name_with_a_final_dot_is_nobodys() {
        let room = TestRoom::new();
        for name in ["b.test.:8448", "b.test."] {
            let name: &ServerName = name.try_into().unwrap();
            let user = format!("@x:{name}").try_into().unwrap();
            let asked = request(&room.server, name, get_profile_information::v1::Request::new(user));
            let failure = room.block_on(asked).unwrap_err();
            let Error::Remote { source: RemoteError::Unreachable(why), .. } = failure else { unreachable!("{name}") };
            assert!(why.contains("dot"), "{name}: {why}");
            assert!(backoff::until(&room.server, name).unwrap().is_some(), "{name} is left alone");
        }
    }

    #[test]
    fn nothing_is_delegated_to_a_name_with_a_final_dot() {
        let delegated = |body: &str| match delegation(&HeaderMap::new(), body.as_bytes()) {
            Found::Delegation(name, _) => Some(name.to_string()),
            Found::Nothing | Found::NoAnswer => None,
        };
        assert_eq!(delegated(r#"{"m.server":"b.test:443"}"#).as_deref(), Some("b.test:443"));
        for name in ["b.test.", "b.test.:443"] {
            assert_eq!(delegated(&format!(r#"{{"m.server":"{name}"}}"#)), None);
        }
    }

    #[test]
    fn a_delegation_to_a_private_address_is_not_connected_to() {
        let room = TestRoom::new();
        let WellKnownCache(cache) = &room.server.federation.well_known;
        for (number, address) in ["127.0.0.1", "10.1.2.3:443", "[::1]", "[::ffff:7f00:1]:443"].into_iter().enumerate() {
            let name = OwnedServerName::try_from(format!("s{number}.test")).unwrap();
            let delegated = Some(address.try_into().unwrap());
            cache.insert(name.clone(), Said { delegated, until_ms: u64::MAX, grace_until_ms: 0 });
            let user = format!("@x:{name}").try_into().unwrap();
            let asked = request(&room.server, &name, get_profile_information::v1::Request::new(user));
            let failure = room.block_on(asked).unwrap_err();
            let Error::Remote { source: RemoteError::Unreachable(why), .. } = failure else {
                unreachable!("{address}")
            };
            assert!(why.contains("to which this server does not connect"), "{address}: {why}");
        }
    }

    #[test]
    fn where_nobody_answers_what_was_said_before_is_believed_for_a_while() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        let name: OwnedServerName = "matrix.example.org".try_into().unwrap();
        let said = Said::after(None, Found::Delegation(name.clone(), minutes(60)), 0);
        assert_eq!((said.delegated.as_ref(), said.until_ms), (Some(&name), ms(minutes(60))));
        let now = said.until_ms;
        let later = Said::after(Some(said.clone()), Found::NoAnswer, now);
        assert_eq!((later.delegated.as_ref(), later.until_ms), (Some(&name), now + ms(UNANSWERED)));
        let too_late = Said::after(Some(later.clone()), Found::NoAnswer, now + ms(GRACE));
        assert_eq!(too_late.delegated, None, "each time without an answer does not make it longer");
        assert_eq!(Said::after(Some(later), Found::Nothing, now).delegated, None, "it says something else now");
        let stranger = Said::after(None, Found::NoAnswer, now);
        assert_eq!((stranger.delegated, stranger.until_ms), (None, now + ms(UNANSWERED)));
    }

    #[test]
    fn an_answer_is_kept_as_it_says_within_bounds() {
        let kept = |control: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(control) = control {
                headers.insert(header::CACHE_CONTROL, control.parse().unwrap());
            }
            kept_for(&headers).as_secs()
        };
        assert_eq!(kept(None), 86_400);
        assert_eq!(kept(Some("public, max-age=3600")), 3_600);
        assert_eq!(kept(Some("max-age=99999999")), 172_800);
        assert_eq!((kept(Some("max-age=0")), kept(Some("no-store"))), (300, 300));
    }
}
