//! From a folder to a broker that answers.

use std::path::Path;

use tokio::time::timeout;

use crate::folder::Owned;
use crate::identity::Identity;
use crate::ports::{Ports, Reservation};
use crate::supervisor::{STOP_LIMIT, Supervisor};
use crate::{Config, Error, ready, settings};

/// How many sets of ports a first start tries.
const PORT_ATTEMPTS: usize = 5;

pub(crate) struct Launch<'a> {
    pub(crate) config: &'a Config,
    pub(crate) server: &'a Path,
    pub(crate) folder: &'a Owned,
}

impl Launch<'_> {
    /// Starts as the folder remembers.
    pub(crate) async fn again(&self, identity: Identity) -> Result<(Identity, Supervisor), Error> {
        self.folder.vacant(STOP_LIMIT).await?;
        let reservation = self.reserve(&identity.ports)?;
        let supervisor = self.run(&identity, reservation).await?;
        Ok((identity, supervisor))
    }

    /// Starts with new ports and a new password. Ports that turn out to be taken are exchanged.
    pub(crate) async fn first(&self) -> Result<(Identity, Supervisor), Error> {
        let (ports, mut reservation) = Ports::choose()?;
        let mut identity = Identity::new(ports);
        if let Some(member) = &self.config.member {
            identity.password.clone_from(&member.secret);
        }
        for _ in 1..PORT_ATTEMPTS {
            identity.save(self.folder)?;
            match self.run(&identity, reservation).await {
                Err(Error::PortTaken { .. }) => (identity.ports, reservation) = Ports::choose()?,
                Err(error) => return Err(error),
                Ok(supervisor) => return Ok((identity, supervisor)),
            }
        }
        identity.save(self.folder)?;
        let supervisor = self.run(&identity, reservation).await?;
        Ok((identity, supervisor))
    }

    fn reserve(&self, ports: &Ports) -> Result<Reservation, Error> {
        ports.reserve(&self.folder.identity(), self.config.member.is_none())
    }

    async fn run(&self, identity: &Identity, reservation: Reservation) -> Result<Supervisor, Error> {
        let console = self.folder.vacant(STOP_LIMIT).await?;
        console
            .set_len(0)
            .map_err(Error::file("empty the console log in", self.folder.logs()))?;
        self.folder.forget_pid()?;
        settings::write(self.folder, identity, self.config)?;
        let _held = reservation.hand_over();
        let mut supervisor = Supervisor::start(self, &identity.ports, console)?;
        match self.answered(&mut supervisor, &identity.ports).await {
            Ok(()) => Ok(supervisor),
            Err(error) => {
                supervisor.let_go();
                supervisor.gone(self.folder).await?;
                Err(error)
            }
        }
    }

    async fn answered(&self, supervisor: &mut Supervisor, ports: &Ports) -> Result<(), Error> {
        let limit = self.config.start_limit;
        let outcome = timeout(limit, async {
            tokio::select! {
                biased;
                status = supervisor.ended() => status.map(Some),
                () = ready::answering(ports.amqp) => Ok(None),
            }
        });
        match outcome.await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(status))) => {
                self.reserve(ports)?;
                Err(Error::Ended {
                    status,
                    log: self.folder.logs(),
                    said: self.folder.last_words(),
                })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Silent {
                port: ports.amqp,
                limit,
                log: self.folder.logs(),
                said: self.folder.last_words(),
            }),
        }
    }
}
