use anyhow::Context as _;
use relay_broker::{DeadLetters, DeadMessage};

use super::{
    export::Export,
    redeliver::Redeliver,
    tally::{Stay, Tally},
};

/// What becomes of dead letters.
pub(super) enum Way {
    Redeliver(Redeliver),
    Export(Export),
    Discard,
}

impl Way {
    /// What was done, in words.
    pub(super) fn summary(&self, dry_run: bool) -> String {
        let done = match self {
            Self::Redeliver(_) => "redelivered".to_owned(),
            Self::Export(export) => format!("exported to {}", export.path().display()),
            Self::Discard => "discarded".to_owned(),
        };
        if dry_run { format!("would be {done}") } else { done }
    }

    /// Why a letter cannot go this way, if it cannot.
    pub(super) async fn stays(&mut self, message: &DeadMessage) -> Option<Stay> {
        match self {
            Self::Redeliver(redeliver) => redeliver.stays(message).await,
            // The part that this process does not have would be lost.
            Self::Export(_) => message.cut_from.map(Stay::TooLarge),
            Self::Discard => None,
        }
    }

    /// Sends letters this way, and removes each once it is safe.
    pub(super) async fn go(
        &mut self,
        letters: &DeadLetters,
        batch: Vec<DeadMessage>,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        match self {
            Self::Redeliver(_) => super::redeliver::all(letters, batch, tally).await,
            Self::Export(export) => {
                export.write(&batch)?;
                let kept = "what was written and not removed is in the file and in the queue";
                remove_all(batch, tally).await.context(kept)
            }
            Self::Discard => remove_all(batch, tally).await,
        }
    }
}

async fn remove_all(batch: Vec<DeadMessage>, tally: &mut Tally) -> anyhow::Result<()> {
    for message in batch {
        message.remove().await?;
        tally.done += 1;
    }
    Ok(())
}
