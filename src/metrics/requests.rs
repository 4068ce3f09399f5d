//! The requests that came, by endpoint.

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::Instant,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use super::page::Page;

/// As proxies write it into their logs: the client was gone before there was an answer.
const CLIENT_HUNG_UP: u16 = 499;

/// From a look-up in memory to a `/sync` that waits for its whole time.
const SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0];

/// A clone counts into the same.
#[derive(Clone, Debug)]
pub struct Requests {
    answered: Family<Outcome, Counter>,
    seconds: Family<Endpoint, Histogram, fn() -> Histogram>,
    under_way: Gauge<i64, AtomicI64>,
}

/// The route is a pattern of ours, and the method one that we know, so there are only so many, whatever clients ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Endpoint {
    method: &'static str,
    route: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    method: &'static str,
    route: Arc<str>,
    status: u16,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            answered: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            under_way: Gauge::default(),
        }
    }
}

impl Requests {
    /// A request has come; `route` is the pattern that its path matches.
    pub fn begin(&self, method: &http::Method, route: &str) -> UnderWay {
        self.under_way.inc();
        UnderWay {
            requests: self.clone(),
            endpoint: Endpoint { method: known(method), route: route.into() },
            begun: Instant::now(),
            status: CLIENT_HUNG_UP,
        }
    }

    pub(super) fn tell(&self, page: &mut Page) {
        let help = "Requests, by the pattern of their path; status 499: the client hung up before there was an answer";
        page.living("chappe_http_requests", help, self.answered.clone());
        let help = "Time until the head of the answer; long for a /sync that waits for news";
        page.living("chappe_http_request_duration_seconds", help, self.seconds.clone());
        page.living("chappe_http_requests_in_flight", "Requests without an answer yet", self.under_way.clone());
    }
}

/// A request that is being answered. It is counted when this is dropped.
pub struct UnderWay {
    requests: Requests,
    endpoint: Endpoint,
    begun: Instant,
    status: u16,
}

impl UnderWay {
    pub fn answered(mut self, status: http::StatusCode) {
        self.status = status.as_u16();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Endpoint { method, route } = self.endpoint.clone();
        let outcome = Outcome { method, route, status: self.status };
        self.requests.answered.get_or_create(&outcome).inc();
        self.requests.seconds.get_or_create(&self.endpoint).observe(self.begun.elapsed().as_secs_f64());
        self.requests.under_way.dec();
    }
}

/// Clients can make up methods.
fn known(method: &http::Method) -> &'static str {
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    METHODS.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};

    use super::*;

    #[test]
    fn each_request_is_counted_once_however_it_ends() {
        let requests = Requests::default();
        requests.begin(&Method::GET, "/sync").answered(StatusCode::OK);
        drop(requests.begin(&Method::GET, "/sync"));
        let made_up = Method::from_bytes(b"BREW").unwrap();
        requests.begin(&made_up, "/sync").answered(StatusCode::METHOD_NOT_ALLOWED);
        let _under_way = requests.begin(&Method::PUT, "/send/{id}");
        let mut page = Page::default();
        requests.tell(&mut page);
        let text = page.text();
        for line in [
            r#"chappe_http_requests_total{method="GET",route="/sync",status="200"} 1"#,
            r#"chappe_http_requests_total{method="GET",route="/sync",status="499"} 1"#,
            r#"chappe_http_requests_total{method="other",route="/sync",status="405"} 1"#,
            r#"chappe_http_request_duration_seconds_count{method="GET",route="/sync"} 2"#,
            "chappe_http_requests_in_flight 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in {text}");
        }
        assert!(!text.contains("BREW") && !text.contains("PUT"), "{text}");
    }
}
