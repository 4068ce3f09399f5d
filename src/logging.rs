//! Log lines, to standard error.

use std::io::{self, IsTerminal};

use tracing::{Subscriber, subscriber::SetGlobalDefaultError};
use tracing_subscriber::{EnvFilter, Layer, filter::ParseError, fmt, fmt::MakeWriter, layer::SubscriberExt, registry};

use crate::config::LogFormat;

/// What libraries say at `info` of each event, and we say at `debug` where it matters. The configured filter comes after
/// it, and can ask for it by name.
const QUIETER: &str = "ruma_state_res=warn";

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("`log` is not a filter: {0}")]
    Filter(#[from] ParseError),
    #[error("logging was started twice")]
    Twice(#[from] SetGlobalDefaultError),
}

/// Starts logging what passes `filter`, for the whole process.
pub fn start(filter: &str, format: LogFormat) -> Result<(), LogError> {
    let subscriber = subscriber(filter, format, io::stderr().is_terminal(), io::stderr)?;
    Ok(tracing::subscriber::set_global_default(subscriber)?)
}

/// What writes the lines that pass `filter` to `writer`; `colors` are for terminals.
fn subscriber<W>(filter: &str, format: LogFormat, colors: bool, writer: W) -> Result<impl Subscriber, ParseError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Readable => lines.with_ansi(colors).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    Ok(registry().with(EnvFilter::try_new(format!("{QUIETER},{filter}"))?).with(lines))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Router, body::Body, middleware, routing::get};
    use http::{Request, StatusCode};
    use parking_lot::Mutex;
    use tower::ServiceExt;
    use tracing::instrument::WithSubscriber;

    use super::*;
    use crate::http::trace::trace;

    /// Collects log lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged in `format` at `filter` when `uri` is asked of a server whose `/fails/{what}` fails.
    async fn logged(filter: &str, format: LogFormat, uri: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(filter, format, false, move || writer.clone()).unwrap();
        let router = Router::new()
            .route("/works/{what}", get(async || "yes"))
            .route("/fails/{what}", get(async || StatusCode::INTERNAL_SERVER_ERROR))
            .layer(middleware::from_fn(trace));
        let request = Request::get(uri).header("authorization", "Bearer s3cret").body(Body::empty()).unwrap();
        router.oneshot(request).with_subscriber(subscriber).await.unwrap();
        let logged = lines.0.lock().clone();
        String::from_utf8(logged).unwrap()
    }

    #[tokio::test]
    async fn a_request_is_logged_by_its_route_and_without_secrets() {
        let line = logged("debug", LogFormat::Readable, "/works/!room:example.org?access_token=s3cret").await;
        for part in ["GET", "/works/{what}", "status=200", "ms="] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert!(!line.contains("s3cret") && !line.contains("!room"), "{line}");
    }

    #[test]
    fn a_library_that_tells_of_each_event_is_heard_only_if_asked_for() {
        let logged = |filter: &str| {
            let lines = Lines::default();
            let writer = lines.clone();
            let subscriber = subscriber(filter, LogFormat::Readable, false, move || writer.clone()).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(target: "ruma_state_res::event_auth", "allowed");
                tracing::info!(target: "chappe", "ours");
            });
            let logged = lines.0.lock().clone();
            String::from_utf8(logged).unwrap().lines().count()
        };
        assert_eq!((logged("info"), logged("info,ruma_state_res=info")), (1, 2));
    }

    #[tokio::test]
    async fn failures_are_logged_where_successes_are_not() {
        assert_eq!(logged("info", LogFormat::Readable, "/works/x").await, "");
        let line = logged("info", LogFormat::Json, "/fails/x").await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["level"], &line["span"]["status"]), (&"WARN".into(), &500.into()), "{line}");
        assert_eq!(line["span"]["route"], "/fails/{what}");
    }
}
