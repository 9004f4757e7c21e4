//! A page follows a job, in a real browser, as `deploy/examples/follow-a-job` has it.

mod door;
mod driver;

use std::ops::Range;

use relay_testkit::{Answer, Process, Proxy, Receiver, Request, shared_broker, wait_until};
use relay_tests::{Api, World, address, metrics_address};
use reqwest::Method;
use serde_json::{Value, json};

use self::{door::Door, driver::Browser};

const INDEX: &str = include_str!("../../deploy/examples/follow-a-job/index.html");
const FOLLOW: &str = include_str!("../../deploy/examples/follow-a-job/follow.js");

/// The server of the page.
async fn page() -> Receiver {
    let page = Receiver::start().await;
    page.respond_by(|request: &Request| match request.path.as_str() {
        "/" => Answer::status(200)
            .header("content-type", "text/html")
            .body(INDEX),
        "/follow.js" => Answer::status(200)
            .header("content-type", "text/javascript")
            .body(FOLLOW),
        _ => Answer::status(404),
    });
    page
}

fn origin(page: &Receiver) -> String {
    format!("http://{}", page.addr())
}

/// A job that publishes its progress, and a browser whose page follows it.
struct Job {
    world: World,
    page: Receiver,
    browser: Browser,
    published: Vec<String>,
}

impl Job {
    async fn start() -> Self {
        let mut world = World::without_deliverer(shared_broker().await).await;
        world.add_recorder().await;
        Self {
            world,
            page: page().await,
            browser: Browser::start().await,
            published: Vec::new(),
        }
    }

    /// A gateway that lets the page read.
    async fn gateway(&self) -> (Process, Api) {
        let origin = origin(&self.page);
        // It tells all it ever would.
        let settings = [("RELAY_CORS_ORIGINS", &*origin), ("RELAY_LOG", "trace")];
        let gateway = self.world.another_gateway_with(&settings);
        let api = Api::new(&address(&gateway).await);
        api.wait_until_ready(&metrics_address(&gateway).await).await;
        (gateway, api)
    }

    /// Opens the page, with an access token that any gateway of the relay may have made.
    async fn open(&self, relay: &str) {
        self.open_for("1h", relay).await;
    }

    /// The same for so long; answers with the access token.
    async fn open_for(&self, expires_in: &str, relay: &str) -> String {
        let grant = json!({"types": ["import.*"], "subject": "import-42", "expires_in": expires_in});
        self.open_with(grant, relay).await
    }

    /// The same, with another access token.
    async fn open_with(&self, grant: Value, relay: &str) -> String {
        let api = &self.world.api;
        let granted = api.json(Method::POST, "/v1/access-tokens", Some(grant)).await;
        let access = granted["access_token"].as_str().unwrap();
        let url = format!("{}/#relay={relay}&access_token={access}", origin(&self.page));
        self.browser.open(&url).await;
        access.to_owned()
    }

    /// Publishes an event of the job, and one of another that is not to be shown.
    async fn publish(&mut self, event_type: &str, data: Value) {
        let id = format!("{event_type}-{}", self.published.len());
        for (id, subject) in [(format!("other-{id}"), "import-43"), (id.clone(), "import-42")] {
            let event = json!({"id": id, "type": event_type, "subject": subject, "data": data});
            self.world.api.json(Method::POST, "/v1/events", Some(event)).await;
        }
        self.published.push(id);
    }

    async fn progress(&mut self, percents: Range<u32>) {
        for percent in percents {
            self.publish("import.progress", json!({"percent": percent})).await;
        }
    }

    /// The events that the page shows, as it shows them.
    async fn shown(&self) -> Vec<String> {
        let ids = "return [...document.querySelectorAll('#events li')].map((item) => item.dataset.id)";
        let ids = self.browser.run(ids).await;
        serde_json::from_value(ids).unwrap()
    }

    async fn until_shown(&self, count: usize) {
        wait_until(format!("{count} events on the page"), || async {
            let shown = self.shown().await;
            if shown.len() >= count {
                Ok(())
            } else {
                Err(format!("{shown:?}"))
            }
        })
        .await;
    }

    async fn until_state(&self, wanted: &str) {
        wait_until(format!("the page to be {wanted}"), || async {
            let state = "return document.getElementById('state').textContent";
            let state = self.browser.run(state).await;
            (state == wanted).then_some(()).ok_or(state)
        })
        .await;
    }

    /// Ends the job, goes on after its end, and looks what the page made of it: every event once, in its
    /// order, and nothing after the end.
    async fn finish(&mut self) {
        self.publish("import.finished", json!({"message": "100 rows"}))
            .await;
        let all = self.published.clone();
        self.publish("import.progress", json!({"percent": 1})).await;
        self.until_state("ended").await;
        let last = self.published.last().unwrap();
        let path = "/v1/feed?subject=import-42&limit=1000";
        wait_until("the last event in the log", || async {
            let page = self.world.api.json(Method::GET, path, None).await.to_string();
            page.contains(last).then_some(()).ok_or(page)
        })
        .await;
        assert_eq!(self.shown().await, all);
        let percent = self
            .browser
            .run("return document.getElementById('progress').value");
        assert_eq!(percent.await, 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_misses_nothing_when_its_gateway_is_killed() {
    let mut job = Job::start().await;
    let (gateway, api) = job.gateway().await;
    let wire = Proxy::start(api.url()).await;
    job.publish("import.started", json!({})).await;
    job.open(&wire.url()).await;
    job.until_state("streaming").await;
    job.progress(0..20).await;
    job.until_shown(10).await;
    gateway.kill_9();
    job.until_state("reconnecting").await;
    job.progress(20..40).await;
    let (again, api) = job.gateway().await;
    wire.lead_to(api.url());
    job.until_state("streaming").await;
    job.progress(40..60).await;
    job.finish().await;
    let metrics = metrics_address(&again).await;
    let nobody = "relay_feed_followers{how=\"stream\"} 0";
    job.world.api.wait_for_metric(&metrics, nobody).await;
}

/// A page cannot know in advance which types a pattern stands for; nor may an event be taken for what a
/// browser says of the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_hears_events_of_every_type_and_takes_none_for_a_cut() {
    let mut job = Job::start().await;
    let (_gateway, api) = job.gateway().await;
    let grant = json!({"subject": "import-42", "expires_in": "1h"});
    job.open_with(grant, api.url()).await;
    job.until_state("streaming").await;
    for event_type in [
        "import.started",
        "import.row.skipped",
        "error",
        "open",
        "message",
        "disk.full",
    ] {
        job.publish(event_type, json!({})).await;
    }
    job.until_shown(6).await;
    job.until_state("streaming").await;
    job.finish().await;
}

/// Listens by the types' names, without `follow.js`, as a page may that knows them.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_type_error_is_no_error_of_a_stream_with_names() {
    let mut job = Job::start().await;
    let (_gateway, api) = job.gateway().await;
    let access = job.open_for("1h", api.url()).await;
    let grant = json!({"subject": "import-42", "expires_in": "1h"});
    let all = job
        .world
        .api
        .json(Method::POST, "/v1/access-tokens", Some(grant))
        .await;
    let all = all["access_token"].as_str().unwrap();
    assert_ne!(all, access);
    let url = format!("{}/v1/stream?after=start&access_token={all}", api.url());
    let listen = format!(
        "window.heard = []; const source = new EventSource({url:?});
        for (const name of ['error', 'open', 'message', 'import.done'])
            source.addEventListener(name, (event) => heard.push(name + ':' + (event.data ? JSON.parse(event.data).type : '')));"
    );
    job.browser.run(&listen).await;
    for event_type in ["error", "open", "message", "import.done"] {
        job.publish(event_type, json!({})).await;
    }
    let heard = wait_until("the last event", || async {
        let heard = job.browser.run("return window.heard").await;
        let last = heard.as_array().unwrap().last() == Some(&json!("import.done:import.done"));
        if last { Ok(heard) } else { Err(heard) }
    })
    .await;
    let expected = [
        "open:",
        "message:error",
        "message:open",
        "message:message",
        "import.done:import.done",
    ];
    assert_eq!(heard, json!(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_told_nothing_says_what_is_missing() {
    let job = Job::start().await;
    let page = origin(&job.page);
    for (behind, why) in [
        ("", "refused: this page was not told where the relay is"),
        (
            "#relay=http://127.0.0.1:1",
            "refused: this page was given no access token",
        ),
    ] {
        job.browser.open("about:blank").await;
        job.browser.open(&format!("{page}/{behind}")).await;
        job.until_state(why).await;
        let help = job
            .browser
            .run("return document.getElementById('help').hidden")
            .await;
        assert_eq!(help, json!(false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_stream_is_refused_goes_on_by_polling() {
    let mut job = Job::start().await;
    let (_gateway, api) = job.gateway().await;
    let door = Door::start(api.url()).await;
    job.open(&door.url).await;
    job.until_state("streaming").await;
    job.publish("import.started", json!({})).await;
    job.progress(0..10).await;
    job.until_shown(5).await;
    door.refuse_streams();
    job.progress(10..20).await;
    job.until_state("polling").await;
    job.progress(20..30).await;
    job.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_polls_where_there_are_no_streams() {
    let mut job = Job::start().await;
    let (_gateway, api) = job.gateway().await;
    job.browser.before_pages("delete window.EventSource").await;
    job.publish("import.started", json!({})).await;
    job.open(api.url()).await;
    job.until_state("polling").await;
    job.progress(0..10).await;
    job.until_shown(5).await;
    job.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_access_has_expired_says_so_and_its_token_is_in_no_log() {
    let job = Job::start().await;
    let (gateway, api) = job.gateway().await;
    let access = job.open_for("3s", api.url()).await;
    let why = "refused: the access token has expired; ask for a new one where this came from";
    job.until_state(why).await;
    let log = gateway.output();
    assert!(log.contains("TRACE") && !log.contains(&access), "{log}");
}
