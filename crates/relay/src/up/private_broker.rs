use anyhow::Context as _;
use relay_broker::{BrokerUrl, Delays};
use relay_local_broker::{Config, LocalBroker};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// The broker that belongs to this process, if one does.
pub(super) struct PrivateBroker {
    url: String,
    own: Option<Own>,
}

struct Own {
    config: Config,
    broker: Mutex<Option<LocalBroker>>,
}

impl PrivateBroker {
    /// The broker is somebody else's.
    pub(super) fn none(url: BrokerUrl) -> Self {
        Self {
            url: url.as_str().to_owned(),
            own: None,
        }
    }

    /// Starts a broker of our own.
    pub(super) async fn start(config: Config) -> anyhow::Result<Self> {
        let broker = LocalBroker::start(config.clone())
            .await
            .context("could not start the private broker")?;
        let url = broker.amqp_url().to_owned();
        Ok(Self {
            url,
            own: Some(Own {
                config,
                broker: Mutex::new(Some(broker)),
            }),
        })
    }

    /// Where it is.
    pub(super) fn url(&self) -> anyhow::Result<BrokerUrl> {
        self.url.parse().context("the private broker's address")
    }

    /// Starts it again, with the same data at the same address, whenever it ends by itself.
    pub(super) async fn attend(&self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        let mut delays = Delays::new();
        loop {
            let mut held = own.broker.lock().await;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = own.keep(&mut held) => delays.wait().await,
            }
        }
    }

    /// Stops it, if it is ours.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        if let Some(broker) = self.own.and_then(|own| own.broker.into_inner()) {
            broker.stop().await.context("could not stop the private broker")?;
        }
        Ok(())
    }
}

impl Own {
    /// Waits for its end, or starts it if it has ended.
    async fn keep(&self, held: &mut Option<LocalBroker>) {
        match held {
            Some(broker) => {
                let ended = broker
                    .exited()
                    .await
                    .map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::warn!(%ended, "the private broker ended by itself; starting it again");
                *held = None;
            }
            None => match LocalBroker::start(self.config.clone()).await {
                Ok(broker) => *held = Some(broker),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the private broker does not start"
                ),
            },
        }
    }
}
