//! What the gateway needs to be ready. None of these ever returns.

use std::time::Duration;

use relay_broker::{Broker, Status};
use relay_service::Component;
use relay_store::Store;

/// How often the store is asked whether it is there.
const ASK: Duration = Duration::from_secs(5);

pub(crate) async fn tell_broker(broker: &Broker, component: Component) {
    let mut status = broker.status();
    loop {
        match &*status.borrow_and_update() {
            Status::Up => component.ready(),
            Status::Blocked => {
                component.not_ready("the broker takes no publishes because of a memory or disk alarm")
            }
            Status::Down(why) => component.not_ready(why.clone()),
        };
        if status.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

pub(crate) async fn tell_store(store: &Store, component: Component) {
    let mut known_ready = true;
    loop {
        let answer = store.ping().await;
        match &answer {
            Ok(()) => component.ready(),
            Err(error) => component.not_ready(error.to_string()),
        };
        match &answer {
            Err(error) if known_ready => {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "the store cannot be used; asking until it can"
                );
            }
            Ok(()) if !known_ready => tracing::info!("the store can be used again"),
            _ => {}
        }
        known_ready = answer.is_ok();
        tokio::time::sleep(ASK).await;
    }
}
