//! Whether the store is there; asking never ends.

use std::time::Duration;

use relay_service::Component;
use relay_store::Store;

/// How often the store is asked whether it is there.
const ASK: Duration = Duration::from_secs(5);

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
