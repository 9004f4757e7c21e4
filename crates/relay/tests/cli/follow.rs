use relay_testkit::Answer;

use crate::{
    gateway::{Gateway, expired, item, page, problem},
    support::ended,
};

const FOLLOW: [&str; 2] = ["events", "follow"];

/// What the relay was asked for, without what is the same each time.
fn places(gateway: &Gateway) -> Vec<String> {
    let asked = gateway.asked().into_iter();
    asked
        .map(|line| line.replace("GET /v1/feed?limit=1000&", ""))
        .collect()
}

#[tokio::test]
async fn it_goes_on_exactly_where_it_was_through_whatever_comes() {
    let gateway = Gateway::start().await;
    gateway.receiver.script([
        page(&[], "c0", false),
        page(&[("c1", "a"), ("c2", "b")], "c2", true),
        problem(503, "the store is away"),
        Answer::Reset,
        Answer::status(502).body("<html>"),
        page(&[("c3", "c")], "c7", false),
        Answer::Hold,
    ]);
    let following = gateway.start_command(&FOLLOW);
    following.wait_for_output("order.created  c  ").await;
    gateway.receiver.wait_for(7).await;
    following.signal("INT");
    let output = ended(following).await.ok();
    assert_eq!(
        places(&gateway),
        [
            "after=now&wait=0s",
            "after=c0&wait=30s",
            "after=c2&wait=30s",
            "after=c2&wait=30s",
            "after=c2&wait=30s",
            "after=c2&wait=30s",
            "after=c7&wait=30s"
        ]
    );
    let events: Vec<&str> = output
        .lines()
        .filter(|line| line.contains("order.created"))
        .collect();
    assert_eq!(
        events,
        [
            r#"-  order.created  a  {"b":1.50,"a":1e2}"#,
            r#"-  order.created  b  {"b":1.50,"a":1e2}"#,
            r#"-  order.created  c  {"b":1.50,"a":1e2}"#
        ]
    );
    assert_eq!(output.matches("retrying").count(), 1, "{output}");
    assert_eq!(output.matches("answers again; going on").count(), 1, "{output}");
    assert!(output.contains("go on with --cursor c7"), "{output}");
}

#[tokio::test]
async fn a_beginning_in_the_past_stays_where_it_is_while_the_relay_is_away() {
    let gateway = Gateway::start().await;
    gateway.receiver.script([
        problem(503, "the store is away"),
        problem(503, "the store is away"),
        page(&[("c1", "a")], "c1", false),
        Answer::Hold,
    ]);
    let args = [
        "--since",
        "1h",
        "--types",
        "order.*,a",
        "--source",
        "/s",
        "--subject",
        "t",
    ];
    let following = gateway.start_command(&[&FOLLOW[..], &args].concat());
    gateway.receiver.wait_for(4).await;
    following.signal("TERM");
    ended(following).await.ok();
    let asked = gateway.asked();
    let filter = "GET /v1/feed?types=order.*%2Ca&source=%2Fs&subject=t&limit=1000&";
    assert!(asked[0].starts_with(&format!("{filter}since=")), "{asked:?}");
    assert!(asked[0] == asked[1] && asked[1] == asked[2], "{asked:?}");
    assert_eq!(asked[3], format!("{filter}after=c1&wait=30s"));
}

#[tokio::test]
async fn json_is_the_feed_s_item_and_what_is_no_longer_kept_is_said() {
    let gateway = Gateway::start().await;
    gateway.receiver.script([
        expired("c5"),
        page(&[("c6", "a"), ("c7", "b")], "c7", false),
        Answer::Hold,
    ]);
    let following = gateway.start_command(&[&FOLLOW[..], &["--cursor", "c1", "--json"]].concat());
    gateway.receiver.wait_for(3).await;
    following.signal("INT");
    let output = ended(following).await.ok();
    for line in [item("c6", "a"), item("c7", "b")] {
        assert!(output.lines().any(|said| said == line), "{output}");
    }
    assert!(output.contains("no longer in the log"), "{output}");
    assert_eq!(
        places(&gateway),
        ["after=c1&wait=30s", "after=c5&wait=30s", "after=c7&wait=30s"]
    );
}

/// The reader hangs up while there is nothing to print.
#[tokio::test]
async fn a_reader_that_has_read_enough_ends_it_quietly() {
    let gateway = Gateway::start().await;
    gateway
        .receiver
        .script([page(&[("c1", "a")], "c1", false), Answer::Hold]);
    let output = gateway
        .run_in_shell("relay events follow --since 1h | head -n 1")
        .await
        .ok();
    assert_eq!(output.matches("order.created").count(), 1, "{output}");
    assert!(
        !output.contains("relay:") && !output.contains("--cursor"),
        "{output}"
    );
}

#[tokio::test]
async fn empty_answers_that_were_not_waited_for_are_not_asked_for_in_a_rush() {
    let gateway = Gateway::start().await;
    gateway.receiver.respond_with(page(&[], "c0", false));
    let following = gateway.start_command(&FOLLOW);
    following.wait_for_output("following").await;
    gateway.receiver.wait_for(4).await;
    let requests = gateway.receiver.requests();
    // After 100 ms and 200 ms, each less a third.
    let waited = requests[3].arrived - requests[1].arrived;
    assert!(waited.as_millis() >= 200, "{waited:?}");
    following.signal("INT");
    ended(following).await.ok();
}

#[tokio::test]
async fn what_cannot_go_well_ends_it() {
    let gateway = Gateway::start().await;
    let refusals = [
        (problem(401, "no valid token"), "RELAY_TOKEN"),
        (
            problem(400, "after: must be the `next` of an answer"),
            "after: must be",
        ),
        (Answer::status(200).body("{}"), "not understood"),
    ];
    for (answer, says) in refusals {
        gateway.receiver.respond_with(answer);
        let output = gateway.run(&FOLLOW).await.failed(1);
        assert!(output.contains(says), "{output}");
    }
    gateway.receiver.script([page(&[("c1", "a")], "c1", false)]);
    gateway.receiver.respond_with(problem(401, "no valid token"));
    let output = gateway
        .run(&[&FOLLOW[..], &["--since", "1h"]].concat())
        .await
        .failed(1);
    assert!(output.contains("go on with --cursor c1"), "{output}");

    gateway.receiver.stop().await;
    let output = gateway.run(&FOLLOW).await.failed(1);
    assert!(output.contains("not to be running"), "{output}");
    for wrong in [
        &["--since", "yesterday"][..],
        &["--since", "1h", "--cursor", "c"],
        &["--types", "#.#.#"],
    ] {
        gateway.run(&[&FOLLOW[..], wrong].concat()).await.failed(2);
    }
}
