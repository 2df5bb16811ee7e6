//! The API server. Each call has a time limit, and none is repeated here: whether an order that was not answered
//! may be given again is for the caller to say.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response};
use hyper::body::Body as _;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::{BoxError, ServiceBuilder};

use crate::config::kubernetes::Access;
use crate::kubernetes::trouble::{Object, Trouble, Verb};
use crate::util::lock::locked;

/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// More than any answer that is asked for.
const LONGEST_ANSWER: usize = 32 << 20;

/// How to reach it.
#[derive(Debug)]
pub struct Api {
    access: Access,
    connected: Mutex<Option<Connected>>,
}

/// A client, and what its credentials say.
#[derive(Clone)]
struct Connected {
    client: Client,
    namespace: String,
    /// The credentials are those of a pod.
    in_pod: bool,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.namespace)
    }
}

/// What comes of a watch, event by event.
pub struct Events {
    body: Body,
    come: Vec<u8>,
}

impl Api {
    /// One that connects when it is first asked for something.
    pub fn new(access: Access) -> Self {
        Self {
            access,
            connected: Mutex::default(),
        }
    }

    /// The namespace that the credentials are for.
    pub async fn namespace(&self) -> Result<String, Trouble> {
        Ok(self.connected().await?.namespace)
    }

    /// Whether the credentials are those of a pod.
    pub async fn is_in_pod(&self) -> Result<bool, Trouble> {
        Ok(self.connected().await?.in_pod)
    }

    /// What the API server answers.
    pub async fn call(
        &self,
        verb: Verb,
        object: &Object,
        query: &str,
        body: Option<&Value>,
    ) -> Result<Value, Trouble> {
        let answer = async {
            let mut response = self.send(verb, object, query, body).await?;
            let text = read_all(response.body_mut()).await?;
            serde_json::from_slice(&text).map_err(|error| {
                let why = format!("cannot {verb} {object}: the answer is not JSON: {error}");
                Trouble::away(why)
            })
        };
        limited(verb, object, answer).await
    }

    /// What there is of a group of the API.
    pub async fn group(&self, group: &str) -> Result<Value, Trouble> {
        // It has the path of an object without namespace and kind.
        let object = Object::group(group);
        self.call(Verb::Get, &object, "", None).await
    }

    /// The version of a group of the API that the API server prefers.
    pub async fn preferred_version(&self, group: &str) -> Result<String, Trouble> {
        let found = self.group(group).await?;
        let version = found["preferredVersion"]["version"].as_str();
        version
            .map(str::to_owned)
            .ok_or_else(|| Trouble::away("the API group has no version"))
    }

    /// What changes from now on.
    pub async fn watch(&self, object: &Object, query: &str) -> Result<Events, Trouble> {
        let sent = self.send(Verb::Watch, object, query, None);
        Ok(Events {
            body: limited(Verb::Watch, object, sent).await?.into_body(),
            come: Vec::new(),
        })
    }

    async fn send(
        &self,
        verb: Verb,
        object: &Object,
        query: &str,
        body: Option<&Value>,
    ) -> Result<Response<Body>, Trouble> {
        let first = self.send_once(verb, object, query, body).await;
        match first {
            // The token may have been replaced: it is read anew.
            Err(Trouble::Unauthorized(_)) => {
                *locked(&self.connected) = None;
                self.send_once(verb, object, query, body).await
            }
            other => other,
        }
    }

    async fn send_once(
        &self,
        verb: Verb,
        object: &Object,
        query: &str,
        body: Option<&Value>,
    ) -> Result<Response<Body>, Trouble> {
        let (method, kind) = match verb {
            Verb::Get | Verb::List | Verb::Watch => (Method::GET, ""),
            Verb::Create => (Method::POST, "application/json"),
            Verb::Update => (Method::PUT, "application/json"),
            Verb::Patch => (Method::PATCH, "application/merge-patch+json"),
        };
        let uri = match query {
            "" => object.path(verb),
            query => format!("{}?{query}", object.path(verb)),
        };
        let request = Request::builder().method(method).uri(uri);
        let mut request = request.header(ACCEPT, "application/json");
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = request.body(Body::from(bytes));
        let request = request.map_err(|error| Trouble::Final(error.to_string()))?;
        let client = self.connected().await?.client;
        let mut response = client.send(request).await.map_err(|error| {
            Trouble::away(format!("cannot reach the API server: {}", causes(&error)))
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let after = response.headers().get(RETRY_AFTER);
        let after = after.and_then(|after| after.to_str().ok()?.parse().ok());
        let text = read_all(response.body_mut()).await.unwrap_or_default();
        let said = serde_json::from_slice(&text).unwrap_or(Value::Null);
        let message = match said["message"].as_str() {
            Some(message) => message.to_owned(),
            None => String::from_utf8_lossy(&text).into_owned(),
        };
        let after = after.map(Duration::from_secs);
        Err(Trouble::of(
            (verb, object),
            status.as_u16(),
            &message,
            after,
        ))
    }

    async fn connected(&self) -> Result<Connected, Trouble> {
        if let Some(connected) = locked(&self.connected).clone() {
            return Ok(connected);
        }
        let connected = connect(&self.access).await?;
        Ok(locked(&self.connected).insert(connected).clone())
    }
}

async fn connect(access: &Access) -> Result<Connected, Trouble> {
    let given = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let (config, in_pod) = match (&access.url, &access.credentials) {
        (Some(url), folder) => {
            let mut user = json!({});
            let mut cluster = json!({"server": url});
            let mut context = json!({"cluster": "c", "user": "u"});
            if let Some(folder) = folder {
                user["tokenFile"] = json!(folder.join("token"));
                let ca = folder.join("ca.crt");
                if ca.exists() {
                    cluster["certificate-authority"] = json!(ca);
                }
                if let Ok(namespace) = std::fs::read_to_string(folder.join("namespace")) {
                    context["namespace"] = json!(namespace.trim());
                }
            }
            let text = json!({
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "x", "context": context}],
                "current-context": "x",
            });
            let config: Result<Kubeconfig, _> = serde_json::from_value(text);
            let config = config.map_err(|error| Trouble::Final(error.to_string()))?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(config, &options).await;
            (config.map_err(|error| causes(&error)), folder.is_some())
        }
        (None, _) if given("KUBERNETES_SERVICE_HOST") && !given("KUBECONFIG") => (
            Config::incluster_env().map_err(|error| causes(&error)),
            true,
        ),
        (None, _) => {
            let config = Config::from_kubeconfig(&KubeConfigOptions::default()).await;
            (config.map_err(|error| causes(&error)), false)
        }
    };
    // A pod's folder may not be mounted yet.
    let wrong = |why: String| {
        Trouble::away(format!(
            "no credentials for the API server: {why}; run in a pod with a ServiceAccount, or set KUBECONFIG, or give `--kube-api` and `--kube-credentials`"
        ))
    };
    let config = config.map_err(wrong)?;
    if config.proxy_url.is_some() {
        return Err(Trouble::Final(
            "the kubeconfig has a `proxy-url`, and wakeport connects directly; use another one, or `kubectl proxy` and `--kube-api`".into(),
        ));
    }
    client(config, in_pod).map_err(|error| wrong(causes(&error)))
}

/// A client on a stack without kube's own layer that repeats calls.
fn client(config: Config, in_pod: bool) -> Result<Connected, kube::Error> {
    let connector = config.rustls_https_connector()?;
    let transport: legacy::Client<_, Body> =
        legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(transport);
    let namespace = config.default_namespace;
    Ok(Connected {
        client: Client::new(service, namespace.clone()),
        namespace,
        in_pod,
    })
}

async fn limited<T>(
    verb: Verb,
    object: &Object,
    call: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| {
        let limit = CALL_TIMEOUT.as_secs();
        let why = format!("cannot {verb} {object}: the API server does not answer within {limit}s");
        Err(Trouble::away(why))
    })
}

/// The next piece of a body; `None` is its end.
async fn read_some(body: &mut Body) -> Result<Option<Vec<u8>>, Trouble> {
    loop {
        return match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Ok(Some(data.to_vec())),
                // Trailers.
                Err(_) => continue,
            },
            Some(Err(error)) => Err(Trouble::away(format!(
                "the connection to the API server was lost: {}",
                causes(&error)
            ))),
        };
    }
}

async fn read_all(body: &mut Body) -> Result<Vec<u8>, Trouble> {
    let mut all = Vec::new();
    while let Some(some) = read_some(body).await? {
        all.extend(some);
        if all.len() > LONGEST_ANSWER {
            return Err(Trouble::away("the answer of the API server has no end"));
        }
    }
    Ok(all)
}

impl Events {
    /// The next one; `None` is the end. To be called again if it is dropped.
    pub async fn next(&mut self) -> Result<Option<Value>, Trouble> {
        loop {
            if let Some(end) = self.come.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.come.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                let event = serde_json::from_slice(&line);
                return event.map(Some).map_err(|error| {
                    Trouble::away(format!("an event of the API server is not JSON: {error}"))
                });
            }
            match read_some(&mut self.body).await? {
                Some(some) => self.come.extend(some),
                None => return Ok(None),
            }
            if self.come.len() > LONGEST_ANSWER {
                return Err(Trouble::away("an event of the API server has no end"));
            }
        }
    }
}

/// An error with what it comes of, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_line = cause.to_string();
        if !line.contains(&cause_line) {
            line = format!("{line}: {cause_line}");
        }
        next = cause.source();
    }
    crate::kubernetes::trouble::shortened(&line)
}
