//! A headless Chromium, driven over WebDriver (W3C).

use std::{env, path::PathBuf};

use relay_testkit::Process;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A browser with one page, and nothing kept from before; it ends when dropped.
pub(crate) struct Browser {
    client: Client,
    session: String,
    _driver: Process,
    _home: TempDir,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let home = TempDir::new().unwrap();
        let folder = home.path().to_str().unwrap();
        let named = env::var_os("RELAY_CHROMEDRIVER").map(PathBuf::from);
        let program = named.unwrap_or_else(|| "chromedriver".into());
        let environment = [("HOME", folder), ("TMPDIR", folder)];
        let driver = Process::spawn_path(&program, &environment, &["--port=0"]);
        let line = driver.wait_for_output("started successfully on port").await;
        let port = line.rsplit(' ').next().unwrap().trim_end_matches('.');
        let options = json!({"args": [
            "--headless=new",
            // By a pipe it notices when its driver was killed.
            "--remote-debugging-pipe",
            // It sees our own pages only; in containers it has neither the rights nor the room.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-proxy-server",
            format!("--user-data-dir={folder}/profile"),
        ]});
        let capabilities = json!({"alwaysMatch": {"goog:chromeOptions": options}});
        let mut browser = Self {
            client: Client::builder().no_proxy().build().unwrap(),
            session: format!("http://127.0.0.1:{port}/session"),
            _driver: driver,
            _home: home,
        };
        let begun = browser.call("", json!({"capabilities": capabilities})).await;
        browser.session += "/";
        browser.session += begun["sessionId"].as_str().unwrap();
        browser
    }

    /// Runs a script before those of every page.
    pub(crate) async fn before_pages(&self, script: &str) {
        let command = "Page.addScriptToEvaluateOnNewDocument";
        let command = json!({"cmd": command, "params": {"source": script}});
        self.call("/goog/cdp/execute", command).await;
    }

    pub(crate) async fn open(&self, url: &str) {
        self.call("/url", json!({"url": url})).await;
    }

    /// What a function's body in the page returns.
    pub(crate) async fn run(&self, body: &str) -> Value {
        self.call("/execute/sync", json!({"script": body, "args": []}))
            .await
    }

    async fn call(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.session);
        let request = self.client.request(Method::POST, url).body(body.to_string());
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        answer["value"].take()
    }
}
