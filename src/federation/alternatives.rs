//! Servers each of which can tell the same.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use ruma::OwnedServerName;

/// Asks one server after the other, and the next one also when nobody answered for `patience`, `at_once` at most; the first
/// answer that is one.
pub async fn first_answer<'s, T, Answer: Future<Output = Option<T>>>(
    servers: &'s [OwnedServerName],
    patience: Duration,
    at_once: usize,
    ask: impl Fn(&'s OwnedServerName) -> Answer,
) -> Option<T> {
    let mut servers = servers.iter();
    let mut asked: FuturesUnordered<_> = servers.next().map(&ask).into_iter().collect();
    while !asked.is_empty() {
        if let Ok(Some(Some(answer))) = tokio::time::timeout(patience, asked.next()).await {
            return Some(answer);
        }
        if asked.len() < at_once {
            asked.extend(servers.next().map(&ask));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Mutex};

    use super::*;

    fn servers(names: &[&str]) -> Vec<OwnedServerName> {
        names.iter().map(|name| OwnedServerName::try_from(*name).unwrap()).collect()
    }

    /// What comes of asking servers that are called what they do, and who was asked.
    async fn ask(names: &[&str]) -> (bool, Vec<String>) {
        let (servers, asked) = (servers(names), Mutex::default());
        let told = first_answer(&servers, Duration::from_millis(20), 2, |name| {
            Vec::push(&mut asked.lock().unwrap(), name.to_string());
            async {
                match name.as_str() {
                    "hangs" => pending().await,
                    "fails" => None,
                    _ => Some(()),
                }
            }
        });
        (told.await.is_some(), asked.into_inner().unwrap())
    }

    #[tokio::test]
    async fn servers_are_asked_one_after_the_other_until_one_tells() {
        let (is_told, asked) = ask(&["fails", "fails", "tells", "more"]).await;
        assert!(is_told);
        assert_eq!(asked, ["fails", "fails", "tells"]);
        assert!(!ask(&["fails", "fails"]).await.0);
        assert!(!ask(&[]).await.0);
    }

    #[tokio::test]
    async fn one_that_hangs_holds_up_no_other() {
        let (is_told, asked) = ask(&["hangs", "fails", "tells"]).await;
        assert!(is_told);
        assert_eq!(asked, ["hangs", "fails", "tells"]);
    }
}
