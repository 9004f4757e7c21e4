use relay_broker::Queue;
use serde_json::Value;

use crate::support::World;

#[tokio::test]
async fn an_event_of_the_command_line_arrives_whole() {
    let world = World::new().await;
    let args = ["publish", "--type", "order.created", "--data", r#"{"n": 1.50}"#];
    let id = world.run(&[&args[..], &["--subject", "o-1"]].concat()).await.ok();

    let mut taken = world.session.consume(Queue::Work, 1).await.unwrap();
    let mut message = taken.next().await.unwrap();
    let received = message.read(&world.session, 1 << 20);
    let event = received.event.as_ref().unwrap();
    assert_eq!(event.id().as_str(), id);
    assert!(event.body().ends_with(br#""data":{"n": 1.50}}"#));
    let json: Value = serde_json::from_slice(event.body()).unwrap();
    assert_eq!(
        (&json["source"], &json["subject"]),
        (&"/cli".into(), &"o-1".into())
    );
    message.give_back().await;
    taken.stop().await;

    let own = world
        .run(&["publish", "--type", "order.created", "--id", "mine"])
        .await
        .ok();
    assert_eq!(own, "mine");
}

#[tokio::test]
async fn wrong_usage_publishes_nothing() {
    let world = World::new().await;
    for args in [
        &["publish"][..],
        &["publish", "--type", "a.*"],
        &["publish", "--type", "a.*", "--via", "http"],
        &["publish", "--type", "a", "--source", "a b"],
        &["publish", "--type", "a", "--data", "{"],
        &["publish", "--type", "a", "--id", "two\nlines"],
        &["publish", "--type", "a", "--file", "x"],
        &["publish", "--type", "a", "--via", "pigeon"],
    ] {
        world.run(args).await.failed(2);
    }
    assert_eq!(world.depth(Queue::Archive).await, 0);
}
