//! Whether a request that waits is answered with the waiting page, and what keeps the service awake for
//! those who saw it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Route;
use crate::config::WaitingPage;
use crate::http::head::{Method, Received};
use crate::http::page::{self, Page};
use crate::service::{Entrance, Outlook, Queued, Verdict};

/// How long a client that saw the page may take to come back, once the service answers.
const HOLD: Duration = Duration::from_secs(30);

/// How long the page itself waits for news.
pub(super) const NEWS: Duration = Duration::from_secs(25);

/// Who asks, where it is not just some client.
#[derive(Clone, Debug)]
pub(super) struct Viewer {
    /// What the page calls the service.
    name: String,
    /// The page itself, as seen from there.
    here: String,
    /// It is the page that asks, and not a person.
    pub(super) is_the_page: bool,
}

impl Viewer {
    /// If the request is one that `page` is about; `service` is what that is called, if it has a name.
    pub(super) fn of(
        request: &Received<'_, '_>,
        page: Option<&WaitingPage>,
        service: &str,
    ) -> Option<Self> {
        page?;
        let is_get = request.request.method == Method::Get;
        let is_the_page = is_get && request.field(page::WAITS).is_some();
        let name = || match service {
            "" => {
                let host = String::from_utf8_lossy(request.host().unwrap_or(b"The service"));
                without_port(&host).to_owned()
            }
            service => service.to_owned(),
        };
        (is_the_page || page::is_navigation(request)).then(|| Self {
            name: name(),
            here: request.reference(),
            is_the_page,
        })
    }

    /// When the page is due, if the wake goes on as the latest ones did.
    pub(super) async fn due(&self, page: &WaitingPage, entrance: &Entrance) -> Option<Instant> {
        let Outlook { took, elapsed, .. } = entrance.outlook().await?;
        let due = page::due(page::expected(&took), elapsed, page.after);
        Instant::now().checked_add(due)
    }

    /// The response: that the service starts, or that it could not.
    pub(super) async fn response(
        &self,
        page: &WaitingPage,
        entrance: &Entrance,
        failed: bool,
        persists: bool,
    ) -> Vec<u8> {
        let outlook = entrance.outlook().await;
        let (rest, failure, waits_for) = match &outlook {
            Some(Outlook {
                took,
                elapsed,
                failure,
                waits_for,
            }) => {
                let rest = page::expected(took).map(|all| all.saturating_sub(*elapsed));
                (rest, failure.as_deref(), waits_for.as_deref())
            }
            None => (None, None, None),
        };
        let failure = failure.filter(|_| page.details);
        let page = Page {
            name: &self.name,
            here: &self.here,
            rest,
            waits_for: waits_for.filter(|_| page.details),
            failure: failed.then_some(failure.unwrap_or("Its log says why.")),
            template: page.template.as_ref().map(|it| it.text.as_str()),
            status: page.status,
            persists,
        };
        page.response(&nonce())
    }
}

/// What the page is told that waits.
pub(super) async fn news(route: &Route, state: &str) -> Vec<u8> {
    let http = route.context.http.as_ref();
    let page = http.and_then(|http| http.page.as_ref());
    let details = page.is_some_and(|page| page.details);
    let Some(outlook) = route.entrance.outlook().await else {
        return page::news(state, Duration::ZERO, None, None);
    };
    let expected = page::expected(&outlook.took);
    let waits_for = outlook.waits_for.as_deref().filter(|_| details);
    page::news(state, outlook.elapsed, expected, waits_for)
}

/// A client that saw the page and is to come back: it keeps the wake going, and the service from being
/// stopped at once.
pub(super) type Expected = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// One that waited as `queued`.
pub(super) fn expected(mut queued: Box<Queued>) -> Expected {
    Box::pin(async move {
        if let Verdict::Admitted(permit, _) = queued.verdict().await {
            sleep(HOLD).await;
            drop(permit);
        }
    })
}

/// A host as people call it.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// What nobody could guess who sees only other pages: the keys of a [`RandomState`] are the system's.
fn nonce() -> String {
    let half = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_calls_a_service_by_its_host() {
        for (host, name) in [
            ("films.example.org", "films.example.org"),
            ("films.example.org:8080", "films.example.org"),
            ("films.example.org:", "films.example.org"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
