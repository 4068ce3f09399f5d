//! Where a client may have its users sent back to: that it is reached there is all that proves which client it is.
//! <https://spec.matrix.org/v1.19/client-server-api/#redirect-uri-validation>

use serde::{Deserialize, Serialize};
use url::{Host, Url};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ApplicationType {
    #[default]
    Web,
    Native,
}

/// The host on which, or below which, all addresses of a client lie: that of its `client_uri`. `None` if that is not an
/// address of a web page.
pub fn base_of(client_uri: &str) -> Option<String> {
    let url = Url::parse(client_uri).ok()?;
    // A name without a dot is a whole top-level domain, or of one machine: no client's.
    let host = https_host(&url).filter(|host| host.contains('.'))?;
    Some(host.to_owned())
}

/// Whether `url` is an encrypted page on `base` or below it, without a user or password.
pub fn is_page_of(base: &str, url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| is_on(base, &url))
}

fn is_on(base: &str, url: &Url) -> bool {
    https_host(url).is_some_and(|host| {
        host == base || host.strip_suffix(base).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
    })
}

fn https_host(url: &Url) -> Option<&str> {
    let has_no_user = url.username().is_empty() && url.password().is_none();
    match url.host() {
        Some(Host::Domain(host)) if url.scheme() == "https" && has_no_user => Some(host),
        _ => None,
    }
}

/// Whether a client whose addresses lie on `base` may register `uri`.
pub fn is_allowed(base: &str, application_type: ApplicationType, uri: &str) -> bool {
    let Ok(url) = Url::parse(uri) else { return false };
    if url.fragment().is_some() || !uri.is_ascii() || uri.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return false;
    }
    match (application_type, url.scheme()) {
        (_, "https") => is_on(base, &url),
        (ApplicationType::Web, _) => false,
        (ApplicationType::Native, "http") => is_loopback(&url) && url.port().is_none(),
        (ApplicationType::Native, scheme) => !url.has_authority() && is_reversed(base, scheme),
    }
}

/// Whether `scheme` is the host's name from its end, `org.example` of `example.org`, or begins so.
fn is_reversed(base: &str, scheme: &str) -> bool {
    let reversed = base.rsplit('.').collect::<Vec<_>>().join(".");
    scheme.strip_prefix(&reversed).is_some_and(|rest| rest.is_empty() || (rest.len() > 1 && rest.starts_with('.')))
}

fn is_loopback(url: &Url) -> bool {
    let is_here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    url.scheme() == "http" && is_here && url.username().is_empty() && url.password().is_none()
}

/// Whether a request that names `given` may use a client's `registered` address: the same text, but for the port of
/// programs that listen on their own machine.
pub fn is_same(registered: &str, given: &str) -> bool {
    if registered == given {
        return true;
    }
    let (Ok(registered), Ok(mut given)) = (Url::parse(registered), Url::parse(given)) else { return false };
    is_loopback(&registered) && is_loopback(&given) && given.set_port(None).is_ok() && registered == given
}

/// What a person is told of where he is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A web page or app of this host.
    Host(String),
    /// A program on his own machine, whoever made it.
    ThisMachine,
    /// The app that has this scheme for itself.
    App(String),
}

pub fn place_of(redirect_uri: &str) -> Place {
    match Url::parse(redirect_uri) {
        Ok(url) if is_loopback(&url) => Place::ThisMachine,
        Ok(url) => match url.host_str() {
            Some(host) => Place::Host(host.to_owned()),
            None => Place::App(url.scheme().to_owned()),
        },
        Err(_) => Place::App(String::new()),
    }
}

/// What a `Content-Security-Policy` calls the place: forms may end there. `None` if it can't be said.
pub fn policy_source(redirect_uri: &str) -> Option<String> {
    let url = Url::parse(redirect_uri).ok()?;
    match url.host() {
        // The grammar of policies has no IPv6 addresses.
        Some(Host::Domain(_) | Host::Ipv4(_)) if matches!(url.scheme(), "http" | "https") => {
            Some(url.origin().ascii_serialization())
        }
        _ => Some(format!("{}:", url.scheme())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_clients_are_on_their_host_or_below_it() {
        let web = |uri: &str| is_allowed("example.com", ApplicationType::Web, uri);
        for uri in [
            "https://example.com/callback",
            "https://app.example.com/callback",
            "https://example.com:5173/?query=value",
        ] {
            assert!(web(uri), "{uri}");
        }
        for uri in [
            "https://example.com/callback#fragment",
            "https://example.com/callback#",
            "http://example.com/callback",
            "http://localhost/",
            "https://app.com/callback",
            "https://badexample.com/",
            "https://example.com.evil.org/",
            "https://example.com@evil.org/",
            "https://user:password@example.com/",
            "https://.example.com/",
            "https://127.0.0.1/",
            "javascript:alert(1)",
            "com.example:/callback",
            "/callback",
            "https://example.com/a b",
        ] {
            assert!(!web(uri), "{uri}");
        }
    }

    #[test]
    fn native_clients_have_a_scheme_of_their_name_or_listen_themselves() {
        let native = |uri: &str| is_allowed("example.com", ApplicationType::Native, uri);
        for uri in [
            "com.example.app:/callback",
            "com.example:/",
            "com.example:callback",
            "http://localhost/callback",
            "http://127.0.0.1/callback",
            "http://[::1]/callback",
            "https://app.example.com/callback",
        ] {
            assert!(native(uri), "{uri}");
        }
        for uri in [
            "example:/callback",
            "com.example.app://callback",
            "com.examplet:/callback",
            "com.example.:/callback",
            "https://localhost/callback",
            "http://localhost:1234/callback",
            "http://192.0.2.1/callback",
            "http://127.0.0.2/callback",
            "http://user@localhost/callback",
            "javascript:alert(1)",
            "data:text/html,x",
            "com.example.app:/callback#fragment",
        ] {
            assert!(!native(uri), "{uri}");
        }
    }

    #[test]
    fn clients_have_a_page_of_their_own() {
        assert_eq!(base_of("https://element.io/").unwrap(), "element.io");
        assert_eq!(base_of("https://APP.element.io:8443/a?b").unwrap(), "app.element.io");
        for uri in
            ["http://element.io", "https://io", "https://localhost", "https://192.0.2.1", "https://u@element.io", "x"]
        {
            assert_eq!(base_of(uri), None, "{uri}");
        }
    }

    #[test]
    fn only_the_port_of_a_listening_program_may_differ() {
        assert!(is_same("http://localhost/cb", "http://localhost:4711/cb"));
        assert!(is_same("http://[::1]/cb", "http://[::1]:4711/cb"));
        assert!(is_same("https://a.example/cb?x=y", "https://a.example/cb?x=y"));
        for (registered, given) in [
            ("http://localhost/cb", "http://localhost:4711/other"),
            ("http://localhost/cb", "http://127.0.0.1:4711/cb"),
            ("http://localhost/cb", "http://u@localhost:4711/cb"),
            ("https://a.example/cb", "https://a.example:4711/cb"),
            ("https://a.example/cb", "https://a.example/cb/"),
            ("com.example:/", "com.example:/x"),
        ] {
            assert!(!is_same(registered, given), "{given}");
        }
    }

    #[test]
    fn a_policy_names_nothing_but_the_place() {
        assert_eq!(policy_source("com.example.app:/a;script-src *").unwrap(), "com.example.app:");
        assert_eq!(policy_source("https://a.example:8443/x;y").unwrap(), "https://a.example:8443");
        assert_eq!(policy_source("http://127.0.0.1:4711/").unwrap(), "http://127.0.0.1:4711");
        assert_eq!(policy_source("http://[::1]:4711/").unwrap(), "http:");
    }
}
