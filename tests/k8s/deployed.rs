//! wakeport as its Deployment in the cluster says: with the variables, the file, the name and the credentials of its pod,
//! for which the stand-in for the kubelet has a mere server.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{api, done, folder, until};
use crate::deploy::environment;
use crate::program::Client;

/// Where every pod has its credentials.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A namespace that commands of a page make.
pub(crate) struct Made(pub(crate) &'static str);

impl Made {
    pub(crate) fn new(name: &'static str) -> Self {
        let path = format!("/api/v1/namespaces/{name}");
        until("the one of the test before is gone", || {
            api("GET", &path, &Value::Null).0 == 404
        });
        Self(name)
    }

    fn path(&self, group: &str, rest: &str) -> String {
        format!("{group}/namespaces/{}/{rest}", self.0)
    }

    pub(crate) fn replicas(&self, plural: &str, name: &str) -> u64 {
        let path = self.path("/apis/apps/v1", &format!("{plural}/{name}/scale"));
        let scale = done("GET", &path, &Value::Null);
        scale["spec"]["replicas"].as_u64().unwrap_or_default()
    }

    /// The pods with this label, `app=web`.
    pub(crate) fn pods(&self, label: &str) -> Vec<Value> {
        let label = label.replace('=', "%3D").replace('/', "%2F");
        let path = self.path("/api/v1", &format!("pods?labelSelector={label}"));
        let mut list = done("GET", &path, &Value::Null);
        serde_json::from_value(list["items"].take()).expect("a list")
    }

    pub(crate) fn sleeps(&self, plural: &str, name: &str) {
        until("scaled to zero", || self.replicas(plural, name) == 0);
        until("no pod", || self.pods(&format!("app={name}")).is_empty());
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let path = format!("/api/v1/namespaces/{}", self.0);
        let _ = api("DELETE", &path, &Value::Null);
    }
}

pub(crate) struct Deployed {
    child: Child,
    dir: TempDir,
    /// The port of the listener `main`.
    front: u16,
}

impl Deployed {
    /// In the place of the pod with this number; all are on one machine here, so that they differ by their ports.
    pub(crate) fn start(space: &Made, number: u16) -> Self {
        let pods = || {
            let mut pods = space.pods("app.kubernetes.io/name=wakeport");
            pods.retain(|pod| pod["status"]["phase"] == "Running");
            pods.sort_by_key(|pod| pod["metadata"]["name"].to_string());
            pods
        };
        until("a pod", || pods().len() > usize::from(number));
        let pod = pods().swap_remove(usize::from(number));
        let dir = tempfile::tempdir().expect("a directory");
        let spec = &pod["spec"];
        Self::mount(space, spec, dir.path());
        let mut env: BTreeMap<_, _> = environment(spec).collect();
        let path = dir.path().to_string_lossy();
        let config = env["WAKEPORT_CONFIG"].replace("/etc/wakeport", &path);
        env.insert("WAKEPORT_CONFIG".into(), config);
        assert_eq!(env["WAKEPORT_LISTEN"], "main=8080");
        assert_eq!(env["WAKEPORT_METRICS"], "9090");
        let (front, metrics) = (8080 + 100 * number, 9090 + 100 * number);
        // Beside the servers that stand for pods, on addresses of their own.
        env.insert("WAKEPORT_LISTEN".into(), format!("main=127.0.0.1:{front}"));
        env.insert("WAKEPORT_METRICS".into(), format!("127.0.0.1:{metrics}"));
        // Not a quarter of an hour.
        env.insert("WAKEPORT_COOLDOWN".into(), "1s".into());
        let log = File::create(dir.path().join("log")).expect("a file");
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let script = r#"hostname "$1"; shift; exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c", script, "sh", name]);
        command.arg(env!("CARGO_BIN_EXE_wakeport"));
        let args = spec["containers"][0]["args"].as_array().expect("arguments");
        command.args(args.iter().filter_map(Value::as_str));
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).envs(env);
        command
            .env("HOME", dir.path())
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", "6443");
        let command = command.stdin(Stdio::null()).stderr(log);
        let child = command.spawn().expect("unshare");
        let deployed = Self { child, dir, front };
        until("it is ready, as its probe sees it", || {
            let probe = &spec["containers"][0]["readinessProbe"]["httpGet"]["path"];
            let url = format!(
                "http://127.0.0.1:{metrics}{}",
                probe.as_str().expect("a path")
            );
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--fail", "--noproxy", "*", &url]);
            curl.stdout(Stdio::null()).status().expect("curl").success()
        });
        deployed
    }

    /// What the kubelet would: the file, and the credentials of its ServiceAccount.
    fn mount(space: &Made, spec: &Value, dir: &Path) {
        let map = spec["volumes"].as_array().into_iter().flatten();
        let map = map
            .filter_map(|volume| volume["configMap"]["name"].as_str())
            .next();
        let map = space.path(
            "/api/v1",
            &format!("configmaps/{}", map.expect("a ConfigMap")),
        );
        let map = done("GET", &map, &Value::Null);
        for (name, text) in map["data"].as_object().expect("data") {
            fs::write(dir.join(name), text.as_str().expect("text")).expect("a file");
        }
        let account = spec["serviceAccountName"]
            .as_str()
            .expect("a ServiceAccount");
        let request =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let path = space.path("/api/v1", &format!("serviceaccounts/{account}/token"));
        let token = done("POST", &path, &request);
        let token = token["status"]["token"].as_str().expect("a token");
        let _ = fs::remove_dir_all(CREDENTIALS);
        fs::create_dir_all(CREDENTIALS).expect("a directory of the tests' own");
        let credentials = Path::new(CREDENTIALS);
        fs::write(credentials.join("token"), token).expect("a file");
        fs::write(credentials.join("namespace"), space.0).expect("a file");
        symlink(folder().join("ca.crt"), credentials.join("ca.crt")).expect("a link");
    }

    pub(crate) fn connect(&self) -> Client {
        Client::to(SocketAddr::from(([127, 0, 0, 1], self.front)))
    }

    /// The status and the body of an answer to a request for this host.
    pub(crate) fn asks(&self, host: &str) -> String {
        let url = format!("http://127.0.0.1:{}/", self.front);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--noproxy", "*", "--max-time", "90"]);
        curl.args([
            "--header",
            &format!("Host: {host}"),
            "--write-out",
            " %{http_code}",
        ]);
        let output = curl.arg(url).output().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once(' ').expect("a status");
        format!("{status} {}", body.trim())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "-- log:\n{}", self.log());
        }
    }
}
