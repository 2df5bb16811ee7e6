//! What there is of a kind of object, and every change of it: a LIST, then watches that go on from it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::kubernetes::api::Api;
use crate::kubernetes::trouble::{Object, Retry, Trouble, Verb};

/// The API server sends a bookmark every minute where nothing changes: after so long without a word a
/// connection counts as broken.
const SILENCE: Duration = Duration::from_secs(90);

/// Between two attempts that are refused: an administrator may have changed something.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// What there is, by name.
pub(super) type Objects = BTreeMap<String, Value>;

/// What is followed.
pub(super) struct Followed<'a> {
    pub(super) api: &'a Api,
    /// The same kind in one version or another: the first one that the API server has.
    pub(super) objects: Vec<Object>,
    /// Which of them, as a query says it.
    pub(super) selector: String,
    /// Notified when all is to be read anew.
    pub(super) restart: &'a Notify,
}

impl Followed<'_> {
    /// Tells `seen` of all that there is, each time that it changes, and `trouble` of what prevents that.
    /// Never returns.
    pub(super) async fn run(
        &self,
        mut seen: impl FnMut(&Objects),
        mut trouble: impl FnMut(&Trouble),
    ) -> ! {
        let mut retry = Retry::default();
        let mut version = 0;
        loop {
            let object = &self.objects[version];
            let ended = self.once(object, &mut seen, &mut retry).await;
            let pause = match ended {
                Trouble::Gone => retry.pause(None),
                Trouble::Missing(_) if version + 1 < self.objects.len() => {
                    version += 1;
                    continue;
                }
                Trouble::Missing(_) | Trouble::Final(_) => {
                    trouble(&ended);
                    version = 0;
                    REFUSED_PAUSE
                }
                Trouble::Away { .. } | Trouble::Unauthorized(_) | Trouble::Conflict => {
                    trouble(&ended);
                    retry.pause(ended.after())
                }
            };
            tokio::select! {
                () = sleep(pause) => (),
                () = self.restart.notified() => (),
            }
        }
    }

    /// Reads all, and follows it until that ends: with what ended it.
    async fn once(
        &self,
        object: &Object,
        seen: &mut impl FnMut(&Objects),
        retry: &mut Retry,
    ) -> Trouble {
        loop {
            let list = self.api.call(Verb::List, object, &self.selector, None);
            let list = match list.await {
                Ok(list) => list,
                Err(trouble) => return trouble,
            };
            let items = list["items"].as_array().into_iter().flatten();
            let mut objects: Objects = items.map(|item| (name(item), item.clone())).collect();
            seen(&objects);
            let mut from = version(&list);
            let mut all_anew = false;
            while !all_anew {
                let changes = self.changes(object, &mut objects, &mut from, seen, retry);
                match changes.await {
                    Ok(anew) => all_anew = anew,
                    Err(trouble) => return trouble,
                }
            }
        }
    }

    /// One watch. Whether all is to be read anew.
    async fn changes(
        &self,
        object: &Object,
        objects: &mut Objects,
        from: &mut String,
        seen: &mut impl FnMut(&Objects),
        retry: &mut Retry,
    ) -> Result<bool, Trouble> {
        let and = if self.selector.is_empty() { "" } else { "&" };
        let query = format!(
            "{}{and}watch=true&allowWatchBookmarks=true&timeoutSeconds=300&resourceVersion={from}",
            self.selector
        );
        let mut events = self.api.watch(object, &query).await?;
        let mut any = false;
        loop {
            let event = tokio::select! {
                event = timeout(SILENCE, events.next()) => event,
                () = self.restart.notified() => return Ok(true),
            };
            let event = event.unwrap_or_else(|_| Err(Trouble::away("the watch is silent")))?;
            let Some(event) = event else {
                // Its time is over. One that ends at once is not begun again and again without a pause.
                return match any {
                    true => Ok(false),
                    false => Err(Trouble::away("the watch ended at once")),
                };
            };
            let it = &event["object"];
            match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => _ = objects.insert(name(it), it.clone()),
                Some("DELETED") => _ = objects.remove(&name(it)),
                Some("BOOKMARK") => (),
                // That is how a watch says what a LIST says by its status.
                Some("ERROR") => {
                    let status = it["code"].as_u64().and_then(|code| code.try_into().ok());
                    let message = it["message"].as_str().unwrap_or_default();
                    let what = (Verb::Watch, object);
                    return Err(Trouble::of(what, status.unwrap_or(500), message, None));
                }
                _ => continue,
            }
            any = true;
            retry.reset();
            *from = version(it);
            if event["type"] != "BOOKMARK" {
                seen(objects);
            }
        }
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

pub(super) fn version(object: &Value) -> String {
    let version = object["metadata"]["resourceVersion"].as_str();
    version.unwrap_or_default().to_owned()
}
